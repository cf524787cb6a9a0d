"""Whether sub-models differ on the examples or seeds at hand, and what the best of many is really worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rankbench.errors import RequestError
from rankbench.system.seeds import generator
from rankbench.tables.metric_sums import Reals, Resampled, Truths

CELLS = 2**21  # weights of a chunk of resamples: 16 MB
EXACT_SEEDS = 16  # up to here all sign flips are counted
SAMPLED_FLIPS = 100_000


@dataclass(frozen=True)
class Differences:
    """Metrics `value` (k,), each less the reference's, with an interval and a two-sided p; in the metric's own unit."""

    value: Reals
    difference: Reals
    low: Reals
    high: Reals
    p: Reals


@dataclass(frozen=True)
class Pairs:
    """Metrics `value` (k,), and each `difference` (k, k), row less column, with an interval and a p that hold together.

    With the chance `level` all intervals hold their true differences at once, so also those of the pairs that were
    looked at because they looked best.
    """

    value: Reals
    difference: Reals
    low: Reals
    high: Reals
    p: Reals


@dataclass(frozen=True)
class Trainings:
    """Sub-models, at these `places`, that were trained with the same two seeds or more: `values` (seeds, places)."""

    places: list[int]
    values: Reals


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


def bootstrap(
    metric: Resampled, reference: int, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Differences:
    """Every sub-model less the one at place `reference`, by resampling examples; the same resamples for all of them.

    The paired bootstrap (Dror et al. 2018): the interval holds the middle `level` of the resampled differences; p is
    twice the smaller share of them on either side of 0, which counts as both. Raises RequestError for fewer than two
    examples.
    """
    _enough(metric.n)
    drawn = np.concatenate([metric.at(weights) for weights in _resampled(metric.n, resamples, seed)])
    differences = drawn - drawn[:, [reference]]
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2], axis=0)
    rarer = np.minimum((differences <= 0).sum(0), (differences >= 0).sum(0))
    value = metric.whole()
    p = np.minimum(1.0, 2 * (1 + rarer) / (1 + resamples))
    return Differences(value, value - value[reference], low, high, p)


def all_pairs(
    metric: Resampled,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    trainings: Sequence[Trainings] = (),
) -> Pairs:
    """Every sub-model less every other, with intervals that hold together: multiple comparisons with the best.

    One maximum over all pairs is bootstrapped: the largest distance of a resampled difference from the observed one, in
    units of that pair's standard error. Its quantile widens every interval (max-t; Romano and Wolf 2005). An interval
    of a member less each other bounds how far it lies behind the best, whichever that is (Hsu 1996). A pair that no
    example tells apart still has the error of `metric.grain` examples. Where sub-models are means over seeds,
    `trainings` say how the seeds spread, and seeds are resampled beside the examples. Raises RequestError for fewer
    than two examples.
    """
    return pairs_of_means([(metric, trainings)], level, resamples, seed)


def pairs_of_means(
    metrics: Sequence[tuple[Resampled, Sequence[Trainings]]],
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Pairs:
    """As `all_pairs`, of the means over metrics of the same sub-models, each with examples and trainings of its own."""
    k = len(metrics[0][0].whole())
    value, away, error = np.zeros(k), np.zeros((resamples, k)), np.zeros((k, k))
    for place, (metric, trainings) in enumerate(metrics):
        _enough(metric.n)
        drawn = np.concatenate([metric.at(weights) for weights in _resampled(metric.n, resamples, seed + place)])
        whole = metric.whole()
        luck, of_seeds = _of_seeds(trainings, k, resamples, seed + place)
        spread = np.cov(drawn.T) + of_seeds
        own = np.diag(spread)
        value += whole
        away += drawn - whole + luck
        error += np.maximum(own[:, None] + own - 2 * spread, 0) + (metric.grain / metric.n) ** 2
    return _together(value / len(metrics), away / len(metrics), np.sqrt(error) / len(metrics), level)


def _together(value: Reals, away: Reals, error: Reals, level: float) -> Pairs:
    """Intervals that hold together, by draws (resamples, k) of how far the values (k,) lie from the truth."""
    resamples = len(away)
    one, other = np.triu_indices(len(value), 1)
    scale = np.where(error[one, other] > 0, error[one, other], np.inf)  # equal in every resample
    rows = max(1, CELLS // len(one))
    largest = np.concatenate(
        [
            (np.abs(part[:, one] - part[:, other]) / scale).max(1)
            for part in (away[start : start + rows] for start in range(0, resamples, rows))
        ]
    )
    difference = value[:, None] - value
    wide = float(np.quantile(largest, level)) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.where(difference == 0, 0, np.abs(difference) / error)
    rarer = len(largest) - np.searchsorted(np.sort(largest), observed)
    return Pairs(value, difference, difference - wide, difference + wide, (1 + rarer) / (1 + resamples))


def _of_seeds(trainings: Sequence[Trainings], k: int, resamples: int, seed: int) -> tuple[Reals, Reals]:
    """How far seeds may have moved the means of k sub-models: draws (resamples, k) and their covariance (k, k).

    A multiplier bootstrap: each seed's distance from the mean times a normal draw, all of them over the root of a
    chi-square, since a spread that so few seeds show may be too small. Of one pair this is the t interval over seeds.
    """
    draws = generator(seed, "seeds")
    luck, covariance = np.zeros((resamples, k)), np.zeros((k, k))
    for group in trainings:
        seeds = len(group.values)
        away = (group.values - group.values.mean(0)) / np.sqrt(seeds * (seeds - 1))
        few = np.sqrt((seeds - 1) / draws.chisquare(seeds - 1, (resamples, 1)))
        luck[:, group.places] = draws.standard_normal((resamples, seeds)) @ away * few
        covariance[np.ix_(group.places, group.places)] = away.T @ away
    return luck, covariance


def split_half(metric: Resampled, repeats: int = 1000, seed: int = 0) -> Halves:
    """The honest score of "the best of k": chosen on a random half of the examples, scored on the other half.

    Of equals each counts for its part. Raises RequestError for fewer than two examples.
    """
    _enough(metric.n)
    pairs = [(metric.at(half), metric.at(1 - half)) for half in _halves(metric.n, repeats, seed)]
    own, other = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    sign = 1 if metric.rises else -1
    seen = (sign * own).max(1)
    best = (sign * own == seen[:, None]) / (sign * own == seen[:, None]).sum(1, keepdims=True)
    honest = (best * other).sum(1)
    return Halves(float(honest.mean()), float(honest.std(ddof=1)), float((seen - sign * honest).mean()), best.mean(0))


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
    from scipy.special import stdtrit  # Student's quantile, without the second that scipy.stats takes

    exact = n <= EXACT_SEEDS
    if exact:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        bits = generator(seed, "sign flips").integers(2, size=(SAMPLED_FLIPS, n))
    mean, spread = float(pairs.mean()), float(pairs.std(ddof=1))
    # rounding must not part a flip from the observation that it equals
    far = int((np.abs((2 * bits - 1) @ pairs) >= abs(pairs.sum()) - 1e-12 * np.abs(pairs).sum()).sum())
    p = far / 2**n if exact else (far + 1) / (SAMPLED_FLIPS + 1)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * spread / n**0.5
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
