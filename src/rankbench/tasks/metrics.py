"""Metrics as `evaluate.Metric` classes: `evaluate.load` needs the network, these do not."""

from __future__ import annotations

import math
import re
import string
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sk

from rankbench.settings.metrics import BLEU_COUNTS, MATCHES


class _Metric(evaluate.Metric):
    """A metric of (prediction, reference) pairs, both class numbers or both real numbers."""

    value = "int64"
    description = ""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.Value(self.value), "references": datasets.Value(self.value)}
        )
        return evaluate.MetricInfo(description=self.description, citation="", features=features)


class Accuracy(_Metric):
    """Share of predictions that equal the reference."""

    description = "share of equal predictions"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(sk.accuracy_score(references, predictions))}


class F1(_Metric):
    """F1 of class 1 where there are two classes (as GLUE), macro F1 where there are more."""

    description = "F1 of class 1, or macro F1"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        average = "binary" if max(max(predictions), max(references)) <= 1 else "macro"
        return {"f1": float(sk.f1_score(references, predictions, average=average, zero_division=0))}


class MatthewsCorrelation(_Metric):
    """Matthews correlation; 0 when one class alone is predicted."""

    description = "Matthews correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"matthews_correlation": float(sk.matthews_corrcoef(references, predictions))}


class Pearson(_Metric):
    """Pearson correlation; 0 when the predictions are constant."""

    value = "float64"
    description = "Pearson correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"pearson": _correlation(stats.pearsonr, predictions, references)}


class Spearman(_Metric):
    """Spearman rank correlation; 0 when the predictions are constant."""

    value = "float64"
    description = "Spearman rank correlation"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"spearman": _correlation(stats.spearmanr, predictions, references)}


class _TextMetric(evaluate.Metric):
    """A metric of (text, accepted texts) pairs."""

    description = ""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(description=self.description, citation="", features=features)


class ExactMatch(_TextMetric):
    """Share of texts that equal one of the accepted texts, case and all (as Sorted LLaMA scored TriviaQA)."""

    description = "share of texts equal to an accepted one, case-sensitive"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"exact_match": float(hits("exact_match", predictions, references).mean())}


class ExactMatchNormalized(_TextMetric):
    """Exact match after TriviaQA's normalisation of both sides: lower case, no articles, no punctuation."""

    description = "share of texts equal to an accepted one, normalised as TriviaQA does"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"exact_match_normalized": float(hits("exact_match_normalized", predictions, references).mean())}


class BleuSacre(_TextMetric):
    """Corpus BLEU of sacreBLEU (Post 2018): `13a` tokens, case kept, smoothed `exp`, as a share.

    All accepted texts of a row are its references. Papers report the BLEU of other scripts, whose values differ.
    """

    description = "corpus BLEU by sacreBLEU, 13a tokens, case-sensitive"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        most = max(map(len, references))
        streams = [[row[i] if i < len(row) else None for row in references] for i in range(most)]
        return {"bleu_sacre": _bleu().corpus_score(predictions, streams).score / 100}


def bleu_counts(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """What n texts add to a corpus's BLEU, (n,) under each name of `checks.BLEU_COUNTS`."""
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


def normalized(text: str) -> str:
    """The text in lower case without punctuation, articles and extra spaces (TriviaQA's evaluation)."""
    letters = "".join(" " if c in _PUNCTUATION else c for c in text.lower().replace("_", " "))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", letters).split())


_PUNCTUATION = frozenset(string.punctuation + "‘’´`")


class Loss(evaluate.Metric):
    """Mean loss of a response token in nats; predictions are summed losses of rows, references their tokens."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="mean loss per token", citation="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"loss": float(np.sum(predictions) / np.sum(references))}


class Perplexity(Loss):
    """The exponential of the mean loss of a response token."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        mean = float(np.sum(predictions) / np.sum(references))
        return {"perplexity": math.exp(mean) if mean < 700 else math.inf}


METRICS: dict[str, type[evaluate.Metric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearman": Spearman,
    "exact_match": ExactMatch,
    "exact_match_normalized": ExactMatchNormalized,
    "bleu_sacre": BleuSacre,
    "loss": Loss,
    "perplexity": Perplexity,
}


def score(names: list[str], columns: Mapping[str, Any], references: Any) -> dict[str, float]:
    """Each metric over n rows, as a share or correlation (not percent), or in nats.

    `columns` hold `prediction` (n,), or `loss` and `tokens` (n,) for the metrics of a language model's loss;
    `references` are the n labels, or the accepted texts of each row.
    """
    result: dict[str, float] = {}
    for name in names:
        metric = METRICS[name](keep_in_memory=True)
        if isinstance(metric, Loss):
            found = metric.compute(predictions=np.asarray(columns["loss"]), references=np.asarray(columns["tokens"]))
        else:
            found = metric.compute(predictions=np.asarray(columns["prediction"]), references=references)
        result.update(found or {})
    return result


def _correlation(function: Any, predictions: Any, references: Any) -> float:
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant input; the value stands all the same
        return float(function(predictions, references)[0])
