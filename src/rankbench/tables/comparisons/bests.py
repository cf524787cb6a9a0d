"""The best rank of each method, chosen on validation, its cost, and its value on test splits where there are any."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from rankbench.settings.metrics import rises, times
from rankbench.tables.comparisons.curves import Curve, Curves, complete, left_aside
from rankbench.tables.layout import Block, frame, spread
from rankbench.tables.stats import aurac


def bests(found: Curves, metric: str, ranks: list[int], nested: list[str]) -> Block:
    """A row for each method: its best over these ranks, where that is, and what that cost beside a nested run.

    A method that has fewer has its best among them, and no area; seeds that lack a rank of their method's are left out.
    """
    reported = ", and what that rank has on the test splits, by which nothing was chosen" if _tests(found) else ""
    over = f", and these over {nested[0]}'s" if nested else ""
    return Block(
        f"Best over {'ranks ' + ', '.join(map(str, ranks)) if ranks else 'what was measured'}, chosen on the scored "
        f"examples themselves{reported}; AURAC: mean of the curve over log2 rank; seconds of the trainings that this "
        f"took{over}.{left_aside(found, ranks)}",
        _rows(found, metric, ranks, nested),
    )


def _tests(found: Curves) -> list[str]:
    """The metrics of test splits that any of these curves has."""
    every = (own for seeds in found.values() for curve in seeds.values() for own in curve.test.values())
    return list(dict.fromkeys(name for own in every for name in own))


def _rows(found: Curves, metric: str, ranks: list[int], nested: list[str]) -> pd.DataFrame:
    factor = times(metric)
    base = [curve.took(ranks) for name in nested[:1] for curve in complete(found[name], ranks)]
    most = max(len(seeds) for seeds in found.values())
    rows = {}
    tests = _tests(found)
    for name, seeds in found.items():
        whole = complete(seeds, ranks)
        best = [best_of(curve, ranks, metric) for curve in whole]
        test: dict[str, list[float]] = {name: [] for name in tests}
        for rank, curve in zip(best, whole, strict=True):
            for of_test, value in curve.test[rank].items():
                test[of_test].append(times(of_test) * value)
        seconds = [curve.took(ranks) for curve in whole]
        rows[name] = [
            spread_of([factor * curve.values[rank] for rank, curve in zip(best, whole, strict=True)], metric, most),
            places(best),
            *(spread_of(test[of_test], of_test) for of_test in tests),
            spread_of([factor * area for area in areas(whole, ranks)], metric, most),
            f"{statistics.mean(len(curve.over(ranks)) for curve in whole):g}" if whole else "-",
            f"{statistics.mean(seconds):,.0f}" if whole else "-",
            f"{statistics.mean(seconds) / statistics.mean(base):.2f}" if whole and base and any(base) else "-",
        ]
    heads = ["test" if len(tests) == 1 else f"test {metric_name(name)}" for name in tests]
    return frame(rows, ["best", "at rank", *heads, "AURAC", "trainings", "seconds", "x nested"], "method")


def best_of(curve: Curve, ranks: Sequence[int], metric: str) -> int | None:
    """The best of these ranks, the smallest of equals; of a curve that has none of them the best of its own."""
    return (max if rises(metric) else min)(curve.among(ranks), key=curve.values.__getitem__)


def areas(curves: Sequence[Curve], ranks: Sequence[int]) -> list[float]:
    """The area under each curve over these ranks, where it has them and they are several."""
    whole = [curve for curve in curves if len(ranks) > 1 and {*ranks} <= {*curve.values}]
    return [aurac(ranks, [curve.values[rank] for rank in ranks]) for curve in whole]


def places(best: Sequence[int | None]) -> str:
    """The ranks where the best of several seeds are, the most frequent first."""
    at = Counter(sorted(best, key=lambda rank: rank or 0))
    return ", ".join("whole" if rank is None else str(rank) for rank, _ in at.most_common()) or "-"


def metric_name(metric: str) -> str:
    """A metric as a column's head."""
    return metric.replace("_", " ")


def spread_of(values: Sequence[float], metric: str, most: int | None = None) -> str:
    """Mean and deviation; with the number of seeds behind it where other cells have more."""
    if not values:
        return "-"
    few = f" ({len(values)})" if most is not None and len(values) < most else ""
    return spread(values, 1 if times(metric) > 1 else 3) + few
