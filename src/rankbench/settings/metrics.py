"""The metrics by name: what each scores and how people read it. What computes them is in `tasks.metrics`.

A metric of another package comes by an entry point of the group `rankbench.metrics`: its name, and a `Measure`.
"""

from __future__ import annotations

import re
import shutil
import string
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.settings.outside import installed


@dataclass(frozen=True)
class ClassRoles:
    """What metrics need of a task's classes: how many there are, and the number of the positive one."""

    count: int = 2
    positive: int = 1


@dataclass(frozen=True)
class Measure:
    """What a metric scores, what computes it, what people read it multiplied by, and whether more is better."""

    kind: str
    implementation: str  # an `evaluate.Metric`, as `module:Class`
    times: int = 100
    rises: bool = True
    generated: bool = False  # whether it scores a generated response
    of_classes: bool = False  # whether its `compute` takes `roles`, the task's ClassRoles
    of_scores: bool = False  # whether its predictions are probabilities (n, classes), not class numbers (n,)
    positive: bool = False  # whether it is of the positive class: always, or by scores where there are two
    kept: tuple[str, ...] = ()  # columns of predictions.parquet, a number a response, whose sums give the metric
    of_sums: str = ""  # what gives it, as `module:function`: of such sums (..., len(kept)) over n responses, and n
    java: bool = False  # whether it wants Java and the extra `meteor`
    of_nulls: bool = False  # whether its `compute` takes `null_difference`, and so is of all rows alone

    @property
    def of_texts(self) -> bool:
        """Whether its predictions are texts, each held to a list of accepted ones."""
        return self.generated or self.kind == "question_answering"

    @property
    def percent(self) -> bool:
        """Whether `rankbench.score` gives it in percent, as the official scripts do."""
        return self.kind == "question_answering" and self.times > 1


def _of_classes(implementation: str, **told: Any) -> Measure:
    return Measure("classification", f"rankbench.tasks.metrics.classification:{implementation}", **told)


def _of_scores(implementation: str, times: int = 100, rises: bool = True, **told: Any) -> Measure:
    place = f"rankbench.tasks.metrics.probabilities:{implementation}"
    return Measure("classification", place, times, rises, of_scores=True, **told)


def _of_texts(implementation: str, kept: tuple[str, ...], of_sums: str = "mean", **told: Any) -> Measure:
    place = f"rankbench.tasks.metrics.{implementation}"
    sums = f"rankbench.settings.text_sums:{of_sums}" if kept else ""
    return Measure("causal_lm", place, generated=True, kept=kept, of_sums=sums, **told)


def _of_spans(name: str, implementation: str, times: int = 100, of_nulls: bool = False) -> dict[str, Measure]:
    place, sums = f"rankbench.tasks.metrics.squad:{implementation}", "rankbench.settings.text_sums:mean"
    kept = () if of_nulls else (name,)
    return {
        name: Measure("question_answering", place, times, kept=kept, of_sums=sums if kept else "", of_nulls=of_nulls)
    }


def _numbered(start: str, most: int) -> tuple[str, ...]:
    return tuple(f"{start}_{n}" for n in range(1, most + 1))


def _counts(start: str) -> tuple[str, ...]:
    """Of a BLEU: for each n the matches and the n-grams, then the lengths of the text and of its nearest reference."""
    each = (*_numbered(f"{start}_matched", 4), *_numbered(f"{start}_total", 4))
    return (*each, f"{start}_length", f"{start}_reference_length")


def _nist(start: str) -> tuple[str, ...]:
    """For each n the information of the matches, then the length of the text and the mean one of its references."""
    return (*_numbered(f"{start}_information", 5), f"{start}_length", f"{start}_reference_length")


def _meteor(start: str) -> tuple[str, ...]:
    parts = ("matched", "weight", "reference_matched", "reference_weight", "chunks", "words_matched")
    return tuple(f"{start}_{part}" for part in parts)


METRICS: dict[str, Measure] = {
    "accuracy": _of_classes("Accuracy"),
    "balanced_accuracy": _of_classes("BalancedAccuracy"),
    "f1": _of_classes("F1", of_classes=True, positive=True),
    "f1_macro": _of_classes("MacroF1", of_classes=True),
    "precision": _of_classes("Precision", of_classes=True, positive=True),
    "precision_macro": _of_classes("MacroPrecision", of_classes=True),
    "recall": _of_classes("Recall", of_classes=True, positive=True),
    "recall_macro": _of_classes("MacroRecall", of_classes=True),
    "matthews_correlation": _of_classes("MatthewsCorrelation"),
    "roc_auc": _of_scores("RocAuc", of_classes=True, positive=True),
    "average_precision": _of_scores("AveragePrecision", of_classes=True, positive=True),
    "log_loss": _of_scores("LogLoss", times=1, rises=False),
    "ece": _of_scores("CalibrationError", rises=False),
    "pearson": Measure("regression", "rankbench.tasks.metrics.regression:Pearson"),
    "spearman": Measure("regression", "rankbench.tasks.metrics.regression:Spearman"),
    "r2": Measure("regression", "rankbench.tasks.metrics.regression:R2"),
    "mse": Measure("regression", "rankbench.tasks.metrics.regression:MeanSquaredError", times=1, rises=False),
    "mae": Measure("regression", "rankbench.tasks.metrics.regression:MeanAbsoluteError", times=1, rises=False),
    "exact_match": _of_texts("text:ExactMatch", ("exact_match",)),
    "exact_match_normalized": _of_texts("text:ExactMatchNormalized", ("exact_match_normalized",)),
    "exact_number": _of_texts("numbers:ExactNumber", ("exact_number",)),
    "bleu_sacre": _of_texts("mteval:BleuSacre", _counts("bleu"), "bleu"),
    "bleu_e2e": _of_texts("mteval:BleuE2E", _counts("bleu_e2e"), "bleu"),
    "nist_e2e": _of_texts("mteval:NistE2E", _nist("nist_e2e"), "nist_e2e", times=1),
    "meteor_e2e": _of_texts("meteor:MeteorE2E", _meteor("meteor_e2e"), "meteor", java=True),
    "rouge_l_e2e": _of_texts("e2e:RougeLE2E", ("rouge_l_e2e",)),
    "cider_e2e": _of_texts("e2e:CiderE2E", ("cider_e2e",), times=1),
    "bleu_webnlg": _of_texts("webnlg:BleuWebNLG", _counts("bleu_webnlg"), "bleu_perl"),
    "meteor_webnlg": _of_texts("meteor:MeteorWebNLG", _meteor("meteor_webnlg"), "meteor", java=True),
    "ter_webnlg": _of_texts("webnlg:TerWebNLG", ("ter_webnlg",), rises=False),
    "ter": _of_texts("ter:Ter", ("ter_edits", "ter_reference_length"), "ter", rises=False),
    "chrf": _of_texts(
        "overlap:ChrF",
        (*_numbered("chrf_text", 6), *_numbered("chrf_reference", 6), *_numbered("chrf_matched", 6)),
        "chrf",
    ),
    "rouge_1": _of_texts("overlap:Rouge1", ("rouge_1",)),
    "rouge_2": _of_texts("overlap:Rouge2", ("rouge_2",)),
    "rouge_l": _of_texts("overlap:RougeL", ("rouge_l",)),
    "distinct_1": _of_texts("overlap:Distinct1", ()),
    "distinct_2": _of_texts("overlap:Distinct2", ()),
    **_of_spans("squad_f1", "F1"),
    **_of_spans("squad_exact_match", "ExactMatch"),
    **_of_spans("squad_v2_f1", "F1V2"),
    **_of_spans("squad_v2_exact_match", "ExactMatchV2"),
    **_of_spans("squad_v2_best_f1", "BestF1", of_nulls=True),
    **_of_spans("squad_v2_best_f1_thresh", "BestF1Threshold", times=1, of_nulls=True),
    **_of_spans("squad_v2_best_exact_match", "BestExactMatch", of_nulls=True),
    **_of_spans("squad_v2_best_exact_match_thresh", "BestExactMatchThreshold", times=1, of_nulls=True),
    "loss": Measure("causal_lm", "rankbench.tasks.metrics.language_model:Loss", times=1, rises=False),
    "perplexity": Measure("causal_lm", "rankbench.tasks.metrics.language_model:Perplexity", times=1, rises=False),
}
METRICS |= installed("rankbench.metrics", Measure, METRICS)


METEOR_MEND = (
    "pip install 'rankbench[meteor]' and install Java (Debian: apt-get install default-jre-headless), or leave "
    "meteor_e2e and meteor_webnlg out of task.metrics"
)


def meteor() -> tuple[str, Path]:
    """Java, and the folder of the package that brings METEOR. Raises RequestError where one of them is missing."""
    java, spec = shutil.which("java"), find_spec("pycocoevalcap")
    if java is None:
        raise RequestError(f"METEOR is a Java program, and no java is here; {METEOR_MEND}")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "meteor" / "meteor-1.5.jar").is_file():
            return java, Path(place)
    raise RequestError(f"METEOR comes with the package pycocoevalcap, which is not here; {METEOR_MEND}")


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


def undefined(metric: str, labels: Collection[float], roles: ClassRoles) -> str | None:
    """Why a metric says nothing of sub-models where these are the distinct labels; None where it does."""
    known = base(metric)
    if known in VARYING and len(labels) < 2:
        return "every label is the same"
    of_one = known is not None and of_positive(known, roles.count)
    return "no label is of its class" if of_one and roles.positive not in labels else None


def of_positive(metric: str, classes: int) -> bool:
    """Whether it changes a metric of a task of so many classes which of them is the positive one."""
    measure = METRICS[metric]
    return measure.positive and metric != "roc_auc" and (classes == 2 or not measure.of_scores)


def base(metric: str) -> str | None:
    """A metric's own name, which a split's name may follow; None where it is not known."""
    known = [name for name in METRICS if metric == name or metric.startswith(name + "_")]
    return max(known, key=len) if known else None


def _measure(metric: str) -> Measure | None:
    known = base(metric)
    return METRICS[known] if known else None


CORRELATIONS = ("pearson", "spearman", "matthews_correlation")  # metrics of what varies with the labels
VARYING = (*CORRELATIONS, "roc_auc", "average_precision", "r2")  # metrics that need labels of two values
CALIBRATION_BINS = 15  # of equal width, of which `ece` is the mean gap


# Metrics by which a generated response is right or wrong, and any text.
MATCHES = ("exact_match", "exact_match_normalized", "exact_number")
RIGHT_OR_WRONG = (*MATCHES, "squad_exact_match", "squad_v2_exact_match")
GENERATED = tuple(name for name, measure in METRICS.items() if measure.generated)
_PUNCTUATION = frozenset(string.punctuation + "‘’´`")


def normalized(text: str) -> str:
    """The text in lower case without punctuation, articles and extra spaces (TriviaQA's evaluation)."""
    letters = "".join(" " if c in _PUNCTUATION else c for c in text.lower().replace("_", " "))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", letters).split())
