"""The best rank of each method, chosen on validation, its cost, and its value on test splits where there are any."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from rankbench.settings.metrics import rises, times
from rankbench.tables.comparisons.curves import Curves
from rankbench.tables.layout import Block, frame, spread
from rankbench.tables.stats import aurac


def bests(found: Curves, metric: str, ranks: list[int], nested: list[str]) -> Block:
    """A row for each method: its best over these ranks, or all, where that is, and its cost beside a nested run's."""
    reported = ", and what that rank has on the test splits, by which nothing was chosen" if _tests(found) else ""
    return Block(
        f"Best over {'ranks ' + ', '.join(map(str, ranks)) if ranks else 'all measured ranks'}, chosen on the scored "
        f"examples themselves{reported}; AURAC: mean of the curve over log2 rank; seconds of all its trainings, and "
        "these over one nested run's.",
        _rows(found, metric, ranks, nested),
    )


def _tests(found: Curves) -> list[str]:
    """The metrics of test splits that any of these curves has."""
    every = (own for seeds in found.values() for curve in seeds.values() for own in curve.test.values())
    return list(dict.fromkeys(name for own in every for name in own))


def _rows(found: Curves, metric: str, ranks: list[int], nested: list[str]) -> pd.DataFrame:
    factor, upwards = times(metric), rises(metric)
    base = [curve.seconds for name in nested[:1] for curve in found[name].values()]
    rows = {}
    tests = _tests(found)
    for name, seeds in found.items():
        best, at, area = [], Counter[Any](), []
        test: dict[str, list[float]] = {name: [] for name in tests}
        for curve in seeds.values():
            own = {rank: value for rank, value in curve.values.items() if not ranks or rank in ranks}
            if not own:
                continue
            rank = (max if upwards else min)(own, key=own.__getitem__)
            best.append(factor * own[rank])
            at[rank] += 1
            for of_test, value in curve.test[rank].items():
                test[of_test].append(times(of_test) * value)
            if len(own) > 1:
                area.append(factor * aurac([rank or 1 for rank in own], list(own.values())))
        seconds = [curve.seconds for curve in seeds.values()]
        ratio = f"{statistics.mean(seconds) / statistics.mean(base):.2f}" if base else "-"
        rows[name] = [
            spread_of(best, metric),
            ", ".join(str(rank) for rank, _ in at.most_common()) or "-",
            *(spread_of(test[of_test], of_test) for of_test in tests),
            spread_of(area, metric),
            f"{statistics.mean(curve.trainings for curve in seeds.values()):.2g}",
            f"{statistics.mean(seconds):,.0f}",
            ratio,
        ]
    heads = ["test" if len(tests) == 1 else f"test {metric_name(name)}" for name in tests]
    return frame(rows, ["best", "at rank", *heads, "AURAC", "trainings", "seconds", "x nested"], "method")


def metric_name(metric: str) -> str:
    """A metric as a column's head."""
    return metric.replace("_", " ")


def spread_of(values: Sequence[float], metric: str, most: int | None = None) -> str:
    """Mean and deviation; with the number of seeds behind it where other cells have more."""
    if not values:
        return "-"
    few = f" ({len(values)})" if most is not None and len(values) < most else ""
    return spread(values, 1 if times(metric) > 1 else 3) + few
