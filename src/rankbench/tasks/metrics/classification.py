"""Metrics of class numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics as sk

from rankbench.settings.metrics import ClassRoles
from rankbench.tasks.metrics.base import Pairs

TWO = ClassRoles()


class Accuracy(Pairs):
    """Share of predictions that equal the reference."""

    description = "share of equal predictions"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(sk.accuracy_score(references, predictions))}


class F1(Pairs):
    """F1 of the positive class against all others."""

    description = "F1 of the positive class"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        made, true = (np.asarray(values) == roles.positive for values in (predictions, references))
        return {"f1": float(sk.f1_score(true, made, zero_division=0))}


class MacroF1(Pairs):
    """The mean of the F1 of every class of the task; that of a class neither predicted nor true is 0."""

    description = "mean F1 over the task's classes"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        classes = range(roles.count)
        value = sk.f1_score(references, predictions, labels=classes, average="macro", zero_division=0)
        return {"f1_macro": float(value)}


class MatthewsCorrelation(Pairs):
    """Matthews correlation; 0 when one class alone is predicted."""

    description = "Matthews correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"matthews_correlation": float(sk.matthews_corrcoef(references, predictions))}
