"""Time what reads finished runs: table choose_rank over many ranks and examples, and load_runs over many records."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import subject
import timing

from rankbench import load_runs
from rankbench.settings import identity
from rankbench.tables import choice


def a_record(run_id: str, settings: dict[str, object], ranks: int, n: int, scores: dict[str, list[float]]) -> str:
    """A made-up record as JSON, its parts as long as a short run leaves them."""
    submodels = [
        {
            "rank": rank,
            "depth": None,
            "metrics": {metric: values[rank - 1] for metric, values in scores.items()},
            "n": n,
            "parameters": {"adapter": 1152 * rank, "head": 770, "trainable": 1152 * rank + 770, "total": 23_000_000},
            "eval_seconds": 3.5,
        }
        for rank in range(1, ranks + 1)
    ]
    training = {
        "steps": 1000,
        "seconds": 500.0,
        "examples_per_second": 64.0,
        "peak_memory_bytes": 2**30,
        "loss_curve": [[step, 0.5] for step in range(10, 1010, 10)],
        "evaluations": [],
    }
    whole = {"schema": 1, "run_id": run_id, "status": "done", "config": settings, "submodels": submodels}
    return json.dumps(whole | {"training": training, "environment": {}, "data": {}, "backbone": {}}, indent=1)


def a_run(folder: Path, ranks: int, n: int, settings: dict[str, object]) -> Path:
    """A made-up run whose ranks are right on 80 to 85 % of `n` examples, much the same ones."""
    drawn = np.random.default_rng(0)
    hard, noise = drawn.random(n), drawn.normal(scale=0.02, size=(ranks, n))
    right = hard + noise < np.linspace(0.80, 0.85, ranks)[:, None]
    labels = drawn.integers(2, size=n)
    frame = pd.DataFrame(
        {
            "rank": pd.array(np.repeat(np.arange(1, ranks + 1), n), dtype="Int64"),
            "depth": pd.array([None] * (ranks * n), dtype="Int64"),
            "split": "validation",
            "index": np.tile(np.arange(n), ranks),
            "prediction": np.where(right, labels, 1 - labels).ravel(),
            "reference": np.tile(labels, ranks),
        }
    )
    folder.mkdir()
    frame.to_parquet(folder / "predictions.parquet", index=False)
    (folder / "record.json").write_text(a_record(folder.name, settings, ranks, n, {"accuracy": right.mean(1).tolist()}))
    return folder


def many_records(folder: Path, count: int, settings: dict[str, object]) -> Path:
    """`count` made-up records of 8 ranks and two metrics, in a folder each."""
    scores = {metric: [0.8 + rank / 100 for rank in range(8)] for metric in ("accuracy", "f1")}
    for number in range(count):
        place = folder / f"run-{number:05}"
        place.mkdir(parents=True)
        (place / "record.json").write_text(a_record(place.name, settings | {"seed": number}, 8, 408, scores))
    return folder


def main() -> None:
    parser = timing.arguments(__doc__, repeats=3)
    parser.add_argument("--ranks", type=int, default=64, help="ranks of the run that choose_rank looks at")
    parser.add_argument("--examples", type=int, default=10_000, help="its examples")
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 10_000], help="records that load_runs reads")
    asked = parser.parse_args()

    settings = identity.settings(subject.run("task=mrpc", "adapter=dylora"))
    with tempfile.TemporaryDirectory() as made:
        run = a_run(Path(made) / "run", asked.ranks, asked.examples, settings)
        name = f"choose_rank, {asked.ranks} ranks x {asked.examples:,} examples"
        sides: dict[str, Callable[[int], Callable[[], object]]] = {name: lambda _: lambda: choice.choose_rank(run)}
        for count in asked.records:
            folder = many_records(Path(made) / str(count), count, settings)
            sides[f"load_runs, {count:,} records"] = lambda _, folder=folder: lambda: load_runs(folder)
        seconds = timing.alternate(sides, asked.repeats)
    rows = [[name, *timing.spread(values)] for name, values in seconds.items()]
    text = timing.table(["seconds", "min", "median", "max"], rows)
    timing.report(asked, text, {"seconds": seconds}, ("float64", "statistics need no model"))


if __name__ == "__main__":
    main()
