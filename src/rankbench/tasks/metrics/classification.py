"""Metrics of class numbers."""

from __future__ import annotations

from typing import Any

from sklearn import metrics as sk

from rankbench.tasks.metrics.base import Pairs


class Accuracy(Pairs):
    """Share of predictions that equal the reference."""

    description = "share of equal predictions"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(sk.accuracy_score(references, predictions))}


class F1(Pairs):
    """F1 of class 1 where there are two classes (as GLUE), macro F1 where there are more."""

    description = "F1 of class 1, or macro F1"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        average = "binary" if max(max(predictions), max(references)) <= 1 else "macro"
        return {"f1": float(sk.f1_score(references, predictions, average=average, zero_division=0))}


class MatthewsCorrelation(Pairs):
    """Matthews correlation; 0 when one class alone is predicted."""

    description = "Matthews correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"matthews_correlation": float(sk.matthews_corrcoef(references, predictions))}
