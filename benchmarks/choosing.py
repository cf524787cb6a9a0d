"""How often `table choose_rank` says something false: over made-up runs whose true scores are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timing

from rankbench.tables import choice, metric_sums
from rankbench.tables.measured import Measured, Member, Trained

SHARE, BEHIND = 0.8, 0.02  # the true accuracy, and how far the lower half of the ranks lies behind it
AGREE = (0.85, 0.99)  # the share of examples on which neighbouring ranks agree


def made_up(
    draw: np.random.Generator, k: int, n: int, groups: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Right answers (k, n) of ranks of which each agrees with its neighbour as ranks do, and their true accuracies.

    An example has a difficulty for each rank, that of the rank before or with a small chance a new one.
    """
    true = np.full(k, SHARE)
    true[: k // 2] -= BEHIND * (groups - 1)
    anew = (1 - draw.uniform(*AGREE)) / (2 * SHARE * (1 - SHARE))
    difficulty = np.tile(draw.random(n), (k, 1))
    for rank in range(1, k):
        difficulty[rank] = np.where(draw.random(n) < anew, draw.random(n), difficulty[rank - 1])
    return difficulty < true[:, None], true


def false(
    hits: npt.NDArray[np.bool_], true: npt.NDArray[np.float64], margin: float, resamples: int
) -> tuple[bool, bool]:
    """Whether anything that `choose_rank` says of these answers is false, and whether it names a rank."""
    sums = metric_sums.sums("accuracy", {"prediction": hits}, np.ones(hits.shape[1], dtype=bool))
    subs = [{"rank": rank + 1, "depth": None} for rank in range(len(true))]
    members = [Member("", "", {0: Trained(Path(), {}, sub)}) for sub in subs]
    found = choice.Found.of(Measured("accuracy", members, sums, [False] * len(subs), None, []), margin, resamples)
    rounding = 1e-9
    gaps, best = true - true[found.best], found.best
    missed = (found.pairs.low[:, best] > gaps + rounding) | (found.pairs.high[:, best] < gaps - rounding)
    behind = 100 * (true - true.max())  # of each rank, in points
    named = [place for place in found.within if behind[place] < -margin - rounding]
    denied = (found.most < -margin) & (behind >= -margin - rounding)
    excluded = (found.most < 0) & (behind >= -rounding)  # of those that "may be the best"
    bound = found.within[:1]  # the rank that is named is at most so far behind, or so far ahead
    ahead = [100 * (true[place] - np.delete(true, place).max()) for place in bound]
    wrong = [found.least[place] > gap + rounding for place, gap in zip(bound, ahead, strict=True)]
    return bool(np.delete(missed, best).any() or named or denied.any() or excluded.any() or any(wrong)), bool(bound)


def errors(k: int, n: int, groups: int, sets: int, resamples: int, margin: float = 0.5) -> tuple[float, float]:
    """The share of runs of which something false is said, and of those for which a rank is named."""
    draw = np.random.default_rng([k, n, groups])
    said = np.array([false(*made_up(draw, k, n, groups), margin, resamples) for _ in range(sets)])
    return float(said[:, 0].mean()), float(said[:, 1].mean())


def main() -> None:
    parser = timing.arguments(__doc__ or "", repeats=1)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--examples", type=int, nargs="+", default=[277, 408, 872, 2000])
    parser.add_argument("--sets", type=int, default=2000, help="made-up runs of each kind")
    parser.add_argument("--resamples", type=int, default=1000)
    asked = parser.parse_args()
    rows, lines = [], []
    for groups, kind in ((1, "equal"), (2, "two groups")):
        for k in asked.ranks:
            for n in asked.examples:
                wrong, named = errors(k, n, groups, asked.sets, asked.resamples)
                rows.append({"ranks": k, "examples": n, "true_scores": kind, "false": wrong, "named": named})
                lines.append([kind, str(k), str(n), f"{100 * wrong:.1f}", f"{100 * named:.1f}"])
                print(" ".join(lines[-1]), file=sys.stderr, flush=True)
    text = timing.table(["true scores", "ranks", "examples", "something false, %", "a rank named, %"], lines)
    timing.report(asked, text, {"rows": rows}, ("float64", "counts"))


if __name__ == "__main__":
    main()
