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

LABELLED = [name for name in METRICS if METRICS[name].kind != "causal_lm"]
RANDOM = np.random.default_rng(11)
TWO, TWO_GUESSED = RANDOM.integers(0, 2, 200), RANDOM.integers(0, 2, 200)
THREE, THREE_GUESSED = RANDOM.integers(0, 3, 200), RANDOM.integers(0, 3, 200)
VALUES = RANDOM.uniform(0, 5, 200).astype(np.float32)
VALUES_GUESSED = (VALUES + RANDOM.normal(0, 1, 200)).astype(np.float32)

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
def test_a_perfect_prediction_scores_one(name: str) -> None:
    references = VALUES if METRICS[name].kind == "regression" else TWO
    assert score([name], {"prediction": references}, references)[name] == pytest.approx(1)


@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearman", "f1"])
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
    for start in range(0, 200, 64):
        metric.add_batch(predictions=guessed[start : start + 64], references=truth[start : start + 64])
    assert metric.compute()[name] == pytest.approx(score([name], {"prediction": guessed}, truth)[name], abs=1e-12)


def test_several_metrics_come_in_the_order_asked() -> None:
    assert list(score(["f1", "accuracy"], {"prediction": PREDICTIONS}, REFERENCES)) == ["f1", "accuracy"]


def test_every_value_is_a_plain_number_that_json_can_hold() -> None:
    found: dict[str, Any] = score(["accuracy", "f1", "matthews_correlation"], {"prediction": PREDICTIONS}, REFERENCES)
    found |= score(["pearson", "spearman"], {"prediction": VALUES_GUESSED}, VALUES)
    assert {type(value) for value in found.values()} == {float}


def test_metrics_need_no_network(no_network: list[str]) -> None:
    for name in LABELLED:
        truth = VALUES if METRICS[name].kind == "regression" else TWO
        assert score([name], {"prediction": truth}, truth)[name] == pytest.approx(1)
    assert no_network == []


def test_every_metric_that_a_config_may_name_exists() -> None:
    assert set(METRICS) == set(METRICS)
