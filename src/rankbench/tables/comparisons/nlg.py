"""Text from data at each rank of each method, by every metric: the shape of DyLoRA's Tables 6 and 9."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from rankbench.records.record import Paths, load_records
from rankbench.settings.metrics import METRICS, base, times, unit
from rankbench.tables.comparisons import published
from rankbench.tables.comparisons.bests import metric_name, spread_of
from rankbench.tables.comparisons.curves import Curve, Curves, curves
from rankbench.tables.layout import Block, frame
from rankbench.tables.shown import by, first_metric, having, scored


def nlg(path: Paths, metric: str | None = None) -> list[Block]:
    """A block for each task and model: a row for each method and rank, its trained parameters, a column a metric.

    The columns are the metrics of the first one's split and those of groups of its rows, or `metric` alone. Values on
    test splits have a block of their own.
    """
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    records = load_records(path)
    for record in scored(records) if metric is None else having(records, metric):
        alike.setdefault((record["config"]["task"]["name"], record["config"]["model"]["name"]), []).append(record)
    blocks = []
    for (task, model), own in sorted(alike.items()):
        columns = [metric] if metric is not None else _columns(own)
        found = {column: curves(own, column) for column in columns}
        what, units = f"{task}, {model}", ", ".join(map(unit, columns))
        shown = by(having(own, columns[0]), columns[0])
        blocks.append(Block(f"{what}: {units}{_seeds(found[columns[0]])}.", _rows(found, _chosen), shown))
        if any(any(curve.test.values()) for seeds in found[columns[0]].values() for curve in seeds.values()):
            blocks.append(Block(f"{what}, on the test splits: {units}.", _rows(found, _tested)))
    return [*blocks, *published.nlg()]


def _columns(records: list[dict[str, Any]]) -> list[str]:
    """The first run's metrics that are of the first one's split, then those of each group of its rows."""
    first, have = first_metric(records[0]), list(records[0]["submodels"][0]["metrics"])
    where = first.removeprefix(str(base(first)))
    groups = ["", *(f"_{group}" for group in records[0]["config"]["task"].get("groups") or {})]
    wanted = [f"{name}{where}{group}" for group in groups for name in METRICS]
    return sorted((name for name in have if name in wanted), key=lambda name: _group(name, where, groups))


def _group(metric: str, where: str, groups: Sequence[str]) -> int:
    return groups.index(metric.removeprefix(str(base(metric))).removeprefix(where))


def _rows(found: dict[str, Curves], value: Callable[[Curve, int | None, str], float | None]) -> pd.DataFrame:
    """A row for each method and rank of each block, every metric the mean over seeds."""
    every = next(iter(found.values()))
    rows: dict[str, list[str]] = {}
    for name, seeds in every.items():
        ranks = {rank for curve in seeds.values() for rank in curve.values}
        for rank in sorted(ranks, key=lambda rank: rank or 10**9):
            own = [curve for curve in seeds.values() if rank in curve.values]
            cells = [f"{statistics.mean(curve.trainable[rank] for curve in own) / 1e6:.2f}"]
            for metric, curves_of in found.items():
                given = [value(curve, rank, metric) for curve in curves_of.get(name, {}).values()]
                cells.append(spread_of([times(metric) * one for one in given if one is not None], metric))
            rows[name if rank is None else f"{name}, rank {rank}"] = cells
    return frame(rows, ["trained, millions", *map(metric_name, found)], "method")


def _chosen(curve: Curve, rank: int | None, metric: str) -> float | None:
    return curve.values.get(rank)


def _tested(curve: Curve, rank: int | None, metric: str) -> float | None:
    """The value on the test splits: under the metric's own name, or the first of several splits'."""
    own = curve.test.get(rank, {})
    return own.get(metric, next(iter(own.values()), None))


def _seeds(found: Curves) -> str:
    counts = {len(seeds) for seeds in found.values()}
    return ", one seed" if counts == {1} else ", mean ± standard deviation over seeds"
