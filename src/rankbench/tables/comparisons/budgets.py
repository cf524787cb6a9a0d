"""What each method reaches for what its trainings cost: runs of several lengths, a search's trainings added up."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import pandas as pd

from rankbench.errors import RequestError
from rankbench.records.record import Paths, load_records
from rankbench.settings.metrics import rises, times, unit
from rankbench.tables import labels
from rankbench.tables.comparisons.bests import metric_name, spread_of
from rankbench.tables.comparisons.curves import Curve, curves
from rankbench.tables.comparisons.ranks import of_one
from rankbench.tables.layout import Block, frame, spread
from rankbench.tables.shown import by, first_metric, having
from rankbench.tables.stats import aurac

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Seeds = list[Curve]


def budget(path: Paths, metric: str | None = None) -> list[Block]:
    """A row for each method and length of training: steps and seconds of all its trainings, area under the curve, best.

    Area and best are over the ranks that every method measured. Raises RequestError where no run is done, they are of
    several tasks or models, or share no rank.
    """
    records, metric, found, ranks = _found(path, metric)
    rows = {}
    for (name, epochs), seeds in found.items():
        best = [(max if rises(metric) else min)(ranks, key=curve.values.__getitem__) for curve in seeds]
        rows[f"{name}, {epochs}"] = [
            f"{statistics.mean(curve.trainings for curve in seeds):.2g}",
            f"{statistics.mean(curve.steps for curve in seeds):,.0f}",
            spread([curve.seconds for curve in seeds], 0),
            spread_of([_area(curve, ranks, metric) for curve in seeds], metric),
            spread_of([times(metric) * curve.values[rank] for rank, curve in zip(best, seeds, strict=True)], metric),
            ", ".join(str(rank) for rank in sorted(set(best))),
            str(len(seeds)),
        ]
    what = f"{records[0]['config']['task']['name']}, {records[0]['config']['model']['name']}"
    caption = (
        f"{what}: {unit(metric)} by the steps of all trainings. AURAC, the mean over log2 rank, and the best are over "
        f"ranks {', '.join(map(str, ranks))}; the best was chosen on the scored examples themselves."
    )
    head = ["trainings", "steps in all", "seconds in all", "AURAC", f"best {metric_name(metric)}", "at rank", "seeds"]
    return [Block(caption, frame(rows, head, "method"), by(records, metric))]


def pictures(path: Paths, metric: str | None = None) -> list[Figure]:
    """The area under each method's curve against the steps of all its trainings."""
    from rankbench.tables import plots

    records, metric, found, ranks = _found(path, metric)
    rows = []
    for (name, _), seeds in found.items():
        areas = [_area(curve, ranks, metric) / times(metric) for curve in seeds]
        deviation = statistics.stdev(areas) if len(areas) > 1 else 0.0
        steps = round(statistics.mean(curve.steps for curve in seeds))
        rows.append((name, steps, statistics.mean(areas), deviation, len(areas)))
    table = pd.DataFrame(rows, columns=["label", "steps", "mean", "std", "n"])
    return [plots.curve(table, metric, f"{labels.title(records)}: area under the curve over ranks", "steps")]


def _found(
    path: Paths, metric: str | None
) -> tuple[list[dict[str, Any]], str, dict[tuple[str, str], Seeds], list[int]]:
    """The runs, the metric, the curves by method and length, shortest first, and the ranks that all of them have."""
    records = of_one(load_records(path))
    metric = metric or first_metric(records[0])
    records = having(records, metric)
    by_length: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["training"]["steps"]):
        by_length.setdefault(_length(record), []).append(record)
    found: dict[tuple[str, str], Seeds] = {}
    for length, alike in by_length.items():
        for name, seeds in curves(alike, metric).items():
            found[name, length] = list(seeds.values())
    names = list(dict.fromkeys(name for name, _ in found))
    found = {key: seeds for name in names for key, seeds in found.items() if key[0] == name}
    every = [set(curve.values) - {None} for seeds in found.values() for curve in seeds]
    ranks = sorted(rank for rank in set.intersection(*every) if rank is not None)
    if not ranks:
        raise RequestError(
            "budget compares methods over the ranks that all of them measured, and these runs share none; give "
            "evaluate.submodels the same ranks in each, or leave runs out"
        )
    return records, metric, found, ranks


def _length(record: dict[str, Any]) -> str:
    """How long a run was asked to train, in words."""
    train = record["config"]["train"]
    if train["max_steps"] is not None:
        return f"{train['max_steps']:,} steps"
    return f"{train['epochs']:g} epoch{'' if train['epochs'] == 1 else 's'}"


def _area(curve: Curve, ranks: list[int], metric: str) -> float:
    return times(metric) * aurac(ranks, [curve.values[rank] for rank in ranks])
