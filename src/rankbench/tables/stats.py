"""Whether sub-models differ on the examples or seeds at hand, and what the best of many is really worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from rankbench.errors import RequestError
from rankbench.settings.metrics import BLEU_COUNTS, MATCHES, METRICS, normalized
from rankbench.system.seeds import generator

Reals = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

SHARES = ("accuracy", *MATCHES)  # metrics by which an example is right or wrong
CELLS = 2**21  # weights of a chunk of resamples: 16 MB
EXACT_SEEDS = 16  # up to here all sign flips are counted
SAMPLED_FLIPS = 100_000


@dataclass(frozen=True)
class Sums:
    """A metric of k sub-models as a function of sums over the same n examples.

    `columns` (n, m) hold what is summed; `value` turns sums (..., m) over so many examples into metrics (..., k). So a
    resample costs one product of its weights with `columns`, and all sub-models see the same resamples.
    """

    columns: Reals
    value: Callable[[Reals, int], Reals]
    rises: bool

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.columns)

    def whole(self) -> Reals:
        """The metric (k,) over all examples, once each."""
        return self.value(self.columns.sum(0), self.n)


@dataclass(frozen=True)
class Differences:
    """Metrics `value` (k,), each less the reference's, with an interval and a two-sided p; in the metric's own unit."""

    value: Reals
    difference: Reals
    low: Reals
    high: Reals
    p: Reals


@dataclass(frozen=True)
class Halves:
    """What the best sub-model of one half of the examples scores on the other half: mean and spread over splits.

    `optimism` is how much better it looked on its own half, `chosen` (k,) the share of splits that chose each. The
    splits share their examples, so `std` is no standard error.
    """

    score: float
    std: float
    optimism: float
    chosen: Reals


@dataclass(frozen=True)
class Mean:
    """The mean difference over seeds, its t interval, and the p of its sign flips."""

    mean: float
    low: float
    high: float
    p: float


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


def sums(metric: str, columns: Mapping[str, Any], references: npt.ArrayLike) -> Sums:
    """A metric of k sub-models over n examples, equal to `metrics.score` for each of them.

    `columns` hold what the metric `needs`, each (k, n); `references` (n,) are labels, values, or texts. The ranks of
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
    elif metric in OTHERS:
        found = OTHERS[metric](made[0], wanted)
    else:
        raise RequestError(
            f"{metric} is another package's, and its noise over examples is not known; choose another metric"
        )
    result = Sums(*found, METRICS[metric].rises)
    if not np.isfinite(result.whole()).all():
        raise RequestError(f"{metric} is not finite for every sub-model; compare by loss")
    return result


def mcnemar(a_right: npt.ArrayLike, b_right: npt.ArrayLike) -> Reals:
    """The exact two-sided p (...) that two models are right equally often, from their right answers (..., n).

    McNemar (1947): of the examples on which one alone is right, each is as likely to be either's. The binomial is exact
    at every size. Raises RequestError where they did not answer the same examples.
    """
    a, b = np.asarray(a_right, dtype=bool), np.asarray(b_right, dtype=bool)
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-1]:
        raise RequestError(f"McNemar's test pairs answers to the same examples, not {a.shape} with {b.shape}")
    a_alone, b_alone = (a & ~b).sum(-1), (b & ~a).sum(-1)
    tail = scipy_stats.binom.cdf(np.minimum(a_alone, b_alone), a_alone + b_alone, 0.5)
    return np.asarray(np.minimum(1.0, 2 * tail))


def bootstrap(metric: Sums, reference: int, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Differences:
    """Every sub-model less the one at place `reference`, by resampling examples; the same resamples for all of them.

    The paired bootstrap (Dror et al. 2018): the interval holds the middle `level` of the resampled differences; p is
    twice the smaller share of them on either side of 0, which counts as both. Raises RequestError for fewer than two
    examples.
    """
    _enough(metric.n)
    drawn = np.concatenate([metric.value(w @ metric.columns, metric.n) for w in _resampled(metric.n, resamples, seed)])
    differences = drawn - drawn[:, [reference]]
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2], axis=0)
    rarer = np.minimum((differences <= 0).sum(0), (differences >= 0).sum(0))
    value = metric.whole()
    p = np.minimum(1.0, 2 * (1 + rarer) / (1 + resamples))
    return Differences(value, value - value[reference], low, high, p)


def split_half(metric: Sums, repeats: int = 1000, seed: int = 0) -> Halves:
    """The honest score of "the best of k": chosen on a random half of the examples, scored on the other half.

    Of equals the first is chosen. Raises RequestError for fewer than two examples.
    """
    _enough(metric.n)
    size, total = metric.n // 2, metric.columns.sum(0)
    parts = [mask @ metric.columns for mask in _halves(metric.n, repeats, seed)]
    own = np.concatenate([metric.value(part, size) for part in parts])
    other = np.concatenate([metric.value(total - part, metric.n - size) for part in parts])
    sign = 1 if metric.rises else -1
    best = (sign * own).argmax(1)
    split = np.arange(repeats)
    seen, honest = own[split, best], other[split, best]
    chosen = np.bincount(best, minlength=own.shape[1]) / repeats
    return Halves(float(honest.mean()), float(honest.std(ddof=1)), float(sign * (seen - honest).mean()), chosen)


def permutation(differences: npt.ArrayLike, level: float = 0.95, seed: int = 0) -> Mean:
    """The mean of differences (n,) that are paired by seed, and whether it is 0.

    Fisher-Pitman's test, as Bestgen (2022) advises: p is the share of sign flips whose mean is as far from 0, all 2^n
    of them up to 16 seeds, 100,000 random ones above. Fewer than 6 seeds cannot give p < 0.05. Raises RequestError for
    fewer than two.
    """
    pairs = np.asarray(differences, dtype=float)
    n = pairs.size
    if pairs.ndim != 1 or n < 2:
        raise RequestError(f"a test over seeds takes differences (n,) of two seeds or more, not {pairs.shape}")
    exact = n <= EXACT_SEEDS
    if exact:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        bits = generator(seed, "sign flips").integers(2, size=(SAMPLED_FLIPS, n))
    mean, spread = float(pairs.mean()), float(pairs.std(ddof=1))
    # rounding must not part a flip from the observation that it equals
    far = int((np.abs((2 * bits - 1) @ pairs) >= abs(pairs.sum()) - 1e-12 * np.abs(pairs).sum()).sum())
    p = far / 2**n if exact else (far + 1) / (SAMPLED_FLIPS + 1)
    half = float(scipy_stats.t.ppf((1 + level) / 2, n - 1)) * spread / n**0.5
    return Mean(mean, mean - half, mean + half, p)


def holm(p_values: npt.ArrayLike) -> Reals:
    """The p-values (m,) adjusted so that all m are tested together (Holm 1979), in the order given.

    Raises RequestError for what is no probability.
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise RequestError(f"Holm's correction takes p-values (m,) between 0 and 1, not {p.tolist()}")
    order = p.argsort(kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def equivalent(low: npt.ArrayLike, high: npt.ArrayLike, margin: float) -> Truths:
    """Whether the whole interval of a difference lies inside (-margin, margin): a large p says no such thing.

    Raises RequestError unless the margin is above 0.
    """
    return np.asarray(not_worse(low, margin) & not_worse(np.negative(high), margin))


def not_worse(low: npt.ArrayLike, margin: float) -> Truths:
    """Whether the interval of a gain, whose lower end this is, lies above -margin.

    Raises RequestError unless the margin is above 0.
    """
    if not 0 < margin < np.inf:
        raise RequestError(f"a margin of {margin:g}: no interval lies within that; give one above 0, such as 0.5")
    return np.asarray(np.asarray(low, dtype=float) > -margin)


def aurac(ranks: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """The area under the rank-accuracy curve: the mean of the metric over log2 of the rank, by trapezes.

    In the metric's unit, so that a constant curve gives its constant, and one rank its value. Raises RequestError for
    ranks that repeat or lie below 1, or another number of values.
    """
    b, v = np.asarray(ranks, dtype=float), np.asarray(values, dtype=float)
    if b.ndim != 1 or b.shape != v.shape or not b.size or b.min() < 1 or np.unique(b).size < b.size:
        raise RequestError("the area under a curve takes different ranks (k,) from 1 up, and a value for each")
    if b.size == 1:
        return float(v[0])
    order = b.argsort()
    x, y = np.log2(b[order]), v[order]
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))


def _enough(n: int) -> None:
    if n < 2:
        raise RequestError(f"{n} example says nothing of a difference; score two or more")


def _resampled(n: int, resamples: int, seed: int) -> Iterator[Reals]:
    """How often each of n examples is drawn, (chunk, n) a time."""
    draws = generator(seed, "bootstrap")
    rows = max(1, CELLS // n)
    for start in range(0, resamples, rows):
        places = draws.integers(n, size=(min(rows, resamples - start), n))
        yield np.array([np.bincount(row, minlength=n) for row in places], dtype=float)


def _halves(n: int, repeats: int, seed: int) -> Iterator[Reals]:
    """Random halves of n examples as ones among zeros, (chunk, n) a time; of an odd number the smaller half."""
    draws = generator(seed, "halves")
    rows = max(1, CELLS // n)
    half = (np.arange(n) < n // 2).astype(float)
    for start in range(0, repeats, rows):
        yield draws.permuted(np.tile(half, (min(rows, repeats - start), 1)), axis=1)


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


def _f1(predictions: npt.NDArray[Any], references: npt.NDArray[Any]) -> Parts:
    """F1 of class 1, or the mean over the classes that are predicted or true where there are more than two."""
    made, true = _classes(predictions, references)
    n, k, c = made.shape
    binary = np.maximum(predictions.max(1), references.max()) <= 1

    def value(s: Reals, _: int) -> Reals:
        hits, all_made, all_true = np.split(s, [k * c, 2 * k * c], axis=-1)
        size = all_made.reshape(*s.shape[:-1], k, c) + all_true[..., None, :]
        each = 2 * hits.reshape(size.shape) / np.maximum(size, 1)
        return np.where(binary, each[..., 1], each.sum(-1) / (size > 0).sum(-1))

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
OTHERS = {"f1": _f1, "matthews_correlation": _matthews, "pearson": _pearson, "spearman": _spearman}
