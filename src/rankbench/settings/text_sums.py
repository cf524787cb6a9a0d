"""Metrics of generated texts as functions of what adds over responses: the columns that their `Measure` keeps.

Each takes sums (..., m) over n responses, in the order of `Measure.kept`, and gives the metric (...).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

NIST_BETA = np.log(2) / np.log(1.5) ** 2
CHRF_BETA = 2
METEOR_ALPHA, METEOR_BETA, METEOR_GAMMA = 0.85, 0.2, 0.6  # METEOR 1.5's for English
METEOR_MATCHERS = (1.0, 0.6, 0.8, 0.6)  # what a match weighs: of the word, its stem, a synonym, a paraphrase
METEOR_CONTENT = 0.75  # what a content word weighs; a function word the rest of 1


def mean(s: Reals, n: int) -> Reals:
    """The mean over responses."""
    return s[..., 0] / n


def bleu(s: Reals, _: int) -> Reals:
    """Corpus BLEU with sacreBLEU's `exp` smoothing: the i-th n without a match counts as 2^-i of one."""
    matched, total = s[..., :4], s[..., 4:8]
    missed = np.cumsum((matched == 0) & (total > 0), axis=-1)
    return np.where(matched.any(-1), _bleu(np.where(matched > 0, matched, 0.5**missed), total, s), 0)


def bleu_perl(s: Reals, _: int) -> Reals:
    """Corpus BLEU of multi-bleu-detok.perl: not smoothed, so 0 where no n-gram of one n is met."""
    return _bleu(s[..., :4], s[..., 4:8], s)


def _bleu(matched: Reals, total: Reals, s: Reals) -> Reals:
    words, nearest = s[..., 8], s[..., 9]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(total > 0, matched / total, 0)
        score = np.exp(np.log(precision).mean(-1) + np.minimum(0, 1 - nearest / words))
    return np.where(words > 0, score, 0)


def nist_e2e(s: Reals, n: int) -> Reals:
    """NIST of the E2E challenge's script with `-p`: mean information of an n-gram, summed over n, less for short texts.

    Doddington (2002). A text of w tokens has w - n + 1 n-grams, fewer than 0 too; the reference length is the sum of
    the responses' mean ones.
    """
    information, words, wanted = s[..., :5], s[..., 5], s[..., 6]
    total = words[..., None] - n * np.arange(5)
    ratio = np.clip(words / wanted, 0, 1)
    with np.errstate(divide="ignore"):
        short = np.exp(-NIST_BETA * np.log(ratio) ** 2)
    return np.asarray((information / np.where(total > 0, total, np.inf)).sum(-1) * short)


def meteor(s: Reals, _: int) -> Reals:
    """METEOR 1.5 (Denkowski and Lavie 2014): the mean of precision and recall, less for matches in many chunks."""
    matched, weight, reference_matched, reference_weight, chunks, met = np.moveaxis(s, -1, 0)
    precision, recall = _share(matched, weight), _share(reference_matched, reference_weight)
    both = _share(precision * recall, METEOR_ALPHA * precision + (1 - METEOR_ALPHA) * recall)
    return both * (1 - METEOR_GAMMA * _share(2 * chunks, met) ** METEOR_BETA)


def ter(s: Reals, _: int) -> Reals:
    """Edits over the words of the references; where they have none, 1 for any edit."""
    edits, words = s[..., 0], s[..., 1]
    return np.divide(edits, words, out=np.where(edits > 0, 1.0, 0.0), where=words > 0)


def chrf(s: Reals, _: int) -> Reals:
    """chrF2 of sacreBLEU: F of the mean precision and recall over the n of which both sides have n-grams."""
    made, wanted, matched = s[..., :6], s[..., 6:12], s[..., 12:]
    there = (made > 0) & (wanted > 0)
    orders = there.sum(-1)
    precision = _share((_share(matched, made) * there).sum(-1), orders)
    recall = _share((_share(matched, wanted) * there).sum(-1), orders)
    return _share((1 + CHRF_BETA**2) * precision * recall, CHRF_BETA**2 * precision + recall)


def _share(part: Reals, whole: Reals) -> Reals:
    """The one over the other; 0 where that is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=float), whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole != 0)
