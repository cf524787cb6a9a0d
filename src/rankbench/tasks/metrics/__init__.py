"""Metrics, a file a family: what enters are predictions and references, what leaves are values by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankbench.settings.metrics import METRICS
from rankbench.settings.outside import load
from rankbench.tasks.metrics.language_model import Loss

__all__ = ["score"]


def score(names: Sequence[str], columns: Mapping[str, Any], references: Any) -> dict[str, float]:
    """Each metric over n rows, as a share or correlation (not percent), or in nats.

    `columns` hold `prediction` (n,), or `loss` and `tokens` (n,) for the metrics of a language model's loss;
    `references` are the n labels, or the accepted texts of each row.
    """
    result: dict[str, float] = {}
    for name in names:
        metric = load(METRICS[name].implementation)(keep_in_memory=True)
        if isinstance(metric, Loss):
            found = metric.compute(predictions=np.asarray(columns["loss"]), references=np.asarray(columns["tokens"]))
        else:
            found = metric.compute(predictions=np.asarray(columns["prediction"]), references=references)
        result.update(found or {})
    return result
