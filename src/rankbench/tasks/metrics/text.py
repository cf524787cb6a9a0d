"""Metrics of generated responses, each held to its accepted texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from rankbench.settings.metrics import BLEU_COUNTS, MATCHES, normalized


class TextPairs(evaluate.Metric):
    """A metric of (text, accepted texts) pairs."""

    description = ""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(description=self.description, citation="", features=features)


class ExactMatch(TextPairs):
    """Share of texts that equal one of the accepted texts, case and all (as Sorted LLaMA scored TriviaQA)."""

    description = "share of texts equal to an accepted one, case-sensitive"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"exact_match": float(hits("exact_match", predictions, references).mean())}


class ExactMatchNormalized(TextPairs):
    """Exact match after TriviaQA's normalisation of both sides: lower case, no articles, no punctuation."""

    description = "share of texts equal to an accepted one, normalised as TriviaQA does"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"exact_match_normalized": float(hits("exact_match_normalized", predictions, references).mean())}


class BleuSacre(TextPairs):
    """Corpus BLEU of sacreBLEU (Post 2018): `13a` tokens, case kept, smoothed `exp`, as a share.

    All accepted texts of a row are its references. Papers report the BLEU of other scripts, whose values differ.
    """

    description = "corpus BLEU by sacreBLEU, 13a tokens, case-sensitive"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        most = max(map(len, references))
        streams = [[row[i] if i < len(row) else None for row in references] for i in range(most)]
        return {"bleu_sacre": _bleu().corpus_score(predictions, streams).score / 100}


def bleu_counts(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """What n texts add to a corpus's BLEU, (n,) under each name of `settings.metrics.BLEU_COUNTS`."""
    bleu = _bleu()
    rows = [bleu.corpus_score([text], [[own] for own in row]) for text, row in zip(texts, references, strict=True)]
    found = np.array([[*row.counts, *row.totals, row.sys_len, row.ref_len] for row in rows])
    return dict(zip(BLEU_COUNTS, found.T, strict=True))


def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(force=True)  # no advice about texts that look tokenized


def answered(
    metrics: Sequence[str], texts: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """The columns (n,) by which n texts count for those of `metrics` that score generated responses."""
    columns = {name: hits(name, texts, references) for name in metrics if name in MATCHES}
    return columns | (bleu_counts(texts, references) if "bleu_sacre" in metrics else {})


def hits(metric: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Which of n texts equal one of their accepted texts (n,), as exact_match or exact_match_normalized has it."""
    pairs = zip(texts, references, strict=True)
    if metric == "exact_match":
        return np.array([text in accepted for text, accepted in pairs])
    return np.array([bool(text) and normalized(text) in map(normalized, accepted) for text, accepted in pairs])
