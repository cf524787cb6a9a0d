"""The metrics by name: what each scores and how people read it. What computes them is in `tasks.metrics`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """What a metric scores, what it is multiplied by where people read it, and whether more is better."""

    kind: str
    times: int = 100
    rises: bool = True


METRICS = {
    "accuracy": Measure("classification"),
    "f1": Measure("classification"),
    "matthews_correlation": Measure("classification"),
    "pearson": Measure("regression"),
    "spearman": Measure("regression"),
    "exact_match": Measure("causal_lm"),
    "exact_match_normalized": Measure("causal_lm"),
    "bleu_sacre": Measure("causal_lm"),
    "loss": Measure("causal_lm", times=1, rises=False),
    "perplexity": Measure("causal_lm", times=1, rises=False),
}


def times(metric: str) -> int:
    """What people read a metric multiplied by; a split's name may follow the metric's."""
    known = _measure(metric)
    return known.times if known else 1


def unit(metric: str) -> str:
    """A metric with what it is multiplied by where people read it: `accuracy x 100`, `loss`."""
    return f"{metric} x {times(metric)}" if times(metric) > 1 else metric


def rises(metric: str) -> bool:
    """Whether more of a metric is better; a split's name may follow the metric's."""
    known = _measure(metric)
    return known is None or known.rises


def _measure(metric: str) -> Measure | None:
    known = [name for name in METRICS if metric == name or metric.startswith(name + "_")]
    return METRICS[max(known, key=len)] if known else None


MATCHES = ("exact_match", "exact_match_normalized")  # metrics by which a generated response is right or wrong
GENERATED = (*MATCHES, "bleu_sacre")  # metrics that need a generated response
BLEU_COUNTS = (  # columns of predictions.parquet: what a response adds to the counts of a corpus's BLEU
    *(f"bleu_matched_{n}" for n in range(1, 5)),
    *(f"bleu_total_{n}" for n in range(1, 5)),
    "bleu_length",
    "bleu_reference_length",
)
