"""SQuAD's exact match and F1, of version 1.1 and of 2.0, as the official scripts compute them, in percent."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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


def thresholded(raw: np.ndarray, answered: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Scores of 2.0 where a no-answer probability above `threshold` means that nothing is answered."""
    return np.where(probabilities > threshold, (~answered).astype(float), raw)


def best_threshold(
    raw: np.ndarray, predictions: Sequence[str], answered: np.ndarray, probabilities: np.ndarray
) -> tuple[float, float]:
    """The best mean score over all thresholds in percent, and the probability at which it is (0 for none answered).

    `answered` says which questions have an answer. As the official walk has it: a question without one costs 1 where
    anything is said, so the best can lie below the mean of `raw`.
    """
    said = np.array([bool(text) for text in predictions])
    gains = np.where(answered, raw, -said.astype(float))
    order = np.argsort(probabilities, kind="stable")
    walk = float((~answered).sum()) + np.concatenate([[0.0], np.cumsum(gains[order])])
    best = int(walk.argmax())
    return 100 * float(walk[best]) / len(raw), float(probabilities[order[best - 1]]) if best else 0.0


def summary(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], probabilities: Sequence[float] | None = None
) -> dict[str, Any]:
    """What SQuAD 2.0's script prints: exact, f1, of questions with and without an answer, and the best thresholds."""
    answered = np.array([any(map(normalized, own)) for own in answers])
    found: dict[str, Any] = {}
    raw = {name: of_rows(predictions, answers, how, True) for name, how in (("exact", exact), ("f1", f1_v2))}
    for start, rows in (("", np.full(len(answered), True)), ("HasAns_", answered), ("NoAns_", ~answered)):
        if rows.any():
            found |= {f"{start}{name}": 100 * float(own[rows].mean()) for name, own in raw.items()}
            found[f"{start}total"] = int(rows.sum())
    if probabilities is not None:
        chances = np.asarray(probabilities, dtype=float)
        for name, own in raw.items():
            found[f"best_{name}"], found[f"best_{name}_thresh"] = best_threshold(own, predictions, answered, chances)
    return found
