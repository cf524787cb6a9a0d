"""One nested run against the search that it replaces, a LoRA for each of its ranks: seconds, in turns."""

from __future__ import annotations

import tempfile
import time

import subject
import timing

from rankbench.runs.life import execute


def main() -> None:
    parser = timing.arguments(__doc__, repeats=3)
    parser.add_argument("--data-dir", default="glue/sst2", help="a folder with train.jsonl")
    parser.add_argument("--rows", type=int, default=5000, help="rows to train on, once")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8], help="of the search; the last is R")
    parser.add_argument("--adapter", default="dylora", help="the nested one")
    asked = parser.parse_args()
    task, said = subject.task(asked.data_dir, asked.rows)
    sides = {f"lora, r={r}": ["adapter=lora", f"adapter.r={r}", f"evaluate.submodels=[{r}]"] for r in asked.ranks}
    ranks = ",".join(map(str, asked.ranks))
    sides[asked.adapter] = [f"adapter={asked.adapter}", f"adapter.r={asked.ranks[-1]}", f"evaluate.submodels=[{ranks}]"]
    training: timing.Seconds = {name: [] for name in sides}
    whole: timing.Seconds = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as runs:
        for i in range(-1, asked.repeats):
            for name, words in sides.items():
                run = subject.run(*task, *words, "train.epochs=1", f"seed={i + 1}", f"runs_dir={runs}")
                start = time.perf_counter()
                record = execute(run)
                if i >= 0:  # the first turn warms up
                    whole[name].append(time.perf_counter() - start)
                    training[name].append(record["training"]["seconds"])
    rows = []
    for what, seconds in (("training", training), ("whole run", whole)):
        search = [sum(turn) for turn in zip(*(seconds[name] for name in list(sides)[:-1]), strict=True)]
        nested = seconds[asked.adapter]
        rows.append([f"search, {what}", *timing.spread(search), f"{timing.ratio(search, nested):.2f}"])
        rows.append([f"{asked.adapter}, {what}", *timing.spread(nested), "1.00"])
    text = timing.table(["seconds", "min", "median", "max", "ratio"], rows)
    figures = {"training_seconds": training, "whole_run_seconds": whole}
    timing.report(asked, f"{text}\n\n{said}", figures, ("fp32", "as asked"))


if __name__ == "__main__":
    main()
