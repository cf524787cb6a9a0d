"""Metrics of probabilities: equal to scikit-learn and to a calculation by hand, and numbers whatever is seen."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from rankbench.settings.metrics import METRICS, ClassRoles
from rankbench.tasks.metrics import score

OF_SCORES = [name for name in METRICS if METRICS[name].of_scores]


def drawn(classes: int, seed: int, n: int = 80, digits: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, classes) in float32, as a head's softmax gives them, and the classes of n rows."""
    random = np.random.default_rng([classes, seed])
    truth = random.integers(classes, size=n)
    logits = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[truth]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return shares.round(digits).astype("float32"), truth


@pytest.mark.parametrize("digits", [7, 1])  # with one digit many are tied
@pytest.mark.parametrize("positive", [0, 1])
def test_of_two_classes_the_positive_one_is_told_as_scikit_learn_tells_it(positive: int, digits: int) -> None:
    scores, truth = drawn(2, positive, digits=digits)
    found = score(["roc_auc", "average_precision"], {"scores": scores}, truth, ClassRoles(2, positive))
    own = (truth == positive, scores[:, positive].astype(float))
    expected = {"roc_auc": sk.roc_auc_score(*own), "average_precision": sk.average_precision_score(*own)}
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [3, 6])
def test_of_several_classes_the_mean_of_each_against_the_rest_is_scikit_learns(classes: int, seed: int) -> None:
    scores, truth = drawn(classes, seed)
    given = scores.astype(float) / scores.astype(float).sum(1, keepdims=True)
    found = score(["roc_auc", "average_precision"], {"scores": given}, truth, ClassRoles(classes))
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, given, multi_class="ovr"), abs=1e-12)
    against = sk.average_precision_score(np.eye(classes)[truth], given)
    assert found["average_precision"] == pytest.approx(against, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_log_loss_is_scikit_learns_and_warns_of_nothing(classes: int) -> None:
    scores, truth = drawn(classes, 0)
    shares = scores.astype(float) / scores.astype(float).sum(1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(["log_loss"], {"scores": scores}, truth)["log_loss"]
    assert found == pytest.approx(sk.log_loss(truth, shares), abs=1e-12)
    assert found == pytest.approx(float(-np.log(shares[np.arange(80), truth]).mean()), abs=1e-12)


@pytest.mark.parametrize("chance", [0.0, 1e-45, 1e-20])
def test_log_loss_of_a_true_class_without_a_chance_is_finite(chance: float) -> None:
    scores = np.array([[chance, 1.0], [0.5, 0.5]], dtype="float32")
    found = score(["log_loss"], {"scores": scores}, np.array([0, 0]))["log_loss"]
    assert found == pytest.approx((-math.log(2**-52) + math.log(2)) / 2, abs=1e-9)


def test_calibration_error_is_as_worked_by_hand() -> None:
    """Sure by 0.9 and right in one of two; sure by 0.6 and right; sure by 0.65 (another bin) and wrong."""
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.6) + abs(0 - 0.65)) / 4
    assert score(["ece"], {"scores": scores}, np.array([0, 1, 1, 0]))["ece"] == pytest.approx(expected)


def test_a_bin_takes_the_gap_of_its_mean_and_not_the_mean_gap() -> None:
    """Nine of ten right at 0.9 is what 0.9 means."""
    scores, truth = np.tile([0.9, 0.1], (10, 1)), np.array([1] + [0] * 9)
    assert score(["ece"], {"scores": scores}, truth)["ece"] == pytest.approx(0, abs=1e-12)
    assert score(["ece"], {"scores": np.eye(2)[truth]}, truth)["ece"] == 0.0


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("truth", [[1], [1, 1, 1], [0, 1, 1]])
@pytest.mark.parametrize("name", OF_SCORES)
def test_whatever_labels_are_there_the_value_is_a_number(name: str, truth: list[int], classes: int) -> None:
    """One row, one class, two classes of four: no NaN, and no warning."""
    scores, _ = drawn(classes, 1, n=len(truth))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = score([name], {"scores": scores}, np.array(truth), ClassRoles(classes))[name]
    assert math.isfinite(value)


def test_an_area_is_over_the_classes_that_are_there() -> None:
    scores, truth = drawn(4, 3)
    seen = truth < 2
    found = score(["roc_auc", "average_precision"], {"scores": scores[seen]}, truth[seen], ClassRoles(4))
    each = [(truth[seen] == one, scores[seen][:, one]) for one in (0, 1)]
    assert found["roc_auc"] == pytest.approx(np.mean([sk.roc_auc_score(*own) for own in each]))
    assert found["average_precision"] == pytest.approx(np.mean([sk.average_precision_score(*own) for own in each]))


def test_equal_probabilities_rank_nothing() -> None:
    scores, truth = np.full((10, 2), 0.5), np.array([1] * 3 + [0] * 7)
    found = score(["roc_auc", "average_precision"], {"scores": scores}, truth)
    assert found == pytest.approx({"roc_auc": 0.5, "average_precision": 0.3})
