"""Metrics as `evaluate.Metric` classes: `evaluate.load` needs the network, these do not."""

from __future__ import annotations

import warnings
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sk


class _Metric(evaluate.Metric):
    """A metric of (prediction, reference) pairs, both class numbers or both real numbers."""

    value = "int64"
    description = ""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.Value(self.value), "references": datasets.Value(self.value)}
        )
        return evaluate.MetricInfo(description=self.description, citation="", features=features)


class Accuracy(_Metric):
    """Share of predictions that equal the reference."""

    description = "share of equal predictions"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(sk.accuracy_score(references, predictions))}


class F1(_Metric):
    """F1 of class 1 where there are two classes (as GLUE), macro F1 where there are more."""

    description = "F1 of class 1, or macro F1"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        average = "binary" if max(max(predictions), max(references)) <= 1 else "macro"
        return {"f1": float(sk.f1_score(references, predictions, average=average, zero_division=0))}


class MatthewsCorrelation(_Metric):
    """Matthews correlation; 0 when one class alone is predicted."""

    description = "Matthews correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"matthews_correlation": float(sk.matthews_corrcoef(references, predictions))}


class Pearson(_Metric):
    """Pearson correlation; 0 when the predictions are constant."""

    value = "float64"
    description = "Pearson correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"pearson": _correlation(stats.pearsonr, predictions, references)}


class Spearman(_Metric):
    """Spearman rank correlation; 0 when the predictions are constant."""

    value = "float64"
    description = "Spearman rank correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"spearman": _correlation(stats.spearmanr, predictions, references)}


METRICS: dict[str, type[_Metric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearman": Spearman,
}


def score(names: list[str], predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Each metric of n predictions against n references, as a share or correlation (not percent)."""
    result: dict[str, float] = {}
    for name in names:
        metric = METRICS[name](keep_in_memory=True)
        result.update(metric.compute(predictions=predictions, references=references) or {})
    return result


def _correlation(function: Any, predictions: Any, references: Any) -> float:
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant input; the value stands all the same
        return float(function(predictions, references)[0])
