"""SQuAD's exact match and F1, of version 1.1 and of 2.0, as the official scripts compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rankbench.tasks.metrics.text import References, Rows, TextPairs

_DELETED = str.maketrans("", "", string.punctuation)
Measured = Callable[[list[str], list[str]], float]  # of an answer's words and the accepted one's


def normalized(text: str) -> str:
    """In lower case, without ASCII punctuation (deleted, not replaced), articles and extra spaces."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_DELETED)).split())


def exact(said: list[str], accepted: list[str]) -> float:
    """1 where the words are the same."""
    return float(said == accepted)


def f1(said: list[str], accepted: list[str]) -> float:
    """The harmonic mean of precision and recall of the words, as multisets; 0 where none is common."""
    common = sum((Counter(said) & Counter(accepted)).values())
    return 2 * common / (len(said) + len(accepted)) if common else 0.0


def f1_v2(said: list[str], accepted: list[str]) -> float:
    """As `f1`; where one has no word, 1 if the other has none either."""
    return f1(said, accepted) if said and accepted else float(said == accepted)


def of_rows(predictions: Sequence[str], answers: Sequence[Sequence[str]], measure: Measured, v2: bool) -> np.ndarray:
    """The best over a question's accepted answers, (n,), from 0 to 1.

    In 2.0 an accepted answer without a word does not count, and a question that has none is answered by nothing.
    Raises ValueError for a question of 1.1 without an answer.
    """
    return np.array([_best(said, own, measure, v2) for said, own in zip(predictions, answers, strict=True)])


def _best(said: str, accepted: Sequence[str], measure: Measured, v2: bool) -> float:
    texts = list(map(normalized, accepted))
    if v2:
        texts = [text for text in texts if text] or [""]
    if not texts:
        raise ValueError("a question of SQuAD 1.1 has no accepted answer; take squad_v2_f1 and squad_v2_exact_match")
    words = normalized(said).split()
    return max(measure(words, text.split()) for text in texts)


def best_threshold(
    raw: np.ndarray, predictions: Sequence[str], answered: np.ndarray, probabilities: np.ndarray
) -> tuple[float, float]:
    """The best mean score over all thresholds, as a share, and the probability at which it is (0 for none answered).

    `answered` says which questions have an answer. As the official walk has it: a question without one costs 1 where
    anything is said, so the best can lie below the mean of `raw`.
    """
    said = np.array([bool(text) for text in predictions])
    gains = np.where(answered, raw, -said.astype(float))
    order = np.argsort(probabilities, kind="stable")
    walk = float((~answered).sum()) + np.concatenate([[0.0], np.cumsum(gains[order])])
    best = int(walk.argmax())
    return float(walk[best]) / len(raw), float(probabilities[order[best - 1]]) if best else 0.0


class _Answers(TextPairs):
    """The mean over questions of the best over a question's accepted answers."""

    measure: Measured
    v2 = False

    @classmethod
    def against(cls, references: References) -> Rows:
        """What a text scores, from 0 to 1."""
        return lambda texts: of_rows(texts, references, cls.measure, cls.v2)[:, None]


class F1(_Answers):
    """SQuAD 1.1's F1 of words."""

    key = "squad_f1"
    description = "F1 of the words of the best accepted answer, as SQuAD 1.1's script"
    measure = staticmethod(f1)


class ExactMatch(_Answers):
    """SQuAD 1.1's exact match."""

    key = "squad_exact_match"
    description = "share of texts equal to an accepted answer, normalised as SQuAD 1.1's script"
    measure = staticmethod(exact)


class F1V2(_Answers):
    """SQuAD 2.0's F1 of words."""

    key = "squad_v2_f1"
    description = "F1 of the words of the best accepted answer, as SQuAD 2.0's script"
    measure = staticmethod(f1_v2)
    v2 = True


class ExactMatchV2(_Answers):
    """SQuAD 2.0's exact match."""

    key = "squad_v2_exact_match"
    description = "share of texts equal to an accepted answer, normalised as SQuAD 2.0's script"
    measure = staticmethod(exact)
    v2 = True


class _Best(TextPairs):
    """The best of all thresholds of the null difference, above which a question is answered by nothing."""

    measure: Measured
    part = 0  # of `best_threshold`

    def _compute(self, predictions: Any, references: Any, null_difference: Any = ()) -> dict[str, float]:
        raw = of_rows(predictions, references, type(self).measure, v2=True)
        answered = np.array([bool(own) for own in references])
        found = best_threshold(raw, predictions, answered, np.asarray(null_difference, dtype=float))
        return {self.key: found[self.part]}


class BestF1(_Best):
    """SQuAD 2.0's best_f1, as a share."""

    key = "squad_v2_best_f1"
    description = "SQuAD 2.0's best_f1 over thresholds of the null difference"
    measure = staticmethod(f1_v2)


class BestF1Threshold(BestF1):
    """SQuAD 2.0's best_f1_thresh."""

    key = "squad_v2_best_f1_thresh"
    description = "the null difference at which squad_v2_best_f1 is reached"
    part = 1


class BestExactMatch(_Best):
    """SQuAD 2.0's best_exact, as a share."""

    key = "squad_v2_best_exact_match"
    description = "SQuAD 2.0's best_exact over thresholds of the null difference"
    measure = staticmethod(exact)


class BestExactMatchThreshold(BestExactMatch):
    """SQuAD 2.0's best_exact_thresh."""

    key = "squad_v2_best_exact_match_thresh"
    description = "the null difference at which squad_v2_best_exact_match is reached"
    part = 1
