"""Time each metric of generated texts, for one sub-model and for four, whose references are read once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import timing

from rankbench.settings.metrics import METRICS
from rankbench.tasks.metrics.text import columns

SLOW = ("ter", "ter_webnlg")
FAST = [name for name, own in METRICS.items() if own.generated and own.kept and not own.java and name not in SLOW]


def texts(rows: int, references: int) -> tuple[list[str], list[list[str]]]:
    """Made-up texts of 15 to 30 words of 600, and of each row references that share most of them."""
    draw = np.random.default_rng(0)
    letters = np.array(list("abcdefghilmnoprstuvw"))
    known = np.array(["".join(draw.choice(letters, draw.integers(2, 9))) for _ in range(600)])
    made, wanted = [], []
    for _ in range(rows):
        first = draw.choice(known, draw.integers(15, 30))
        others = [np.where(draw.random(len(first)) < 0.7, first, draw.choice(known, len(first))) for _ in range(8)]
        made.append(" ".join(first) + ".")
        wanted.append([f"{' '.join(words[:-2])}, {' '.join(words[-2:])}." for words in others[:references]])
    return made, wanted


def main() -> None:
    parser = timing.arguments(__doc__, repeats=5)
    parser.add_argument("--rows", type=int, default=630, help="texts")
    parser.add_argument("--references", type=int, default=8, help="references of each, at most 8")
    asked = parser.parse_args()
    made, wanted = texts(asked.rows, asked.references)

    def side(names: list[str], members: int) -> Callable[[int], Callable[[], object]]:
        return lambda _: lambda: columns(names, [made] * members, wanted)

    sides = {name: side([name], 1) for name in FAST}
    sides |= {"all of these": side(FAST, 1), "all of these, four sub-models": side(FAST, 4)}
    seconds = timing.alternate(sides, asked.repeats)
    rows = [[name, *timing.spread(values)] for name, values in seconds.items()]
    text = timing.table(["seconds", "min", "median", "max"], rows)
    timing.report(asked, text, {"seconds": seconds}, ("float64", "metrics need no model"))


if __name__ == "__main__":
    main()
