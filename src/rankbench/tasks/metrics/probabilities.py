"""Metrics of the probabilities (n, classes) that a classifier gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics as sk

from rankbench.settings.metrics import CALIBRATION_BINS, ClassRoles
from rankbench.tasks.metrics.base import Probabilities

TWO = ClassRoles()


class RocAuc(Probabilities):
    """Area under the ROC curve, ties counted half; of more than two classes the mean of each against the rest.

    The mean is over classes that some rows have and others have not; where there is none, 0.5.
    """

    description = "area under the ROC curve; of several classes the mean of one against the rest"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        each = [(true, own) for true, own in _against_rest(predictions, references, roles) if not true.all()]
        return {"roc_auc": float(np.mean([sk.roc_auc_score(true, own) for true, own in each])) if each else 0.5}


class AveragePrecision(Probabilities):
    """Average precision of the positive class of two, or the mean over the classes that some rows have; else 0."""

    description = "average precision; of several classes the mean of one against the rest"

    def _compute(self, predictions: Any, references: Any, roles: ClassRoles = TWO) -> dict[str, float]:
        each = [sk.average_precision_score(true, own) for true, own in _against_rest(predictions, references, roles)]
        return {"average_precision": float(np.mean(each)) if each else 0.0}


class LogLoss(Probabilities):
    """Mean negative log-probability of the true class in nats; one below 2.2e-16 counts as that, so at most 36.04."""

    description = "mean negative log-probability of the true class"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        given = np.asarray(predictions, dtype=float)
        shares = given / given.sum(1, keepdims=True)  # in float32 they add up to nearly 1
        return {"log_loss": float(sk.log_loss(references, shares, labels=range(given.shape[1])))}


class CalibrationError(Probabilities):
    """Expected calibration error of the predicted class over 15 bins of equal width (Guo et al. 2017).

    The mean over rows of the gap, in a row's bin, between the share of right answers and the mean probability.
    """

    description = "expected calibration error of the predicted class, 15 bins of equal width"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        given = np.asarray(predictions, dtype=float)
        sure, right = given.max(1), given.argmax(1) == np.asarray(references)
        bins = np.clip(np.ceil(sure * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1)
        gaps = [abs((right - sure)[bins == one].sum()) for one in np.unique(bins)]
        return {"ece": float(sum(gaps) / len(given))}


def _against_rest(predictions: Any, references: Any, roles: ClassRoles) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each class that some rows have: which, and its probabilities; of two classes the positive one alone."""
    given, truth = np.asarray(predictions, dtype=float), np.asarray(references)
    each = range(given.shape[1]) if given.shape[1] > 2 else [roles.positive]
    return [(truth == one, given[:, one]) for one in each if (truth == one).any()]
