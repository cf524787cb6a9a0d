"""What metrics of generated responses share, each held to its accepted texts; and exact match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from rankbench.settings.metrics import METRICS, normalized
from rankbench.settings.outside import load

References = Sequence[Sequence[str]]  # of each row the accepted texts
Rows = Callable[[Sequence[str]], np.ndarray]  # of n texts, what each adds to the metric: (n, columns it keeps)


class TextPairs(evaluate.Metric):
    """A metric of (text, accepted texts) pairs."""

    key = ""
    description = ""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(description=self.description, citation="", features=features)

    against: Callable[[References], Rows]  # what gives the columns of texts held to these, which are read once

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.key: of_sums(self.key, self.against(references)(predictions))}


class ExactMatch(TextPairs):
    """Share of texts that equal one of the accepted texts, case and all (as Sorted LLaMA scored TriviaQA)."""

    key = "exact_match"
    description = "share of texts equal to an accepted one, case-sensitive"

    @staticmethod
    def against(references: References) -> Rows:
        """Whether a text is an accepted one."""
        return lambda texts: np.array([[text in own] for text, own in zip(texts, references, strict=True)])


class ExactMatchNormalized(TextPairs):
    """Exact match after TriviaQA's normalisation of both sides: lower case, no articles, no punctuation."""

    key = "exact_match_normalized"
    description = "share of texts equal to an accepted one, normalised as TriviaQA does"

    @staticmethod
    def against(references: References) -> Rows:
        """Whether a text that is not empty is an accepted one."""
        accepted = [set(map(normalized, row)) for row in references]
        return lambda texts: np.array(
            [[bool(text) and normalized(text) in own] for text, own in zip(texts, accepted, strict=True)]
        )


def columns(
    metrics: Sequence[str], answers: Sequence[Sequence[str]] | np.ndarray, references: References
) -> dict[str, np.ndarray]:
    """The columns (k, n) by which n texts of k sub-models count for those of `metrics` that keep any."""
    found: dict[str, np.ndarray] = {}
    for name in metrics:
        if kept := METRICS[name].kept:
            rows = load(METRICS[name].implementation).against(references)
            found |= dict(zip(kept, np.moveaxis(np.array([rows(texts) for texts in answers]), -1, 0), strict=True))
    return found


def of_sums(metric: str, rows: np.ndarray) -> float:
    """A metric of the columns (n, m) that it keeps."""
    return float(load(METRICS[metric].of_sums)(rows.sum(0, dtype=float), len(rows)))
