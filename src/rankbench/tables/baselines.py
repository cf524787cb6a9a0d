"""What scores without any choice of a rank: baselines that runs measured beside their sub-models."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rankbench.records.notes import RANK_0
from rankbench.settings.metrics import times
from rankbench.tables import labels


def by_method(records: Sequence[dict[str, Any]], metric: str) -> dict[str, dict[str, float]]:
    """The metric of each baseline by method, in its own unit, the mean over the method's runs that are done."""
    done = [record for record in records if record.get("status", "done") == "done"]
    found: dict[str, dict[str, list[float]]] = {}
    names = labels.columns(list(done))
    for record in done:
        for one in record.get("baselines") or []:
            value = (one.get("metrics") or {}).get(metric)
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(str(one["baseline"]), {}).setdefault(names[record["run_id"]], []).append(float(value))
    return {of: {name: statistics.mean(own) for name, own in methods.items()} for of, methods in found.items()}


def lines(records: Sequence[dict[str, Any]], metric: str) -> dict[str, float]:
    """As `by_method`, but of methods that are alike in a baseline, as far as a table shows, their mean.

    Where they are not, each has its own, as "rank 0 (adapter off), dylora r=4". Empty where none was measured.
    """
    made: dict[str, float] = {}
    for baseline, means in by_method(records, metric).items():
        called = f"{RANK_0} (adapter off)" if baseline == RANK_0 else baseline
        if max(means.values()) - min(means.values()) <= _rounding(metric):
            made[called] = statistics.mean(means.values())
        else:
            made |= {f"{called}, {name}": value for name, value in means.items()}
    return made


def _rounding(metric: str) -> float:
    """Half of the last digit that tables show."""
    factor = times(metric)
    return 0.05 / factor if factor > 1 else 0.0005
