"""Metrics of real numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics as sk

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


class MeanSquaredError(Pairs):
    """Mean squared error, in the label's unit squared."""

    value = "float64"
    description = "mean squared error"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"mse": float(sk.mean_squared_error(references, predictions))}


class MeanAbsoluteError(Pairs):
    """Mean absolute error, in the label's unit."""

    value = "float64"
    description = "mean absolute error"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"mae": float(sk.mean_absolute_error(references, predictions))}


class R2(Pairs):
    """Coefficient of determination: 1 less the squared error over that of the labels' mean.

    Of equal labels 1 where all are met, else 0; of one row 0.
    """

    value = "float64"
    description = "coefficient of determination"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if np.ptp(references) == 0:  # whose mean may differ from them by rounding
            return {"r2": float(len(references) > 1 and np.array_equal(predictions, references))}
        return {"r2": float(sk.r2_score(references, predictions))}


def _correlation(function: Any, predictions: Any, references: Any) -> float:
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant input; the value stands all the same
        return float(function(predictions, references)[0])
