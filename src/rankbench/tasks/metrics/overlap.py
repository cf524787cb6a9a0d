"""Overlap by characters and words: chrF as sacreBLEU has it, ROUGE as the package rouge-score, and distinct n-grams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rankbench.settings.text_sums import chrf
from rankbench.tasks.metrics.subsequence import Subsequence
from rankbench.tasks.metrics.text import References, Rows, TextPairs

ORDERS = range(1, 7)


class ChrF(TextPairs):
    """Corpus chrF2 of sacreBLEU (Popovic 2015): n-grams of up to 6 characters, blanks left out, case kept; a share."""

    key = "chrf"
    description = "corpus chrF2 by sacreBLEU, 6 characters"

    @staticmethod
    def against(references: References) -> Rows:
        """The n-grams of a text, of its best reference, and those that both have."""
        wanted = [[_characters(text) for text in row] for row in references]

        def rows(texts: Sequence[str]) -> np.ndarray:
            return np.array([_best(_characters(text), own) for text, own in zip(texts, wanted, strict=True)])

        return rows


def _characters(text: str) -> tuple[int, Counter[str]]:
    """How many characters a text has, and its n-grams."""
    letters = "".join(text.split())
    return len(letters), Counter([letters[i : i + n] for n in ORDERS for i in range(len(letters) - n + 1)])


def _best(made: tuple[int, Counter[str]], references: list[tuple[int, Counter[str]]]) -> np.ndarray:
    """The counts (18,) against the reference of the highest chrF, of equals the first."""
    rows = []
    for length, wanted in references:
        matched = [0] * len(ORDERS)
        for gram in made[1].keys() & wanted.keys():
            own, its = made[1][gram], wanted[gram]
            matched[len(gram) - 1] += own if own < its else its
        counts = [max(0, made[0] - n + 1) * (length >= n) for n in ORDERS], [max(0, length - n + 1) for n in ORDERS]
        rows.append([*counts[0], *counts[1], *matched])
    found = np.array(rows, dtype=float)
    return np.asarray(found[int(chrf(found, 1).argmax())])


def _both(one: Mapping[Any, int], other: Mapping[Any, int]) -> int:
    return sum([min(one[gram], other[gram]) for gram in one.keys() & other.keys()])


class Rouge1(TextPairs):
    """ROUGE-1 of the package rouge-score, not stemmed: the mean over rows of F against the best reference."""

    key = "rouge_1"
    description = "F of single words by rouge-score, of the best reference"

    @staticmethod
    def against(references: References) -> Rows:
        """F of the words."""
        return _rouge(references, 1)


class Rouge2(TextPairs):
    """ROUGE-2 of the package rouge-score, not stemmed: the mean over rows of F against the best reference."""

    key = "rouge_2"
    description = "F of pairs of words by rouge-score, of the best reference"

    @staticmethod
    def against(references: References) -> Rows:
        """F of the pairs of words."""
        return _rouge(references, 2)


class RougeL(TextPairs):
    """ROUGE-L of the package rouge-score, not stemmed; that of the E2E challenge is another (`rouge_l_e2e`)."""

    key = "rouge_l"
    description = "F of the longest common subsequence by rouge-score, of the best reference"

    @staticmethod
    def against(references: References) -> Rows:
        """F of the longest common subsequence."""
        wanted = [[Subsequence(_words(text)) for text in row] for row in references]

        def rows(texts: Sequence[str]) -> np.ndarray:
            pairs = zip(map(_words, texts), wanted, strict=True)
            return np.array([[max(_f(one.common(own), len(own), one.length) for one in row)] for own, row in pairs])

        return rows


def _rouge(references: References, n: int) -> Rows:
    def grams(text: str) -> Counter[tuple[str, ...]]:
        return Counter(_grams(_words(text), n))

    wanted = [[grams(text) for text in row] for row in references]

    def rows(texts: Sequence[str]) -> np.ndarray:
        pairs = zip(map(grams, texts), wanted, strict=True)
        return np.array(
            [[max(_f(_both(own, one), sum(own.values()), sum(one.values())) for one in row)] for own, row in pairs]
        )

    return rows


def _words(text: str) -> list[str]:
    """rouge-score's words: runs of ASCII letters and digits in lower case."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _f(common: int, made: int, wanted: int) -> float:
    return 2 * common / (made + wanted) if common else 0.0


class Distinct1(TextPairs):
    """Different words of all texts over all their words (Li et al. 2016), parted by blanks; no reference is read."""

    description = "share of words that are different"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"distinct_1": _distinct(predictions, 1)}


class Distinct2(TextPairs):
    """Different pairs of words of all texts over all their pairs (Li et al. 2016); no reference is read."""

    description = "share of pairs of words that are different"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"distinct_2": _distinct(predictions, 2)}


def _distinct(texts: Sequence[str], n: int) -> float:
    every = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(every)) / len(every) if every else 0.0


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)
