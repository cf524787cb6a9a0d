"""rankbench.score: any metric in Python, and what it says of what it cannot take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

import rankbench
from rankbench.errors import RequestError
from rankbench.settings.metrics import METRICS


def test_one_reference_a_row_may_be_a_text_and_rows_may_be_any_sequence() -> None:
    texts, one = ["a b c d", "e f"], ["a b c e", "e f"]
    expected = rankbench.score("bleu_e2e", texts, [[text] for text in one])
    assert 0 < expected < 1 and rankbench.score("bleu_e2e", texts, one) == expected
    assert rankbench.score("bleu_e2e", tuple(texts), np.array(one, object)) == expected
    assert rankbench.score("bleu_e2e", texts, [(one[0],), one[1]]) == expected


def test_classes_probabilities_and_values_are_scored_too() -> None:
    assert rankbench.score("accuracy", [0, 1, 1], [0, 1, 0]) == pytest.approx(2 / 3)
    assert rankbench.score("f1_macro", [0, 2, 1], [0, 1, 1]) == pytest.approx((1 + 2 / 3 + 0) / 3)
    said = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    assert rankbench.score("log_loss", said, [0, 1, 1]) == pytest.approx(sk.log_loss([0, 1, 1], said))
    assert rankbench.score("mse", [1.5, 2], [1, 2]) == pytest.approx(0.125)
    assert isinstance(rankbench.score("accuracy", [0], [0]), float)


TEXTS = [name for name, own in METRICS.items() if own.generated]


@pytest.mark.parametrize("metric", TEXTS)
@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ([], [], "of no predictions"),
        (["a"], [], "1 predictions and 0 references"),
        (["a", "b"], [["a"]], "2 predictions and 1 references"),
        ("a", ["a"], "predictions is a list"),
        (["a"], "a", "references is a list"),
        (["a"], None, "references is a list"),
        ([None], ["a"], "prediction 0 is None, which is no text"),
        (["a", 3], ["a", "b"], "prediction 1 is 3, which is no text"),
        ([b"a"], ["a"], "which is no text"),
        (["a"], [[]], "references 0 has no text"),
        (["a"], [None], "references 0 is None"),
        (["a", "b"], ["a", ["b", 3.5]], "references 1 has 3.5, which is no text"),
    ],
)
def test_what_is_no_text_is_refused(metric: str, predictions: object, references: object, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        rankbench.score(metric, predictions, references)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "said"),
    [
        ("bleu", ["a"], ["a"], r"'bleu' is no metric; known are accuracy, .*bleu_e2e, .*perplexity"),
        ("loss", ["a"], ["a"], "a run scores it"),
        ("accuracy", ["good"], ["good"], "takes class numbers"),
        ("accuracy", [0.5], [1], "takes class numbers"),
        ("accuracy", [-1], [1], "takes class numbers"),
        ("accuracy", [[0, 1]], [1], "one number for each prediction"),
        ("log_loss", [0], [0], "a row of probabilities"),
        ("log_loss", [[0.5, 0.5]], [2], "a reference is class 2"),
        ("pearson", [float("nan"), 1], [0, 1], "finite"),
        ("pearson", [None, 1], [0, 1], "finite|takes numbers"),
    ],
)
def test_what_does_not_fit_a_metric_is_refused(metric: str, predictions: object, references: object, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        rankbench.score(metric, predictions, references)  # type: ignore[arg-type]


@pytest.mark.parametrize("rowless", [{"0": "a"}, {"a"}, pd.DataFrame({"a": ["a"]})], ids=["dict", "set", "frame"])
def test_what_does_not_go_by_rows_is_refused(rowless: Any) -> None:
    """Iterating over it gives keys, columns or no order at all."""
    for given in ((rowless, [["a"]]), (["a"], rowless), (["a"], [rowless])):
        with pytest.raises(RequestError, match=r"list"):
            rankbench.score("exact_match", *given)
    assert rankbench.score("exact_match", pd.Series(["a", "b"], index=[7, 3]), pd.Series(["a", "c"])) == 0.5


@pytest.mark.parametrize("given", [(["\ud800 b"], [["b"]]), (["b"], [["b", "\ud800"]])])
def test_half_a_character_is_refused(given: tuple[Any, Any]) -> None:
    for metric in ("bleu_sacre", "chrf", "rouge_l_e2e"):
        with pytest.raises(RequestError, match="half a character"):
            rankbench.score(metric, *given)


@pytest.mark.parametrize("rows", [[[-3, 2], [4, 1]], [[0.7, 0.7], [0.5, 0.5]]])
def test_what_is_no_probability_has_no_log_loss(rows: list[list[float]]) -> None:
    for metric in ("log_loss", "ece"):
        with pytest.raises(RequestError, match="takes probabilities"):
            rankbench.score(metric, rows, [1, 0])
