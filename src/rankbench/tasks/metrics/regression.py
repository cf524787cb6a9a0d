"""Metrics of real numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import stats

from rankbench.tasks.metrics.base import Pairs


class Pearson(Pairs):
    """Pearson correlation; 0 when the predictions are constant."""

    value = "float64"
    description = "Pearson correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"pearson": _correlation(stats.pearsonr, predictions, references)}


class Spearman(Pairs):
    """Spearman rank correlation; 0 when the predictions are constant."""

    value = "float64"
    description = "Spearman rank correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"spearman": _correlation(stats.spearmanr, predictions, references)}


def _correlation(function: Any, predictions: Any, references: Any) -> float:
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant input; the value stands all the same
        return float(function(predictions, references)[0])
