"""What was measured, as the record, metrics.csv and predictions.parquet have it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.settings.train import Keep, Train

if TYPE_CHECKING:
    from rankbench.training.checkpoints import Progression
    from rankbench.training.selection import Judge


@dataclass(frozen=True)
class Measured:
    """The sub-models as trained or cut in one way: their scores, those on test splits, and the record's entries."""

    scores: list[Any]
    tests: list[Any]
    rows: list[dict[str, Any]]


def metrics_csv(past: Progression) -> str:
    """Losses and periodic evaluations as CSV: step, kind, rank, depth, metric, value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "kind", "rank", "depth", "metric", "value"])
    rows: list[tuple[int, list[Any]]] = []
    for entry in past.losses:
        keys = [key for key in entry if key not in ("step", "submodel")]
        rows += [(entry["step"], [entry["step"], "train", "", "", key, entry[key]]) for key in keys]
    for entry in past.evaluations:
        rank, depth = entry["rank"] or "", entry["depth"] or ""
        rows.append((entry["step"], [entry["step"], "validation", rank, depth, entry["metric"], entry["value"]]))
    writer.writerows(row for _, row in sorted(rows, key=lambda r: r[0]))
    return out.getvalue()


def selected(settings: Train, judge: Judge | None, past: Progression) -> dict[str, Any]:
    """Of a training that its evaluations decided: the step whose weights were kept, and where it stopped early."""
    if judge is None:
        return {}
    best = past.best or {"step": past.step, "value": None}
    told = {"step": best["step"], "value": best["value"], "by": str(judge)}
    stopped = {"stopped_early": {"step": past.step, "patience": settings.patience, "best": told}}
    return ({"kept": told} if settings.keep is Keep.best else {}) | (stopped if past.stopped else {})


def entry(score: Any, adapter: Any, validation: list[Any], names: tuple[str, ...] | None) -> dict[str, Any]:
    """A sub-model as the record has it."""
    one = _one_class(score, validation, names) if names else _one_value(score, validation)
    return {
        "rank": score.submodel.rank,
        "depth": score.submodel.depth,
        "metrics": score.metrics,
        "n": score.n,
        "parameters": asdict(adapter.count(score.submodel)),
        "eval_seconds": score.seconds,
        **({"generated": asdict(score.generated)} if score.generated else {}),
        **({"one_class" if names else "one_value": one} if one is not None else {}),
    }


def _one_class(score: Any, validation: list[Any], names: tuple[str, ...]) -> str | None:
    """The class that a sub-model answers for every example, where the labels are of several; None otherwise."""
    import numpy as np

    said = {int(one) for split in validation for one in np.unique(score.predictions[split.name]["prediction"])}
    true = {int(one) for split in validation for one in np.unique(split.labels)}
    return names[said.pop()] if len(said) == 1 and len(true) > 1 else None


def _one_value(score: Any, validation: list[Any]) -> str | None:
    """The value that a regression answers for every example; None where it answers several, or texts."""
    import numpy as np

    if any(split.references for split in validation):
        return None
    said = np.concatenate([score.predictions[split.name]["prediction"] for split in validation])
    return f"{said[0]:.4g}" if np.ptp(said) == 0 else None


def _flat(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns (n,), with `score_I` for the probability of class I."""
    scores = columns.get("scores")
    split = {} if scores is None else {f"score_{i}": scores[:, i] for i in range(scores.shape[1])}
    return {name: column for name, column in columns.items() if name != "scores"} | split


def write_predictions(
    file: Path, trained: Measured, by_cut: Mapping[str, Measured], validation: Sequence[Any], test: Sequence[Any]
) -> None:
    """Every prediction of every sub-model; where there are cuts the column `cut` says which, empty for the trained."""
    import pandas as pd

    every: list[tuple[str | None, Measured]] = [(None, trained), *by_cut.items()]
    parts = [
        pd.DataFrame(
            {
                "rank": pd.array([score.submodel.rank] * len(split), dtype="Int64"),
                "depth": pd.array([score.submodel.depth] * len(split), dtype="Int64"),
                **({"cut": how} if by_cut else {}),
                "split": split.name,
                **({"group": split.groups} if split.groups else {}),
                "index": split.index,
                **_flat(score.predictions[split.name]),
                "reference": [(*answers, "")[0] for answers in split.references] if split.references else split.labels,
            }
        )
        for splits, of in ((validation, "scores"), (test, "tests"))
        for how, measured in every
        for score in getattr(measured, of)
        for split in splits
    ]
    aside = file.with_name(f".{file.name}")
    pd.concat(parts, ignore_index=True).to_parquet(aside, index=False)
    os.replace(aside, file)
