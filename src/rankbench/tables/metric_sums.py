"""Metrics as functions of sums over examples, so that a resample of the examples costs one product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankbench.errors import RequestError
from rankbench.settings.metrics import METRICS, RIGHT_OR_WRONG, ClassRoles, normalized
from rankbench.settings.outside import load
from rankbench.tables import class_sums, ranked
from rankbench.tables.class_sums import Parts, Reals
from rankbench.tables.ranked import Ranked

Truths = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sums:
    """A metric of k sub-models as a function of sums over the same n examples.

    `columns` (n, m) hold what is summed; `value` turns sums (..., m) over so many examples into metrics (..., k). So a
    resample costs one product of its weights with `columns`, and all sub-models see the same resamples. `grain` is n
    times what one example weighs where it is right or wrong: 1 for a share, or 0 for metrics of real numbers.
    """

    columns: Reals
    value: Callable[[Reals, int], Reals]
    rises: bool
    grain: float = 0.0

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.columns)

    def whole(self) -> Reals:
        """The metric (k,) over all examples, once each."""
        return self.value(self.columns.sum(0), self.n)

    def at(self, weights: Reals) -> Reals:
        """The metric (r, k) of r resamples of one size that hold each example as often as `weights` (r, n) say."""
        return self.value(weights @ self.columns, round(weights[0].sum()))


@dataclass(frozen=True)
class Means:
    """A metric whose k values are means of those `of` others, of which each takes a `share` (others, k)."""

    of: Sums | Ranked | Means
    share: Reals

    @property
    def n(self) -> int:
        """The number of examples."""
        return self.of.n

    @property
    def rises(self) -> bool:
        """Whether more is better."""
        return self.of.rises

    @property
    def grain(self) -> float:
        """As that of the others."""
        return self.of.grain

    def whole(self) -> Reals:
        """The means (k,) over all examples, once each."""
        return self.of.whole() @ self.share

    def at(self, weights: Reals) -> Reals:
        """The means (r, k) of r resamples that hold each example as often as `weights` (r, n) say."""
        return self.of.at(weights) @ self.share


Resampled = Sums | Ranked | Means


def right(metric: str, predictions: npt.ArrayLike, references: npt.ArrayLike) -> Truths:
    """Which texts (k, n) equal their one accepted text (n,), by exact_match or exact_match_normalized."""
    made, wanted = np.asarray(predictions), np.asarray(references)
    if metric == "exact_match_normalized":
        normal = np.frompyfunc(normalized, 1, 1)
        return np.asarray((normal(made) == normal(wanted)) & (made != ""), dtype=bool)
    return np.asarray(made == wanted, dtype=bool)


def needs(metric: str) -> tuple[str, ...]:
    """The columns of predictions that a metric is computed from, beside the reference."""
    if kept := METRICS[metric].kept:
        return kept
    if METRICS[metric].of_scores:
        return ("scores",)
    return ("loss", "tokens") if metric in LOSSES else ("prediction",)


def sums(
    metric: str, columns: Mapping[str, Any], references: npt.ArrayLike, roles: ClassRoles | None = None
) -> Sums | Ranked:
    """A metric of k sub-models over n examples, equal to `metrics.score` for each of them.

    `columns` hold what the metric `needs`, each (k, n), or (k, n, classes) for `scores`; `references` (n,) are labels,
    values, or texts; `roles` are as there. The ranks of Spearman are those in all n examples, also within resamples,
    where they are an approximation. Raises RequestError for an unknown metric, columns of other lengths, and an
    infinite value.
    """
    if metric not in METRICS:
        raise RequestError(f"{metric} is no metric whose predictions are kept; choose from {', '.join(METRICS)}")
    wanted, roles = np.asarray(references), roles or ClassRoles()
    made = [np.asarray(columns[key]) for key in needs(metric)]
    axes = 3 if METRICS[metric].of_scores else 2
    if any(part.ndim != axes or part.shape[1:2] != wanted.shape for part in made) or not wanted.size:
        shapes = ", ".join(str(part.shape) for part in made)
        told = "(k, n, classes)" if axes == 3 else "(k, n)"
        raise RequestError(f"{metric} takes columns {told} and references (n,), not {shapes} and {wanted.shape}")
    result = _resampled(metric, made, wanted, roles)
    if not np.isfinite(result.whole()).all():
        raise RequestError(f"{metric} is not finite for every sub-model; compare by loss")
    return result


def _resampled(metric: str, made: list[npt.NDArray[Any]], wanted: npt.NDArray[Any], roles: ClassRoles) -> Sums | Ranked:
    if metric in AREAS:
        return ranked.of_scores(made[0].astype(float), wanted, roles.positive, metric == "average_precision")
    grain = 1.0 if METRICS[metric].kind == "classification" or metric in RIGHT_OR_WRONG else 0.0
    if METRICS[metric].kept:
        found = _kept(np.stack(made, axis=-1), load(METRICS[metric].of_sums))
    elif metric == "accuracy":
        found = _shares(made[0] == wanted)
    elif metric in LOSSES:
        found = _losses(made[0], made[1], LOSSES[metric])
    elif metric in class_sums.RATIOS:
        each = np.array([roles.positive]) if METRICS[metric].positive else np.arange(roles.count)
        each = np.unique(wanted) if metric == "balanced_accuracy" else each
        found, grain = class_sums.by_class(metric, made[0], wanted, each), class_sums.grain(wanted, each)
    elif metric in class_sums.OF_SCORES:
        found, grain = class_sums.OF_SCORES[metric](made[0].astype(float), wanted), 0.0
    elif metric in OTHERS:
        found = OTHERS[metric](made[0], wanted)
    else:
        raise RequestError(
            f"{metric} is no function of sums over examples, or its package does not say of which, so its noise is not "
            "known; choose another metric"
        )
    return Sums(*found, METRICS[metric].rises, grain)


# Each metric as (columns, value), the two parts of `Sums`


def _shares(hits: Truths) -> Parts:
    return hits.T.astype(float), lambda s, n: s / n


def _losses(loss: npt.NDArray[Any], tokens: npt.NDArray[Any], read: Callable[[Reals], Reals]) -> Parts:
    k = len(loss)
    return np.concatenate([loss.T, tokens.T], axis=1, dtype=float), lambda s, n: read(s[..., :k] / s[..., k:])


def _perplexity(loss: Reals) -> Reals:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(loss))


def _kept(columns: npt.NDArray[Any], of_sums: Callable[[Reals, int], Reals]) -> Parts:
    """A metric of what it keeps of each response (k, n, m)."""
    k, n, m = columns.shape
    rows = columns.transpose(1, 0, 2).reshape(n, k * m).astype(float)
    return rows, lambda s, n: of_sums(s.reshape(*s.shape[:-1], k, m), n)


def _pearson(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    """Pearson correlation from moments; 0 where one side is constant."""
    x, y = predictions.T.astype(float), references[:, None].astype(float)
    x, y = x - x[:1], y - y[:1]  # keeps digits, and makes a constant exactly 0
    k = x.shape[1]

    def value(s: Reals, n: int) -> Reals:
        x, xx, xy, y, yy = np.split(s, [k, 2 * k, 3 * k, 3 * k + 1], axis=-1)
        return np.clip(class_sums.ratio(xy - x * y / n, _spread(x, xx, n), _spread(y, yy, n)), -1, 1)

    return np.concatenate([x, x**2, x * y, y, y**2], axis=1), value


def _squared(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    return (predictions.T.astype(float) - references[:, None]) ** 2, lambda s, n: s / n


def _absolute(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    return np.abs(predictions.T.astype(float) - references[:, None]), lambda s, n: s / n


def _r2(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    """The coefficient of determination from moments; of equal labels 1 where all are met, else 0."""
    errors, _ = _squared(predictions, references)
    y = references[:, None].astype(float)
    y = y - y[:1]  # as in _pearson

    def value(s: Reals, n: int) -> Reals:
        missed, y, yy = s[..., :-2], s[..., -2:-1], s[..., -1:]
        whole = _spread(y, yy, n)
        share = np.divide(missed, whole, out=np.where(missed > 0, 1.0, 0.0), where=whole > 0)
        return 1 - share if n > 1 else np.zeros_like(missed)

    return np.concatenate([errors, y, y**2], axis=1), value


def _spearman(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    from scipy.stats import rankdata

    return _pearson(rankdata(predictions, axis=1), rankdata(references))


def _spread(x: Reals, squares: Reals, n: int) -> Reals:
    """The sum of squared deviations, exactly 0 where rounding alone is left of it."""
    found = squares - x**2 / n
    return np.where(found > 1e-12 * squares, found, 0)


LOSSES: dict[str, Callable[[Reals], Reals]] = {"loss": np.asarray, "perplexity": _perplexity}
AREAS = ("roc_auc", "average_precision")
OTHERS = {
    "matthews_correlation": class_sums.matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "mse": _squared,
    "mae": _absolute,
    "r2": _r2,
}
