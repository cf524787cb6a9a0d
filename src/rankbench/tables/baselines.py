"""What scores without any choice of a rank: baselines that runs measured beside their sub-models."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rankbench.records.notes import RANK_0
from rankbench.settings.metrics import times
from rankbench.tables import labels


def lines(records: Sequence[dict[str, Any]], metric: str) -> dict[str, float]:
    """The metric of each baseline in its own unit, the mean over runs: empty where none was measured.

    A method's seeds are averaged. Where methods differ in a baseline by more than a table shows, each has its own, as
    "untuned, dylora r=4".
    """
    done = [record for record in records if record.get("status", "done") == "done"]
    found: dict[str, dict[str, list[float]]] = {}
    names = labels.columns(list(done))
    for record in done:
        for one in record.get("baselines") or []:
            value = (one.get("metrics") or {}).get(metric)
            if isinstance(value, int | float) and math.isfinite(value):
                called = f"{RANK_0} (adapter off)" if one["baseline"] == RANK_0 else str(one["baseline"])
                found.setdefault(called, {}).setdefault(names[record["run_id"]], []).append(float(value))
    made: dict[str, float] = {}
    for baseline, by_method in found.items():
        means = {name: statistics.mean(values) for name, values in by_method.items()}
        if max(means.values()) - min(means.values()) <= _rounding(metric):
            made[baseline] = statistics.mean(value for values in by_method.values() for value in values)
        else:
            made |= {f"{baseline}, {name}": value for name, value in means.items()}
    return made


def _rounding(metric: str) -> float:
    """Half of the last digit that tables show."""
    factor = times(metric)
    return 0.05 / factor if factor > 1 else 0.0005
