"""What each method reaches for what its trainings cost: runs of several lengths, a search's trainings added up."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import pandas as pd

from rankbench.errors import RequestError
from rankbench.records.record import Paths, load_records
from rankbench.settings.metrics import times, unit
from rankbench.tables import labels
from rankbench.tables.comparisons.bests import areas, best_of, metric_name, places, spread_of
from rankbench.tables.comparisons.curves import Curve, Paid, complete, curves, left_aside, shared_ranks
from rankbench.tables.comparisons.ranks import of_one
from rankbench.tables.layout import Block, deviation, frame, spread
from rankbench.tables.shown import by, first_metric, having

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = dict[tuple[str, str], dict[int, Curve]]  # method and length of training -> seed -> curve
LENGTH = ("train.epochs", "train.max_steps")


def budget(path: Paths, metric: str | None = None) -> list[Block]:
    """A row for each method and length of training: steps and seconds of all its trainings, area under the curve, best.

    Area, best and what they cost are over the same ranks (`shared_ranks`). A method that has fewer, or a whole model,
    has its best and no area; seeds that lack a rank of their method's are left out. Raises RequestError where no run is
    done, they are of several tasks or models, or share no rank.
    """
    records, metric, found, ranks = _found(path, metric)
    rows = {}
    for (name, length), seeds in found.items():
        whole = complete(seeds, ranks)
        best = [best_of(curve, ranks, metric) for curve in whole]
        paid = [curve.over(ranks) for curve in whole]
        rows[f"{name}, {length}"] = [
            f"{statistics.mean(map(len, paid)):g}" if whole else "-",
            f"{_steps(paid):,.0f}" if whole else "-",
            spread([curve.took(ranks) for curve in whole], 0) if whole else "-",
            spread_of([times(metric) * area for area in areas(whole, ranks)], metric),
            spread_of([times(metric) * c.values[rank] for rank, c in zip(best, whole, strict=True)], metric),
            places(best),
            str(len(whole)),
        ]
    what = f"{records[0]['config']['task']['name']}, {records[0]['config']['model']['name']}"
    lacking = left_aside({f"{name}, {length}": seeds for (name, length), seeds in found.items()}, ranks)
    caption = (
        f"{what}: {unit(metric)} by the steps of all trainings. AURAC, the mean over log2 rank, and the best are over "
        f"ranks {', '.join(map(str, ranks))}; the best was chosen on the scored examples themselves.{lacking}"
    )
    head = ["trainings", "steps in all", "seconds in all", "AURAC", f"best {metric_name(metric)}", "at rank", "seeds"]
    return [Block(caption, frame(rows, head, "method"), by(records, metric))]


def pictures(path: Paths, metric: str | None = None) -> list[Figure]:
    """The area under each method's curve against the steps of all its trainings."""
    from rankbench.tables import plots

    records, metric, found, ranks = _found(path, metric)
    rows = []
    for (name, _), seeds in found.items():
        whole = complete(seeds, ranks)
        if area := areas(whole, ranks):
            steps = round(_steps([curve.over(ranks) for curve in whole]))
            rows.append((name, steps, statistics.mean(area), deviation(area), len(area)))
    table = pd.DataFrame(rows, columns=["label", "steps", "mean", "std", "n"])
    title = f"{labels.title(records)}: area under the curve over ranks"
    return [plots.curve(table, metric, title, "steps")] if rows else []


def _steps(paid: list[list[Paid]]) -> float:
    return statistics.mean(sum(one.steps for one in each) for each in paid)


def _found(path: Paths, metric: str | None) -> tuple[list[dict[str, Any]], str, Found, list[int]]:
    """The runs, the metric, the curves by method and length, shortest first, and the ranks that they share."""
    records = of_one(load_records(path))
    metric = metric or first_metric(records[0])
    records = having(records, metric)
    by_length: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["training"]["steps"]):
        by_length.setdefault(_length(record), []).append(record)
    found: Found = {}
    for length, alike in by_length.items():
        for name, seeds in curves(alike, metric, records, LENGTH).items():
            found[name, length] = seeds
    names = list(dict.fromkeys(name for name, _ in found))
    found = {key: seeds for name in names for key, seeds in found.items() if key[0] == name}
    ranks = shared_ranks({f"{name}, {length}": seeds for (name, length), seeds in found.items()})
    if not ranks:
        raise RequestError(
            "budget compares methods over ranks that they share, and these runs share none; give "
            "evaluate.submodels the same ranks in each, or leave runs out"
        )
    return records, metric, found, ranks


def _length(record: dict[str, Any]) -> str:
    """How long a run was asked to train, in words."""
    train = record["config"]["train"]
    if train["max_steps"] is not None:
        return f"{train['max_steps']:,} steps"
    return f"{train['epochs']:g} epoch{'' if train['epochs'] == 1 else 's'}"
