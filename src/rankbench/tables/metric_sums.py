"""Metrics as functions of sums over examples, so that a resample of the examples costs one product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from rankbench.errors import RequestError
from rankbench.settings.metrics import BLEU_COUNTS, MATCHES, METRICS, ClassRoles, normalized

Reals = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

SHARES = ("accuracy", *MATCHES)  # metrics by which an example is right or wrong


@dataclass(frozen=True)
class Sums:
    """A metric of k sub-models as a function of sums over the same n examples.

    `columns` (n, m) hold what is summed; `value` turns sums (..., m) over so many examples into metrics (..., k). So a
    resample costs one product of its weights with `columns`, and all sub-models see the same resamples. `grain` is what
    one example weighs where it is right or wrong: 1, or 0 for metrics of real numbers.
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


def right(metric: str, predictions: npt.ArrayLike, references: npt.ArrayLike) -> Truths:
    """Which predictions (k, n) are right, for a metric of `SHARES`; references (n,) are labels or accepted texts."""
    made, wanted = np.asarray(predictions), np.asarray(references)
    if metric == "exact_match_normalized":
        normal = np.frompyfunc(normalized, 1, 1)
        return np.asarray((normal(made) == normal(wanted)) & (made != ""), dtype=bool)
    return np.asarray(made == wanted, dtype=bool)


def needs(metric: str) -> tuple[str, ...]:
    """The columns of predictions.parquet that a metric is computed from, beside the reference."""
    if metric == "bleu_sacre":
        return BLEU_COUNTS
    return ("loss", "tokens") if metric in LOSSES else ("prediction",)


def sums(metric: str, columns: Mapping[str, Any], references: npt.ArrayLike, roles: ClassRoles | None = None) -> Sums:
    """A metric of k sub-models over n examples, equal to `metrics.score` for each of them.

    `columns` hold what the metric `needs`, each (k, n); `references` (n,) are labels, values, or texts; `roles` are as
    there. The ranks of
    Spearman are those in all n examples, also within resamples, where they are an approximation. Raises RequestError
    for an unknown metric, columns of other lengths, and an infinite value.
    """
    if metric not in METRICS:
        raise RequestError(f"{metric} is no metric whose predictions are kept; choose from {', '.join(METRICS)}")
    wanted = np.asarray(references)
    made = [np.asarray(columns[key]) for key in needs(metric)]
    if any(part.ndim != 2 or part.shape[1:] != wanted.shape for part in made) or not wanted.size:
        shapes = ", ".join(str(part.shape) for part in made)
        raise RequestError(f"{metric} takes columns (k, n) and references (n,), not {shapes} and {wanted.shape}")
    if metric in SHARES:
        found = _shares(right(metric, made[0], wanted))
    elif metric == "bleu_sacre":
        found = _bleu(np.stack(made))
    elif metric in LOSSES:
        found = _losses(made[0], made[1], LOSSES[metric])
    elif metric in ("f1", "f1_macro"):
        found = _f1(made[0], wanted, roles or ClassRoles(), macro=metric == "f1_macro")
    elif metric in OTHERS:
        found = OTHERS[metric](made[0], wanted)
    else:
        raise RequestError(
            f"{metric} is another package's, and its noise over examples is not known; choose another metric"
        )
    grain = 1.0 if METRICS[metric].kind == "classification" or metric in MATCHES else 0.0
    result = Sums(*found, METRICS[metric].rises, grain)
    if not np.isfinite(result.whole()).all():
        raise RequestError(f"{metric} is not finite for every sub-model; compare by loss")
    return result


# Each metric as (columns, value), the two parts of `Sums`

Parts = tuple[Reals, Callable[[Reals, int], Reals]]


def _shares(hits: Truths) -> Parts:
    return hits.T.astype(float), lambda s, n: s / n


def _losses(loss: npt.NDArray[Any], tokens: npt.NDArray[Any], read: Callable[[Reals], Reals]) -> Parts:
    k = len(loss)
    return np.concatenate([loss.T, tokens.T], axis=1, dtype=float), lambda s, n: read(s[..., :k] / s[..., k:])


def _perplexity(loss: Reals) -> Reals:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(loss))


def _bleu(counts: npt.NDArray[Any]) -> Parts:
    """Corpus BLEU with sacreBLEU's `exp` smoothing from the counts (10, k, n) of `BLEU_COUNTS`."""
    m, k, n = counts.shape

    def value(s: Reals, _: int) -> Reals:
        parts = s.reshape(*s.shape[:-1], m, k)
        matched, total, words, nearest = parts[..., :4, :], parts[..., 4:8, :], parts[..., 8, :], parts[..., 9, :]
        missed = np.cumsum((matched == 0) & (total > 0), axis=-2)  # the i-th n without a match counts as 2^-i of one
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(total > 0, np.where(matched > 0, matched, 0.5**missed) / total, 0)
            score = np.exp(np.log(precision).mean(-2) + np.minimum(0, 1 - nearest / words))
        return np.where(matched.any(-2), score, 0)

    return counts.reshape(m * k, n).T.astype(float), value


def _classes(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> tuple[Reals, Reals]:
    """Predicted (n, k, c) and true classes (n, c) as ones among zeros."""
    each = np.arange(max(1, int(predictions.max()), int(references.max())) + 1)
    return (predictions.T[..., None] == each).astype(float), (references[:, None] == each).astype(float)


def _f1(predictions: npt.NDArray[Any], references: npt.NDArray[Any], roles: ClassRoles, macro: bool) -> Parts:
    """F1 of the positive class, or the mean over all classes of the task."""
    each = np.arange(roles.count) if macro else np.array([roles.positive])
    made = (predictions.T[..., None] == each).astype(float)
    true = (references[:, None] == each).astype(float)
    n, k, c = made.shape

    def value(s: Reals, _: int) -> Reals:
        hits, all_made, all_true = np.split(s, [k * c, 2 * k * c], axis=-1)
        size = all_made.reshape(*s.shape[:-1], k, c) + all_true[..., None, :]
        return np.asarray((2 * hits.reshape(size.shape) / np.maximum(size, 1)).mean(-1))

    return np.concatenate([(made * true[:, None]).reshape(n, -1), made.reshape(n, -1), true], axis=1), value


def _matthews(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    """Matthews correlation from counts (Gorodkin 2004); 0 when one class alone is predicted or true."""
    made, true = _classes(predictions, references)
    _, k, c = made.shape

    def value(s: Reals, n: int) -> Reals:
        hits, all_made, all_true = np.split(s, [k, k + k * c], axis=-1)
        all_made, all_true = all_made.reshape(*s.shape[:-1], k, c), all_true[..., None, :]
        covariance = hits * n - (all_made * all_true).sum(-1)
        return _ratio(covariance, n**2 - (all_made**2).sum(-1), n**2 - (all_true**2).sum(-1))

    return np.concatenate(
        [(predictions == references).T, made.reshape(len(made), -1), true], axis=1, dtype=float
    ), value


def _pearson(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    """Pearson correlation from moments; 0 where one side is constant."""
    x, y = predictions.T.astype(float), references[:, None].astype(float)
    x, y = x - x[:1], y - y[:1]  # keeps digits, and makes a constant exactly 0
    k = x.shape[1]

    def value(s: Reals, n: int) -> Reals:
        x, xx, xy, y, yy = np.split(s, [k, 2 * k, 3 * k, 3 * k + 1], axis=-1)
        return np.clip(_ratio(xy - x * y / n, _spread(x, xx, n), _spread(y, yy, n)), -1, 1)

    return np.concatenate([x, x**2, x * y, y, y**2], axis=1), value


def _spearman(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    return _pearson(scipy_stats.rankdata(predictions, axis=1), scipy_stats.rankdata(references))


def _spread(x: Reals, squares: Reals, n: int) -> Reals:
    """The sum of squared deviations, exactly 0 where rounding alone is left of it."""
    found = squares - x**2 / n
    return np.where(found > 1e-12 * squares, found, 0)


def _ratio(covariance: Reals, one: Reals, other: Reals) -> Reals:
    below = np.sqrt(one * other)
    return np.asarray(np.divide(covariance, below, out=np.zeros_like(below), where=below > 0))


LOSSES: dict[str, Callable[[Reals], Reals]] = {"loss": np.asarray, "perplexity": _perplexity}
OTHERS = {"matthews_correlation": _matthews, "pearson": _pearson, "spearman": _spearman}
