"""What stands beside every curve: the majority class or mean, and the backbone without what was trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

log = logging.getLogger("rankbench")


def measured(
    adapter: Any,
    train: Any,
    validation: Sequence[Any],
    metrics: list[str],
    num_labels: int | None,
    measure: Callable[[Sequence[Any]], list[Any]],
) -> list[dict[str, Any]]:
    """The record's baselines, each with its `metrics`; `measure` scores sub-models of the adapter.

    `majority class` and `mean` are those of the training split, and answer every example alike. `rank 0` is the
    backbone with the adapter switched off, a classifier's under the head that the run trained; there is none where the
    method changed the backbone itself.
    """
    from rankbench.methods import cuts
    from rankbench.methods.lora import DyLora

    found = []
    if num_labels is not None and train.labels.ndim == 1:  # places in windows have no majority
        name, columns = _constant(train.labels, num_labels)
        found.append({"baseline": name, "metrics": _scored(columns, validation, metrics)})
    low_rank = getattr(adapter, "inner", adapter)  # of exits, what they are over
    if isinstance(low_rank, DyLora):
        log.info("measure the backbone without the adapter")
        with cuts.off(low_rank):
            (score,) = measure([adapter.family[-1]])
        found.append({"baseline": "rank 0", "metrics": score.metrics})
    return found


def _constant(labels: np.ndarray, num_labels: int) -> tuple[str, Callable[[int], dict[str, np.ndarray]]]:
    """The answer to every example that training labels alone give; of equally many classes the first."""
    if num_labels == 1:
        return "mean", lambda n: {"prediction": np.full(n, labels.mean())}
    shares = np.bincount(labels, minlength=num_labels) / len(labels)
    return "majority class", lambda n: {"prediction": np.full(n, shares.argmax()), "scores": np.tile(shares, (n, 1))}


def _scored(
    columns: Callable[[int], dict[str, np.ndarray]], validation: Sequence[Any], metrics: list[str]
) -> dict[str, float]:
    from rankbench.scoring.values import of_splits

    return of_splits(validation, {split.name: columns(len(split)) for split in validation}, metrics)
