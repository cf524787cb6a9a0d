"""Metrics of classes and their probabilities as functions of sums over examples, for `metric_sums`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rankbench.settings.metrics import CALIBRATION_BINS

Reals = npt.NDArray[np.float64]
Parts = tuple[Reals, Callable[[Reals, int], Reals]]  # what is summed, and the metric of such sums, as `Sums` has them


def _classes(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> tuple[Reals, Reals]:
    """Predicted (n, k, c) and true classes (n, c) as ones among zeros."""
    each = np.arange(max(1, int(predictions.max()), int(references.max())) + 1)
    return (predictions.T[..., None] == each).astype(float), (references[:, None] == each).astype(float)


Ratio = Callable[[Reals, Reals, Reals], Reals]  # of right predictions, all predictions and references of a class


def _f1(hits: Reals, made: Reals, true: Reals) -> Reals:
    return np.asarray(2 * hits / np.maximum(made + true, 1))


def _precision(hits: Reals, made: Reals, true: Reals) -> Reals:
    return np.asarray(hits / np.maximum(made, 1))


def _recall(hits: Reals, made: Reals, true: Reals) -> Reals:
    return np.asarray(hits / np.maximum(true, 1))


def by_class(metric: str, predictions: npt.NDArray[Any], references: npt.NDArray[Any], each: npt.NDArray[Any]) -> Parts:
    """The mean of a ratio over these classes; one without references counts 0, but not in balanced accuracy."""
    made = (predictions.T[..., None] == each).astype(float)
    true = (references[:, None] == each).astype(float)
    n, k, c = made.shape

    def value(s: Reals, _: int) -> Reals:
        hits, all_made, all_true = np.split(s, [k * c, 2 * k * c], axis=-1)
        shape = (*s.shape[:-1], k, c)
        found = RATIOS[metric](hits.reshape(shape), all_made.reshape(shape), all_true[..., None, :])
        number = (all_true > 0).sum(-1, keepdims=True) if metric == "balanced_accuracy" else c
        return np.asarray(found.sum(-1) / number)

    return np.concatenate([(made * true[:, None]).reshape(n, -1), made.reshape(n, -1), true], axis=1), value


def grain(references: npt.NDArray[Any], each: npt.NDArray[Any]) -> float:
    """What an example weighs in a mean over classes, the root of the mean square; 1 where all classes are as large."""
    sizes = (references[:, None] == each).sum(0)
    return float(np.sqrt(len(references) * (1 / sizes[sizes > 0]).sum()) / len(each)) if sizes.any() else 1.0


def matthews(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    """Matthews correlation from counts (Gorodkin 2004); 0 when one class alone is predicted or true."""
    made, true = _classes(predictions, references)
    _, k, c = made.shape

    def value(s: Reals, n: int) -> Reals:
        hits, all_made, all_true = np.split(s, [k, k + k * c], axis=-1)
        all_made, all_true = all_made.reshape(*s.shape[:-1], k, c), all_true[..., None, :]
        covariance = hits * n - (all_made * all_true).sum(-1)
        return ratio(covariance, n**2 - (all_made**2).sum(-1), n**2 - (all_true**2).sum(-1))

    return np.concatenate(
        [(predictions == references).T, made.reshape(len(made), -1), true], axis=1, dtype=float
    ), value


def _log_loss(scores: Reals, references: npt.NDArray[Any]) -> Parts:
    """The mean negative log-probability of the true class, clipped as scikit-learn does."""
    of_true = scores[:, np.arange(len(references)), references] / scores.sum(-1)
    least = np.finfo(float).eps
    return -np.log(np.clip(of_true, least, 1 - least)).T, lambda s, n: s / n


def _calibration(scores: Reals, references: npt.NDArray[Any]) -> Parts:
    """The expected calibration error from sums over each bin of right less sure."""
    k, n, _ = scores.shape
    sure, right = scores.max(-1), scores.argmax(-1) == references
    place = np.clip(np.ceil(sure * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1)
    gaps = (right - sure)[..., None] * (place[..., None] == np.arange(CALIBRATION_BINS))

    def value(s: Reals, n: int) -> Reals:
        return np.asarray(np.abs(s.reshape(*s.shape[:-1], k, CALIBRATION_BINS)).sum(-1) / n)

    return gaps.transpose(1, 0, 2).reshape(n, -1), value


def ratio(covariance: Reals, one: Reals, other: Reals) -> Reals:
    """A correlation from a covariance and two variances; 0 where one of them is."""
    below = np.sqrt(one * other)
    return np.asarray(np.divide(covariance, below, out=np.zeros_like(below), where=below > 0))


RATIOS: dict[str, Ratio] = {
    "f1": _f1,
    "f1_macro": _f1,
    "precision": _precision,
    "precision_macro": _precision,
    "recall": _recall,
    "recall_macro": _recall,
    "balanced_accuracy": _recall,
}
OF_SCORES = {"log_loss": _log_loss, "ece": _calibration}
