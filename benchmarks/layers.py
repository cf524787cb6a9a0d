"""Whether a rank for each layer beats one rank everywhere with as many parameters, on rows that did not choose."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import timing

from rankbench.records.finished import finished
from rankbench.settings.metrics import times
from rankbench.shipping.layer_ranks import choose
from rankbench.tables.stats import permutation


def main() -> None:
    parser = timing.arguments(__doc__, repeats=1)
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs of adapter=lora or dylora")
    parser.add_argument("--budget", type=int, default=2, help="as many parameters as this rank has in every layer")
    parser.add_argument("--examples", type=int, help="validation rows to draw, half of which choose (all)")
    parser.add_argument("--data-dir", type=Path, help="a folder with the data of each task in a folder of its name")
    asked = parser.parse_args()
    found: list[dict[str, object]] = []
    differences: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    lines = []
    for folder in asked.runs:
        run = finished(folder)
        task, method, seed = run.run.task.name, run.note["method"], run.run.seed
        choice = choose(
            run.with_data(str(asked.data_dir / task) if asked.data_dir else None), asked.budget, examples=asked.examples
        )
        for scored in choice.scores:
            unit = times(scored.metric)
            own, everywhere = (unit * scored.values[way] for way in ("chosen", f"rank {asked.budget}"))
            differences[task, method, scored.metric].append(own - everywhere)
            values = {way: unit * value for way, value in scored.values.items()}
            low, high = unit * scored.low, unit * scored.high
            found.append(
                {"task": task, "method": method, "seed": seed, "metric": scored.metric, "values": values}
                | {"interval": [low, high], "ranks": list(choice.ranks.values()), "rows": len(choice.halves[1])}
            )
            lines.append(
                [
                    f"{task}, {method}, seed {seed}: {scored.metric}",
                    *(f"{own:.3f}", f"{everywhere:.3f}", f"{own - everywhere:+.3f}", f"{low:+.3f} to {high:+.3f}"),
                ]
            )
    for (task, method, metric), values in differences.items():
        if len(values) > 1:
            over = permutation(values)
            lines.append(
                [
                    f"{task}, {method}, mean of {len(values)}: {metric}",
                    *("", "", f"{over.mean:+.3f}", f"{over.low:+.3f} to {over.high:+.3f}"),
                ]
            )
    head = ["", "a rank for each layer", f"rank {asked.budget} everywhere", "difference", "95 % interval"]
    said = "Intervals of a run are over its rows (paired bootstrap), those of a mean over its runs (t)."
    timing.report(asked, f"{timing.table(head, lines)}\n\n{said}", {"choices": found}, ("fp32", "as trained"))


if __name__ == "__main__":
    main()
