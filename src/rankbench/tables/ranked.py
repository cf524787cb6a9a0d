"""Metrics of how examples are ranked by a probability, which are no functions of few sums over the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Order:
    """Examples by their probability of one class, the highest first, and where each one's ties begin and end."""

    examples: Places  # (n,)
    first: Places  # (n,): how many lie before the ties of each
    last: Places  # (n,): how many lie before or among them

    @classmethod
    def of(cls, chances: Reals) -> Order:
        """The order of probabilities (n,)."""
        examples = np.argsort(-chances, kind="stable")
        ordered = -chances[examples]
        first, last = (np.searchsorted(ordered, ordered, side) for side in ("left", "right"))
        return cls(examples, first, last)


@dataclass(frozen=True)
class Ranked:
    """The area under a curve of k sub-models over n examples: as `metric_sums.Sums`, but ranked anew in each resample.

    `orders` are of each sub-model for each class, `true` (classes, n) which examples are of it. With `precision` it is
    average precision, else the area under the ROC curve: the mean over classes that a resample has (and has others).
    """

    orders: Sequence[Sequence[Order]]
    true: npt.NDArray[np.bool_]
    precision: bool
    rises: bool = True

    @property
    def n(self) -> int:
        """The number of examples."""
        return self.true.shape[1]

    @property
    def grain(self) -> float:
        """What one example weighs that is no longer told from the other class, the root of the mean square."""
        has = self.true.sum(1)
        has = has[(has > 0) & (has < self.n)]
        return float(0.5 * np.sqrt(self.n * (1 / has + 1 / (self.n - has)).sum()) / len(has)) if len(has) else 1.0

    def whole(self) -> Reals:
        """The metric (k,) over all examples, once each."""
        return self.at(np.ones((1, self.n)))[0]

    def at(self, weights: Reals) -> Reals:
        """The metric (r, k) of r resamples that hold each example as often as `weights` (r, n) say."""
        by_example = np.ascontiguousarray(weights.T)
        whole = by_example.sum(0)
        of_class = self.true @ by_example
        there = (of_class > 0) & (self.precision | (of_class < whole))
        values = np.zeros((len(weights), len(self.orders)))
        for k, orders in enumerate(self.orders):
            for true, order, have, counts in zip(self.true, orders, of_class, there, strict=True):
                ordered = by_example[order.examples]
                places = np.flatnonzero(true[order.examples])
                area = (_precision if self.precision else _roc)(ordered, places, order, have)
                values[:, k] += np.where(counts, area, 0)
        number = there.sum(0)[:, None]
        return np.where(number, values / np.maximum(number, 1), 0.0 if self.precision else 0.5)


def of_scores(scores: Reals, truth: npt.NDArray[np.int_], positive: int, precision: bool) -> Ranked:
    """From probabilities (k, n, classes) and classes (n,); of two classes the positive one alone is told."""
    classes = range(scores.shape[2]) if scores.shape[2] > 2 else [positive]
    each = [one for one in classes if (truth == one).any()]
    orders = [[Order.of(own[:, one]) for one in each] for own in scores]
    return Ranked(orders, np.array([truth == one for one in each]).reshape(len(each), len(truth)), precision)


def _before(weights: Reals) -> Reals:
    """The weight (n + 1, r) before each place."""
    return np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights, axis=0)])


def _roc(weights: Reals, true: Places, order: Order, have: Reals) -> Reals:
    """The share (r,) of pairs of an example of the class and another that are ordered rightly, ties counted half.

    `weights` (n, r) in order, `true` the places of the class, `have` (r,) its weight.
    """
    others = weights.copy()
    others[true] = 0
    before = _before(others)
    above = (before[order.first[true]] + before[order.last[true]]) / 2
    pairs = have * before[-1]
    right = pairs - np.einsum("pr,pr->r", weights[true], above)
    return np.divide(right, pairs, out=np.zeros_like(pairs), where=pairs > 0)


def _precision(weights: Reals, true: Places, order: Order, have: Reals) -> Reals:
    """The mean (r,), over the examples of the class, of its share among all from their probability up."""
    own = np.zeros_like(weights)
    own[true] = weights[true]
    last = order.last[true]
    hits, made = _before(own)[last], _before(weights)[last]
    shares = np.divide(hits, made, out=np.zeros_like(hits), where=made > 0)
    return np.divide(np.einsum("pr,pr->r", weights[true], shares), have, out=np.zeros_like(have), where=have > 0)
