"""Any metric of texts, classes or values in Python, with no run in sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.metrics import METRICS, ClassRoles
from rankbench.tasks import metrics


def score(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """A metric of n predictions: a share or correlation from 0 to 1, NIST, CIDEr and errors in their own unit.

    SQuAD's f1 and exact_match are in percent, as its scripts print them. For texts, `references` hold for each row the
    list of its accepted texts, or one text; for SQuAD 2.0 an empty list where there is no answer. For classes both are
    class numbers from 0, of which 1 is the positive one; metrics of probabilities take a row of them for each
    prediction. For values both are numbers. Rows go by their place; the index of a Series is not read. Raises
    RequestError for an unknown metric, for none or unlike numbers of rows, and for what is no text or number.
    """
    if name not in METRICS:
        raise RequestError(f"{name!r} is no metric; known are {', '.join(METRICS)}")
    measure = METRICS[name]
    for given, called in ((predictions, "predictions"), (references, "references")):
        rowless = isinstance(given, str | bytes | Mapping | Set) or hasattr(given, "columns")  # a data frame
        if rowless or not hasattr(given, "__len__"):
            raise RequestError(f"{called} is a list, one for each row, not {given!r:.60}")
    if len(predictions) != len(references):
        raise RequestError(
            f"{len(predictions)} predictions and {len(references)} references; give as many, references as a list of "
            "the accepted texts of each row"
        )
    if not len(predictions):
        raise RequestError(f"{name} of no predictions is undefined; give one or more")
    if measure.of_nulls:
        raise RequestError(f"{name} is of a model's own null scores; a run of task=squad_v2 scores it, texts do not")
    if measure.of_texts:
        column: Any = np.array([*map(_text, predictions, range(len(predictions)))], dtype=object)
        accepted = [_accepted(row, given, name) for row, given in enumerate(references)]
        found = metrics.score([name], {"prediction": column}, accepted)
    elif measure.kind == "causal_lm":
        raise RequestError(f"{name} is of a language model's own probabilities; a run scores it, and texts do not")
    else:
        found = _of_numbers(name, predictions, references)
    return 100 * found[name] if measure.percent else found[name]


def _text(given: Any, row: int) -> str:
    if isinstance(given, str):
        return _whole(given, f"prediction {row}")
    raise RequestError(f"prediction {row} is {given!r:.60}, which is no text; give a text, '' for none")


def _accepted(row: int, given: Any, name: str) -> list[str]:
    own = [given] if isinstance(given, str) else given
    if not hasattr(own, "__len__") or isinstance(own, bytes | Mapping | Set) or hasattr(own, "columns"):
        raise RequestError(f"references {row} is {given!r:.60}; give a text, or the list of the accepted ones")
    if wrong := [text for text in own if not isinstance(text, str)]:
        raise RequestError(f"references {row} has {wrong[0]!r:.60}, which is no text")
    if not len(own) and not name.startswith("squad_v2_"):
        other = f", or take {name.replace('squad_', 'squad_v2_')}" if name.startswith("squad_") else ""
        raise RequestError(f"references {row} has no text to compare with; give one or more{other}")
    return [_whole(text, f"references {row}") for text in own]


def _whole(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{place} has {text[error.start]!r}, half a character; correct the text") from error
    return text


def _of_numbers(name: str, predictions: Any, references: Any) -> dict[str, float]:
    measure = METRICS[name]
    try:
        made, truth = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
    except (TypeError, ValueError) as error:
        what = "numbers" if measure.kind == "regression" else "class numbers"
        raise RequestError(f"{name} takes {what} ({error})") from error
    axes = 2 if measure.of_scores else 1
    if made.ndim != axes or truth.ndim != 1:
        told = "a row of probabilities for each prediction" if axes == 2 else "one number for each prediction"
        raise RequestError(f"{name} takes {told} and one reference, not {made.shape} and {truth.shape}")
    if not (np.isfinite(made).all() and np.isfinite(truth).all()):
        raise RequestError(f"{name} takes finite numbers")
    if name in ("log_loss", "ece") and ((made < 0).any() or (abs(made.sum(1) - 1) > 1e-3).any()):
        raise RequestError(f"{name} takes probabilities, which are not negative and add up to 1 in each row")
    if measure.kind == "regression":
        return metrics.score([name], {"prediction": made}, truth)
    numbers = truth if measure.of_scores else np.concatenate([made, truth])
    if (numbers != numbers.round()).any() or numbers.min() < 0:
        raise RequestError(f"{name} takes class numbers, 0, 1 and so on; probabilities are for roc_auc and log_loss")
    count = made.shape[1] if measure.of_scores else max(2, int(numbers.max()) + 1)
    if truth.max() >= count:
        raise RequestError(f"{name}: a reference is class {truth.max():g}, and there are probabilities of {count}")
    columns = {"scores": made} if measure.of_scores else {"prediction": made.astype(int)}
    return metrics.score([name], columns, truth.astype(int), ClassRoles(count))
