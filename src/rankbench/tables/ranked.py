"""Metrics of how examples are ranked by a probability, which are no functions of few sums over the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

CELLS = 2**16  # weights of resamples that are ranked at a time: they stay in a processor's cache


@dataclass(frozen=True)
class Ranked:
    """The area under a curve of k sub-models over n examples: as `metric_sums.Sums`, but ranked anew in each resample.

    `steps` are those of each sub-model for each class, `true` (classes, n) which examples are of it. With `precision`
    it is average precision, else the area under the ROC curve: the mean over classes that a resample has, and not
    alone.
    """

    steps: Sequence[Sequence[Any]]
    true: Truths
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
        rows = max(1, CELLS // self.n)
        return np.concatenate([self._at(weights[start : start + rows]) for start in range(0, len(weights), rows)])

    def _at(self, weights: Reals) -> Reals:
        by_example = np.ascontiguousarray(weights.T)
        of_class = self.true @ by_example
        others = by_example.sum(0) - of_class
        there = (of_class > 0) & (self.precision | (others > 0))
        sizes = [*zip(of_class, others, strict=True)]
        areas = [
            [_area(own @ by_example, *size, self.precision) for own, size in zip(steps, sizes, strict=True)]
            for steps in self.steps
        ]
        found = np.where(there, np.array(areas).reshape(len(self.steps), *there.shape), 0).sum(1)
        return np.where(there.any(0), found / np.maximum(there.sum(0), 1), 0.0 if self.precision else 0.5).T


def of_scores(scores: Reals, truth: npt.NDArray[np.int_], positive: int, precision: bool) -> Ranked:
    """From probabilities (k, n, classes) and classes (n,); of two classes the positive one alone is told."""
    classes = range(scores.shape[2]) if scores.shape[2] > 2 else [positive]
    each = [one for one in classes if (truth == one).any()]
    true = np.array([truth == one for one in each]).reshape(len(each), len(truth))
    steps = [[_steps(own[:, one], is_one) for one, is_one in zip(each, true, strict=True)] for own in scores]
    return Ranked(steps, true, precision)


def _steps(chances: Reals, true: Truths) -> Any:
    """What sums weights of examples for each step: a probability (n,) that examples of the class have, highest first.

    A sparse matrix (3 steps, n): the class's examples at each step, the others above it (and below the step before),
    and the others at it.
    """
    from scipy import sparse

    levels = -np.unique(-chances[true])
    step = np.searchsorted(-levels, -chances)  # the step of each example, or the next below it
    tied = (step < len(levels)) & (levels[np.minimum(step, len(levels) - 1)] == chances)
    row = step + len(levels) * np.where(true, 0, np.where(tied, 2, 1))
    used = step < len(levels)
    places = row[used], np.flatnonzero(used)
    return sparse.csr_array((np.ones(used.sum()), places), shape=(3 * len(levels), len(chances)))


def _area(sums: Reals, of_class: Reals, others: Reals, precision: bool) -> Reals:
    """The area (r,) from sums at `_steps` (3 steps, r), and the weights (r,) of the class and of the others."""
    true, above, tied = np.split(sums, 3)
    above = np.cumsum(above + tied, axis=0) - tied
    if precision:
        hits = np.cumsum(true, axis=0)
        made = hits + above + tied
        true, share, whole = true * hits, 1 / np.maximum(made, np.finfo(float).tiny), of_class
    else:
        share, whole = others - above - tied / 2, of_class * others
    return np.divide(np.einsum("sr,sr->r", true, share), whole, out=np.zeros_like(whole), where=whole > 0)
