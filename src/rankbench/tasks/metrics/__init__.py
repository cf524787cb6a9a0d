"""Metrics, a file a family: what enters are predictions and references, what leaves are values by name."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankbench.settings.metrics import METRICS, ClassRoles
from rankbench.settings.outside import load
from rankbench.tasks.metrics.language_model import Loss
from rankbench.tasks.metrics.text import of_sums

__all__ = ["score"]


def score(
    names: Sequence[str], columns: Mapping[str, Any], references: Any, roles: ClassRoles | None = None
) -> dict[str, float]:
    """Each metric over n rows, as a share or correlation (not percent), or in nats.

    `columns` hold `prediction` (n,), for metrics of probabilities `scores` (n, classes), for SQuAD 2.0's best ones
    `null_difference` (n,) too, or `loss` and `tokens` (n,) for the metrics of a language model's loss; `references` are
    the n labels, or the accepted texts of each row. Where `columns` hold those that a metric keeps, it is computed from
    them. `roles` say how many classes there are and which is the positive one (default: class 1 of two).
    """
    result: dict[str, float] = {}
    for name in names:
        if (kept := METRICS[name].kept) and all(key in columns for key in kept):
            result[name] = of_sums(name, np.array([columns[key] for key in kept]).T)
            continue
        metric = _made(load(METRICS[name].implementation))
        more: dict[str, Any] = {"roles": roles or ClassRoles()} if METRICS[name].of_classes else {}
        if METRICS[name].of_nulls:
            more["null_difference"] = np.asarray(columns["null_difference"])
        if isinstance(metric, Loss):
            found = metric.compute(predictions=np.asarray(columns["loss"]), references=np.asarray(columns["tokens"]))
        else:
            key = "scores" if METRICS[name].of_scores else "prediction"
            found = metric.compute(predictions=np.asarray(columns[key]), references=references, **more)
        result.update(found or {})
    return result


def _made(metric: Any) -> Any:
    """A metric, which makes a folder that it leaves empty: not in a home that may be read-only."""
    with tempfile.TemporaryDirectory() as folder:
        return metric(keep_in_memory=True, cache_dir=folder)
