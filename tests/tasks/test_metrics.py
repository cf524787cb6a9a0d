"""Metrics: equal to scikit-learn, scipy and a calculation by hand, and at home without a network."""

from __future__ import annotations

import math
from typing import Any

import evaluate
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from rankbench.settings.metrics import METRICS, ClassRoles
from rankbench.settings.outside import load
from rankbench.tasks.metrics import score

LABELLED = [name for name in METRICS if METRICS[name].kind in ("classification", "regression")]
RANDOM = np.random.default_rng(11)
TWO, TWO_GUESSED = RANDOM.integers(0, 2, 200), RANDOM.integers(0, 2, 200)
THREE, THREE_GUESSED = RANDOM.integers(0, 3, 200), RANDOM.integers(0, 3, 200)
VALUES = RANDOM.uniform(0, 5, 200).astype(np.float32)
VALUES_GUESSED = (VALUES + RANDOM.normal(0, 1, 200)).astype(np.float32)


def said(name: str, classes: np.ndarray) -> dict[str, np.ndarray]:
    """What a sub-model sure of these classes (or values) says, as the metric takes it."""
    column = np.eye(max(2, int(classes.max()) + 1))[classes.astype(int)] if METRICS[name].of_scores else classes
    return {"scores" if METRICS[name].of_scores else "prediction": column}


# By hand: 8 rows, of which 3 true positives, 1 false positive, 2 false negatives, 2 true negatives.
REFERENCES = np.array([1, 1, 1, 1, 1, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 0, 0, 1, 0, 0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 5 / 8),
        ("f1", 2 * 3 / (2 * 3 + 1 + 2)),
        ("matthews_correlation", (3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4)),
    ],
)
def test_a_classification_metric_equals_the_calculation_by_hand(name: str, expected: float) -> None:
    assert score([name], {"prediction": PREDICTIONS}, REFERENCES) == {name: pytest.approx(expected, abs=1e-12)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pearson", 9 / math.sqrt(10 * 10)), ("spearman", 0.9)],  # of 1..5 against 1, 2, 3, 5, 4
)
def test_a_correlation_equals_the_calculation_by_hand(name: str, expected: float) -> None:
    found = score([name], {"prediction": np.array([1.0, 2, 3, 5, 4])}, np.array([1.0, 2, 3, 4, 5]))
    assert found == {name: pytest.approx(expected, abs=1e-12)}


@pytest.mark.parametrize(
    ("name", "predictions", "references", "expected"),
    [
        ("accuracy", TWO_GUESSED, TWO, sk.accuracy_score(TWO, TWO_GUESSED)),
        ("accuracy", THREE_GUESSED, THREE, sk.accuracy_score(THREE, THREE_GUESSED)),
        ("f1", TWO_GUESSED, TWO, sk.f1_score(TWO, TWO_GUESSED)),
        ("matthews_correlation", TWO_GUESSED, TWO, sk.matthews_corrcoef(TWO, TWO_GUESSED)),
        ("matthews_correlation", THREE_GUESSED, THREE, sk.matthews_corrcoef(THREE, THREE_GUESSED)),
        ("pearson", VALUES_GUESSED, VALUES, stats.pearsonr(VALUES_GUESSED.astype(float), VALUES.astype(float))[0]),
        ("spearman", VALUES_GUESSED, VALUES, stats.spearmanr(VALUES_GUESSED, VALUES)[0]),
    ],
)
def test_a_metric_equals_the_library_that_defines_it(
    name: str, predictions: np.ndarray, references: np.ndarray, expected: float
) -> None:
    assert 0 < abs(expected) < 1
    assert score([name], {"prediction": predictions}, references)[name] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LABELLED)
def test_a_perfect_prediction_scores_best(name: str) -> None:
    references = VALUES if METRICS[name].kind == "regression" else TWO
    best = pytest.approx(1 if METRICS[name].rises else 0, abs=1e-12)
    assert score([name], said(name, references), references)[name] == best


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_metrics_of_classes_are_scikit_learns(classes: int, draw: int) -> None:
    random = np.random.default_rng([classes, draw])
    truth, made = random.integers(classes, size=(2, 60))
    positive = int(random.integers(classes))
    of_one = (truth == positive, made == positive)
    expected = {
        "precision": sk.precision_score(*of_one),
        "recall": sk.recall_score(*of_one),
        "precision_macro": sk.precision_score(truth, made, average="macro"),
        "recall_macro": sk.recall_score(truth, made, average="macro"),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, made),
    }
    found = score(list(expected), {"prediction": made}, truth, ClassRoles(classes, positive))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("draw", range(3))
def test_metrics_of_values_are_scikit_learns(draw: int) -> None:
    random = np.random.default_rng(draw)
    truth = (1e3 + random.normal(size=50)).astype("float32")
    made = (truth + random.normal(size=50) * draw).astype("float32")
    expected = {
        "mse": sk.mean_squared_error(truth.astype(float), made.astype(float)),
        "mae": sk.mean_absolute_error(truth.astype(float), made.astype(float)),
        "r2": sk.r2_score(truth.astype(float), made.astype(float)),
    }
    assert score(list(expected), {"prediction": made}, truth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("label", [2.5, 0.1, -1 / 3])  # the mean of seven 0.1 is not 0.1
def test_r2_of_equal_labels_or_of_one_is_a_number(label: float) -> None:
    same = np.full(7, label)
    assert score(["r2"], {"prediction": same}, same) == {"r2": 1.0}
    assert score(["r2"], {"prediction": same + 1}, same) == {"r2": 0.0}
    assert score(["r2"], {"prediction": same[:1]}, same[:1]) == {"r2": 0.0}


def test_a_class_without_labels_counts_in_a_macro_mean_and_not_in_balanced_accuracy() -> None:
    truth, made = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    found = score(["recall_macro", "balanced_accuracy", "precision_macro"], {"prediction": made}, truth, ClassRoles(4))
    assert found == pytest.approx({"recall_macro": 1.5 / 4, "balanced_accuracy": 1.5 / 2, "precision_macro": 2 / 4})


@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearman", "f1", "precision", "recall"])
@pytest.mark.parametrize("which", ["predictions", "references", "both"])
def test_a_constant_scores_zero_and_never_nan(name: str, which: str) -> None:
    real = METRICS[name].kind == "regression"
    varied = VALUES if real else TWO
    constant = np.full(200, 2.5, dtype=np.float32) if real else np.zeros(200, dtype=np.int64)
    predictions = varied if which == "references" else constant
    references = varied if which == "predictions" else constant
    assert score([name], {"prediction": predictions}, references)[name] == 0.0


def test_f1_of_two_classes_is_that_of_class_one_even_where_one_class_is_absent() -> None:
    ones = np.ones(4, dtype=np.int64)
    assert score(["f1"], {"prediction": ones}, ones)["f1"] == 1.0
    assert score(["f1"], {"prediction": ones}, np.array([0, 0, 0, 1]))["f1"] == pytest.approx(2 / 5)


@pytest.mark.parametrize("positive", [0, 1, 2])
def test_f1_of_a_class_is_that_of_it_against_the_others(positive: int) -> None:
    found = score(["f1"], {"prediction": THREE_GUESSED}, THREE, ClassRoles(3, positive))["f1"]
    assert found == pytest.approx(sk.f1_score(positive == THREE, positive == THREE_GUESSED), abs=1e-12)
    everything = score(["f1"], {"prediction": np.full(4, 1)}, np.array([0, 1, 1, 1]), ClassRoles(2, 0))["f1"]
    assert everything == 0.0, "who never says fraud finds none"


@pytest.mark.parametrize("guessed", [THREE_GUESSED, np.minimum(THREE_GUESSED, 1), np.zeros(200, dtype=np.int64)])
@pytest.mark.parametrize("truth", [THREE, np.minimum(THREE, 1), np.ones(200, dtype=np.int64)])
def test_macro_f1_is_over_the_tasks_classes_whatever_is_seen(guessed: np.ndarray, truth: np.ndarray) -> None:
    found = score(["f1_macro"], {"prediction": guessed}, truth, ClassRoles(3))["f1_macro"]
    expected = np.mean([sk.f1_score(truth == c, guessed == c, zero_division=0) for c in range(3)])
    assert found == pytest.approx(expected, abs=1e-12)


def test_one_changed_answer_moves_macro_f1_by_little() -> None:
    truth = np.array([0, 1] * 10)
    guessed = truth.copy()
    guessed[0] = 2
    both = [score(["f1_macro"], {"prediction": made}, truth, ClassRoles(3))["f1_macro"] for made in (truth, guessed)]
    assert both == pytest.approx([2 / 3, (1 + 18 / 19) / 3])


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_an_evaluate_metric_and_describes_itself(name: str) -> None:
    metric = load(METRICS[name].implementation)(keep_in_memory=True)
    assert isinstance(metric, evaluate.Metric)
    assert metric.description
    assert set(metric.features) == {"predictions", "references"}


@pytest.mark.parametrize("name", LABELLED)
def test_a_metric_adds_up_batches_as_evaluate_metrics_do(name: str) -> None:
    guessed, truth = (VALUES_GUESSED, VALUES) if METRICS[name].kind == "regression" else (TWO_GUESSED, TWO)
    metric = load(METRICS[name].implementation)(keep_in_memory=True)
    columns = said(name, guessed)
    (made,) = columns.values()
    for start in range(0, 200, 64):
        metric.add_batch(predictions=made[start : start + 64], references=truth[start : start + 64])
    assert metric.compute()[name] == pytest.approx(score([name], columns, truth)[name], abs=1e-12)


def test_several_metrics_come_in_the_order_asked() -> None:
    assert list(score(["f1", "accuracy"], {"prediction": PREDICTIONS}, REFERENCES)) == ["f1", "accuracy"]


def test_every_value_is_a_plain_number_that_json_can_hold() -> None:
    found: dict[str, Any] = {}
    for name in LABELLED:
        guessed, truth = (VALUES_GUESSED, VALUES) if METRICS[name].kind == "regression" else (TWO_GUESSED, TWO)
        found |= score([name], said(name, guessed), truth)
    assert {type(value) for value in found.values()} == {float} and list(found) == LABELLED


def test_metrics_need_no_network(no_network: list[str]) -> None:
    for name in LABELLED:
        truth = VALUES if METRICS[name].kind == "regression" else TWO
        assert math.isfinite(score([name], said(name, truth), truth)[name])
    assert no_network == []
