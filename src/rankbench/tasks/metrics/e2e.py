"""ROUGE-L and CIDEr of the E2E challenge's script, which has them from coco-caption."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rankbench.tasks.metrics.mteval import ngrams
from rankbench.tasks.metrics.ptb import tokenized
from rankbench.tasks.metrics.subsequence import Subsequence
from rankbench.tasks.metrics.text import References, Rows, TextPairs

ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0
ORDERS = 4


class RougeLE2E(TextPairs):
    """ROUGE-L of the E2E challenge: F, beta 1.2, of the best precision and the best recall of a row; their mean.

    Both may be of different references. Tokens are those of the Penn Treebank, in lower case without punctuation.
    """

    key = "rouge_l_e2e"
    description = "ROUGE-L by the E2E challenge's script"

    @staticmethod
    def against(references: References) -> Rows:
        """Each row's F."""
        wanted = [[Subsequence(_words(text)) for text in row] for row in references]

        def rows(texts: Sequence[str]) -> np.ndarray:
            found = np.zeros((len(texts), 1))
            for row, text, own in zip(found, texts, wanted, strict=True):
                words = _words(text)
                common = [(one.common(words), one.length) for one in own]
                precision = max(met for met, _ in common) / len(words)
                recall = max(met / length for met, length in common)
                if precision and recall:
                    row[0] = (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)
            return found

        return rows


def _words(text: str) -> list[str]:
    """The tokens; of an empty text one that is empty, as coco-caption has it."""
    return tokenized(text) or [""]


class CiderE2E(TextPairs):
    """CIDEr of the E2E challenge, which is CIDEr-D (Vedantam et al. 2015), in its own unit: 10 is the most.

    Cosines of the n-grams' tf-idf for n up to 4, clipped and less for other lengths, averaged over n, references and
    rows. An n-gram weighs by the share of the rows here whose references have it, so one row alone scores 0.
    """

    key = "cider_e2e"
    description = "CIDEr by the E2E challenge's script"

    @staticmethod
    def against(references: References) -> Rows:
        """Each row's CIDEr."""
        every = [[Counter(ngrams(tokenized(text), ORDERS)) for text in row] for row in references]
        rows_with = Counter(gram for row in every for gram in set().union(*row))
        most = math.log(len(every))
        weight = {gram: most - math.log(count) for gram, count in rows_with.items()}

        def vector(counts: Counter[tuple[str, ...]]) -> _Vector:
            return _Vector({gram: count * weight.get(gram, most) for gram, count in counts.items()}, counts)

        wanted = [[vector(counts) for counts in row] for row in every]

        def rows(texts: Sequence[str]) -> np.ndarray:
            made = [vector(Counter(ngrams(tokenized(text), ORDERS))) for text in texts]
            pairs = zip(made, wanted, strict=True)
            return np.array([[10 * sum(own.like(one) for one in row) / len(row)] for own, row in pairs])

        return rows


class _Vector:
    """A text's n-grams by their tf-idf, the norm of each n, and how many pairs of words it has."""

    def __init__(self, weights: dict[tuple[str, ...], float], counts: Counter[tuple[str, ...]]) -> None:
        self.weights = weights
        squares = [0.0] * ORDERS
        for gram, weight in weights.items():
            squares[len(gram) - 1] += weight**2
        self.norms = list(map(math.sqrt, squares))
        self.pairs = sum(count for gram, count in counts.items() if len(gram) == 2)

    def like(self, other: _Vector) -> float:
        """CIDEr-D of this text against one reference."""
        products = [0.0] * ORDERS
        for gram in self.weights.keys() & other.weights.keys():
            own, its = self.weights[gram], other.weights[gram]
            products[len(gram) - 1] += (own if own < its else its) * its
        cosines = [p / (a * b) if a * b else 0 for p, a, b in zip(products, self.norms, other.norms, strict=True)]
        return sum(cosines) / ORDERS * math.exp(-((self.pairs - other.pairs) ** 2) / (2 * CIDER_SIGMA**2))
