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


class BalancedAccuracy(Pairs):
    """The mean recall of the classes that are among the references."""

    description = "mean recall of the classes that are there"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        seen = np.unique(references)
        value = sk.recall_score(references, predictions, labels=seen, average="macro", zero_division=0)
        return {"balanced_accuracy": float(value)}


class F1(Pairs):
    """F1 of the positive class against all others."""

    description = "F1 of the positive class"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        return {"f1": _positive(sk.f1_score, predictions, references, roles)}


class Precision(Pairs):
    """Precision of the positive class against all others; 0 where it is never predicted."""

    description = "precision of the positive class"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        return {"precision": _positive(sk.precision_score, predictions, references, roles)}


class Recall(Pairs):
    """Recall of the positive class."""

    description = "recall of the positive class"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        return {"recall": _positive(sk.recall_score, predictions, references, roles)}


class MacroF1(Pairs):
    """The mean of the F1 of every class of the task; that of a class neither predicted nor true is 0."""

    description = "mean F1 over the task's classes"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        return {"f1_macro": _macro(sk.f1_score, predictions, references, roles)}


class MacroPrecision(Pairs):
    """The mean of the precision of every class of the task; that of a class never predicted is 0."""

    description = "mean precision over the task's classes"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        return {"precision_macro": _macro(sk.precision_score, predictions, references, roles)}


class MacroRecall(Pairs):
    """The mean of the recall of every class of the task; that of a class without references is 0."""

    description = "mean recall over the task's classes"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        return {"recall_macro": _macro(sk.recall_score, predictions, references, roles)}


class MatthewsCorrelation(Pairs):
    """Matthews correlation; 0 when one class alone is predicted."""

    description = "Matthews correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"matthews_correlation": float(sk.matthews_corrcoef(references, predictions))}


def _positive(function: Any, predictions: Any, references: Any, roles: ClassRoles) -> float:
    made, true = (np.asarray(values) == roles.positive for values in (predictions, references))
    return float(function(true, made, zero_division=0))


def _macro(function: Any, predictions: Any, references: Any, roles: ClassRoles) -> float:
    return float(function(references, predictions, labels=range(roles.count), average="macro", zero_division=0))
