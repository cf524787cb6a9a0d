"""The metrics of predictions, of each split and of each group of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rankbench.settings.metrics import METRICS
from rankbench.tasks.encoding import Encoded


def named(metric: str, split: Encoded, splits: Sequence[Encoded]) -> str:
    """What a metric of a split is called: with the split's name where there are several."""
    return f"{metric}_{split.name.removeprefix('validation_')}" if len(splits) > 1 else metric


def of_splits(
    splits: Sequence[Encoded], columns: Mapping[str, Mapping[str, np.ndarray]], metrics: list[str]
) -> dict[str, float]:
    """Each metric of predictions, which are columns (n, ...) by split; of several splits each by its own name.

    Where a split's rows are of groups, each group's metrics follow those of all rows, with its name behind theirs; less
    those over thresholds, which are of all rows alone.
    """
    from rankbench.tasks.metrics import score  # which takes a second or two that no first step should wait for

    values: dict[str, float] = {}
    parted = [name for name in metrics if not METRICS[name].of_nulls]
    for split in splits:
        own, wanted = columns[split.name], split.references or split.labels
        for name, value in score(metrics, own, wanted, split.roles).items():
            values[named(name, split, splits)] = value
        for group in sorted(set(split.groups)):
            rows = np.flatnonzero(np.array(split.groups) == group)
            part = [wanted[row] for row in rows]
            for name, value in score(parted, {k: v[rows] for k, v in own.items()}, part, split.roles).items():
                values[f"{named(name, split, splits)}_{group}"] = value
    return values
