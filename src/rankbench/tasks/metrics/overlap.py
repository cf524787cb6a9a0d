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

        def rows(texts: Sequence[str]) -> np.ndarray:
            return np.array([_best(text, own) for text, own in zip(texts, references, strict=True)])

        return rows


def _best(text: str, references: Sequence[str]) -> np.ndarray:
    """The counts (18,) against the reference of the highest chrF, of equals the first."""
    counts = list(_characters([text, *references]))
    made = np.array([table.sum(1) for table in counts]).T
    matched = np.array([np.minimum(table[0], table[1:]).sum(1) for table in counts]).T
    found = np.concatenate([made[0] * (made[1:] > 0), made[1:], matched], 1).astype(float)
    return np.asarray(found[int(chrf(found, 1).argmax())])


def _characters(texts: Sequence[str]) -> Iterator[np.ndarray]:
    """For each n how often each n-gram of characters is in each text, (texts, n-grams)."""
    letters = ["".join(text.split()) for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(own) for own in letters])
    codes = np.frombuffer("".join(letters).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    starts, gram = np.arange(len(owner)), np.zeros(len(owner), np.int64)
    for n in ORDERS:
        starts = starts[starts + n <= len(owner)]
        starts = starts[owner[starts] == owner[starts + n - 1]]
        # A gram is the one before it, by its number, and one character more: below 2^53 for any text.
        names, gram[starts] = np.unique(gram[starts] << 21 | codes[starts + n - 1], return_inverse=True)
        places = owner[starts] * len(names) + gram[starts]
        yield np.bincount(places, minlength=len(texts) * len(names)).reshape(len(texts), len(names))


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
