"""What a record's test splits say: a report, by which nothing is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rankbench.settings.metrics import base

if TYPE_CHECKING:
    import pandas as pd


def splits(record: dict[str, Any]) -> list[str]:
    """The names of a run's test splits."""
    return list((record.get("config") or {}).get("task", {}).get("test_splits") or [])


def chosen_by(predictions: pd.DataFrame, record: dict[str, Any]) -> pd.DataFrame:
    """The rows of a run's predictions that are of no test split: those by which may be chosen."""
    return predictions[~predictions["split"].isin(splits(record))]


def rows(record: dict[str, Any], metric: str, n: int) -> int:
    """The rows that a metric of the test was computed on: those of its split, or of its group of rows."""
    names, counts = splits(record), record["data"]["splits"] if "data" in record else {}
    groups: dict[str, int] = next((counts[name]["groups"] for name in names if "groups" in counts.get(name, {})), {})
    group = max((own for own in groups if metric.endswith(f"_{own}")), key=len, default=None)
    metric = metric if group is None else metric.removesuffix(f"_{group}")
    own = [name for name in names if len(names) == 1 or metric.endswith(f"_{name.removeprefix('validation_')}")]
    if group is not None:
        return int(counts[own[0]]["groups"].get(group, 0)) if own else n
    return int(counts[own[0]]["rows"]) if own and len(names) > 1 else n


def values(sub: dict[str, Any], metric: str) -> dict[str, float]:
    """Of a sub-model's entry, the values on test splits of what a metric of validation is; none without such splits."""
    return {name: value for name, value in (sub.get("test") or {}).items() if base(name) == base(metric)}
