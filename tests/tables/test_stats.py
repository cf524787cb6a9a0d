"""Tests and intervals: equal to the textbook and to the recorded metrics, and as often wrong as they say."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, sample
from scipy import stats as scipy_stats
from sklearn import metrics as sk

from rankbench.errors import RequestError
from rankbench.settings.metrics import METRICS, ClassRoles
from rankbench.tables import metric_sums, stats
from rankbench.tasks import metrics
from rankbench.tasks.metrics import text

SCORES = ("roc_auc", "average_precision", "log_loss", "ece")
CLASSES = (
    "accuracy",
    "balanced_accuracy",
    "f1",
    "f1_macro",
    "precision",
    "precision_macro",
    "recall",
    "recall_macro",
    "matthews_correlation",
    *SCORES,
)
VALUES = ("pearson", "spearman", "r2", "mse", "mae")
TEXTS = tuple(name for name, measure in METRICS.items() if measure.kept and not measure.java)
TO_ALL = ("nist_e2e", "cider_e2e")  # weigh by the references of all rows, within resamples too
LOSSES = ("loss", "perplexity")
BLEU = "bleu_sacre"


def some(metric: str, classes: int = 3, k: int = 4, n: int = 60) -> tuple[dict[str, Any], Any]:
    """Columns (k, n) and references (n,) for a metric; the last sub-model always says the same."""
    draw = np.random.default_rng(classes)
    if metric in LOSSES:
        tokens = np.tile(draw.integers(1, 9, n), (k, 1))
        return {"loss": (draw.random((k, n)) * tokens).astype("float32"), "tokens": tokens}, np.zeros(n)
    if metric in VALUES:
        truth = draw.normal(size=n).round(1)  # some are tied
        made = (truth + draw.normal(size=(k, n))).astype("float32")
        made[-1] = 0.1
        return {"prediction": made}, truth
    if metric in TEXTS:
        words = np.array(["The", "the", "cat", "dog's", "sat,", "on", "a", "mat", "."])
        made = np.array([[" ".join(draw.choice(words, draw.integers(9))) for _ in range(n)] for _ in range(k)], object)
        made[-1] = "elsewhere"
        accepted = np.empty(n, dtype=object)
        for i in range(n):
            accepted[i] = tuple(" ".join(draw.choice(words, draw.integers(1, 9))) for _ in range(draw.integers(1, 4)))
            made[0, i] = accepted[i][-1] if i % 3 else made[0, i]
        return {"prediction": made, **text.columns([metric], list(made), accepted)}, accepted
    truth = draw.integers(classes, size=n)
    made = np.where(draw.random((k, n)) < 0.6, truth, draw.integers(classes, size=(k, n)))
    made[-1] = 1
    logits = 3 * draw.normal(size=(k, n, classes)).round(1) + np.eye(classes)[made]  # some are tied
    logits[-1] = 0
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return {"scores": scores.astype("float32")} if metric in SCORES else {"prediction": made}, truth


def recorded(
    metric: str, columns: dict[str, Any], references: Any, rows: Any, roles: ClassRoles | None = None
) -> list[float]:
    """What the record would say of each sub-model on these rows."""
    k = len(next(iter(columns.values())))
    kept = metric not in TEXTS or (metric in TO_ALL and not isinstance(rows, slice))
    anew = columns if kept else {"prediction": columns["prediction"]}
    parts = [{key: column[place][rows] for key, column in anew.items()} for place in range(k)]
    return [metrics.score([metric], part, references[rows], roles)[metric] for part in parts]


def coins(k: int, n: int, chance: float = 0.5, seed: int = 0) -> metric_sums.Sums:
    """The accuracy of k sub-models that know nothing and are right by chance."""
    hits = np.random.default_rng(seed).random((k, n)) < chance
    return metric_sums.sums("accuracy", {"prediction": hits}, np.ones(n, dtype=bool))


# Metrics as sums


@pytest.mark.parametrize(
    ("metric", "classes"),
    [*((m, c) for m in CLASSES for c in (2, 3, 7)), *((m, 0) for m in (*VALUES, *TEXTS, *LOSSES))],
)
def test_a_metric_from_sums_is_the_recorded_metric(metric: str, classes: int) -> None:
    columns, references = some(metric, classes)
    roles = ClassRoles(classes, classes - 1)
    found = metric_sums.sums(metric, columns, references, roles)
    assert found.whole() == pytest.approx(recorded(metric, columns, references, slice(None), roles), abs=1e-12)
    assert found.rises == (metric not in (*LOSSES, "log_loss", "ece", "mse", "mae", "ter", "ter_webnlg"))


@pytest.mark.parametrize("metric", [*CLASSES, *(m for m in VALUES if m != "spearman"), *TEXTS, *LOSSES])
def test_a_resample_by_weights_is_a_resample_by_rows(metric: str) -> None:
    columns, references = some(metric)
    roles = ClassRoles(3, 2)
    found = metric_sums.sums(metric, columns, references, roles)
    draw = np.random.default_rng(1)
    each = [draw.integers(found.n, size=found.n), draw.integers(3, size=found.n), np.full(found.n, 5)]
    weights = np.array([np.bincount(rows, minlength=found.n) for rows in each], dtype=float)
    for rows, values in zip(each, found.at(weights), strict=True):
        assert values == pytest.approx(recorded(metric, columns, references, rows, roles), abs=1e-12)


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_an_area_by_weights_is_scikit_learns(metric: str, positive: int) -> None:
    columns, truth = some(metric, classes=2)
    weights = np.random.default_rng(2).random((3, len(truth))) * 4
    function = sk.roc_auc_score if metric == "roc_auc" else sk.average_precision_score
    expected = [
        [function(truth == positive, own[:, positive], sample_weight=weight) for own in columns["scores"]]
        for weight in weights
    ]
    found = metric_sums.sums(metric, columns, truth, ClassRoles(2, positive)).at(weights)
    assert found == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize("metric", ["recall", "precision", "f1", "recall_macro", "roc_auc", "average_precision"])
def test_of_few_positives_one_example_weighs_more(metric: str) -> None:
    """Sub-models that agree on 4 positives of 400 may differ by more than those that agree on 200."""
    grains = []
    for positives in (4, 200):
        truth = (np.arange(400) < positives).astype(int)
        made = np.array([truth, 1 - truth])
        grains.append(metric_sums.sums(metric, {"prediction": made, "scores": np.eye(2)[made]}, truth).grain)
    assert grains[0] > 4 * grains[1] and 0.99 < grains[1] < 1.5


@pytest.mark.parametrize("texts", [["a b", "a"], ["a b c x", "y"], ["", ""], ["a b c d e f g", "a"], ["x", "y z"]])
def test_bleu_of_few_words_is_sacrebleus(texts: list[str]) -> None:
    """No n-gram of some length, or none that matches: smoothed, or 0."""
    references = np.empty(2, dtype=object)
    references[:] = [("a b c d", "a b"), ("a",)]
    counts = text.columns([BLEU], [texts], references)
    (expected,) = recorded(BLEU, {"prediction": np.array([texts], object)}, references, slice(None))
    assert metric_sums.sums(BLEU, counts, references).whole() == pytest.approx([expected], abs=1e-12)
    assert (expected > 0) == (texts == ["a b c d e f g", "a"] or texts == ["a b c x", "y"])


def test_spearmans_kept_ranks_spread_as_ranks_drawn_anew_do() -> None:
    columns, references = some("spearman", k=2, n=200)
    draw = np.random.default_rng(0)
    anew = []
    for _ in range(400):
        rows = draw.integers(200, size=200)
        anew.append(scipy_stats.spearmanr(columns["prediction"][0][rows], references[rows])[0])
    kept = stats.bootstrap(
        metric_sums.sums("spearman", columns, references), 1
    )  # less a constant, whose correlation is 0
    assert [kept.low[0], kept.high[0]] == pytest.approx(np.quantile(anew, [0.025, 0.975]), abs=0.03)


# Two models on the same examples


def test_a_bootstrap_interval_covers_as_often_as_it_says() -> None:
    """Right on the same hard examples, 80 against 75 %: the interval of the difference holds -5 points."""
    covers, quiet = 0, 0
    for trial in range(300):
        draw = np.random.default_rng(trial)
        luck = draw.random(150)
        hits = np.array([luck < 0.80, luck + draw.choice([0, 0.5], 150, p=[0.9, 0.1]) < 0.80, luck < 0.80])
        hits[2] = np.where(draw.random(150) < 0.2, draw.random(150) < 0.80, hits[2])  # as good, on other examples
        truth = -0.1 * 0.5  # a tenth of the examples are right at 30 instead of 80 %
        found = stats.bootstrap(
            metric_sums.sums("accuracy", {"prediction": hits}, np.ones(150)), 0, resamples=600, seed=trial
        )
        covers += bool(found.low[1] <= truth <= found.high[1])
        quiet += bool(found.p[2] >= 0.05)
    assert 0.91 <= covers / 300 <= 0.985
    assert 0.91 <= quiet / 300 <= 0.99


def test_intervals_widened_by_bonferroni_hold_together() -> None:
    apart, together = 0, 0
    for trial in range(200):
        sums = coins(6, 120, seed=trial)
        for level in (0.95, 1 - 0.05 / 5):
            found = stats.bootstrap(sums, 0, level, resamples=1000, seed=trial)
            held = bool(((found.low <= 0) & (found.high >= 0)).all())
            apart, together = (apart + held, together) if level == 0.95 else (apart, together + held)
    assert together / 200 >= 0.92
    assert apart < together - 10, "five intervals of 95 % miss more often than one"


def test_a_bootstrap_of_a_mean_is_that_of_scipy() -> None:
    columns, references = some("accuracy", n=100)
    hits = (columns["prediction"] == references).astype(float)
    found = stats.bootstrap(metric_sums.sums("accuracy", columns, references), 1)
    theirs = scipy_stats.bootstrap(
        (hits[0] - hits[1],), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert [found.low[0], found.high[0]] == pytest.approx([theirs.low, theirs.high], abs=0.011)
    assert found.difference[0] == pytest.approx((hits[0] - hits[1]).mean())


def test_a_clear_difference_has_a_small_p_and_an_interval_off_zero() -> None:
    columns, references = some("loss")
    columns["loss"][1] += columns["tokens"][1]  # one nat a token more
    found = stats.bootstrap(metric_sums.sums("loss", columns, references), 0)
    assert found.low[1] > 0.7 and found.high[1] < 1.3 and found.p[1] == pytest.approx(2 / 10_001)


def test_the_same_question_has_the_same_answer_and_ranks_do_not_bear_on_each_other() -> None:
    columns, references = some("pearson")
    found = stats.bootstrap(metric_sums.sums("pearson", columns, references), 0, resamples=500)
    again = stats.bootstrap(metric_sums.sums("pearson", columns, references), 0, resamples=500)
    turned = {"prediction": columns["prediction"][[2, 1, 0]]}
    other = stats.bootstrap(metric_sums.sums("pearson", turned, references), 2, resamples=500)
    for key in ("value", "difference", "low", "high", "p"):
        assert (getattr(found, key) == getattr(again, key)).all()
        assert getattr(found, key)[[2, 1, 0]] == pytest.approx(getattr(other, key), abs=1e-12)
    reseeded = stats.bootstrap(metric_sums.sums("pearson", columns, references), 0, resamples=500, seed=1)
    assert (found.low != reseeded.low).any()


def test_equal_answers_do_not_differ_in_any_resample() -> None:
    columns, references = some("matthews_correlation")
    twice = {"prediction": columns["prediction"][[0, 0]]}
    found = stats.bootstrap(metric_sums.sums("matthews_correlation", twice, references), 0, resamples=500)
    assert (found.low[1], found.high[1], found.p[1]) == (0, 0, 1)


# The best of many


def test_the_best_of_many_that_know_nothing_is_luck_and_the_other_half_shows_it() -> None:
    """20 coins on 200 examples, thrown 40 times: the best looks like 59 %, and is worth 50."""
    thrown = [coins(20, 200, seed=seed) for seed in range(40)]
    found = [stats.split_half(coin, repeats=50) for coin in thrown]
    assert np.mean([coin.whole().max() for coin in thrown]) > 0.55
    assert np.mean([half.score for half in found]) == pytest.approx(0.5, abs=0.015)
    assert np.mean([half.optimism for half in found]) > 0.07
    assert all(half.chosen.sum() == pytest.approx(1) and half.chosen.max() < 1 for half in found)


@pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("accuracy", 1)])
def test_a_clear_best_is_chosen_by_every_half_and_needs_no_discount(metric: str, best: int) -> None:
    columns, references = some(metric, n=400)
    if metric == "loss":
        columns["loss"][best] /= 3
    else:
        columns["prediction"][best] = references
    sums = metric_sums.sums(metric, columns, references)
    found = stats.split_half(sums)
    assert found.chosen[best] == 1
    assert found.score == pytest.approx(sums.whole()[best], abs=0.01) and abs(found.optimism) < 0.01


def test_optimism_of_a_loss_is_above_zero_too() -> None:
    draw = np.random.default_rng(0)
    noise = {"loss": draw.exponential(size=(20, 200)), "tokens": np.ones((20, 200))}
    found = stats.split_half(metric_sums.sums("loss", noise, np.zeros(200)))
    assert found.optimism > 0.05 and found.score == pytest.approx(1, abs=0.1)


def test_both_halves_of_an_odd_number_are_scored_by_their_own_size() -> None:
    everything_right = metric_sums.sums("accuracy", {"prediction": np.ones((2, 7))}, np.ones(7))
    found = stats.split_half(everything_right, repeats=50)
    assert (found.score, found.std, found.optimism) == (1, 0, 0)
    assert found.chosen.tolist() == [0.5, 0.5], "equals share it"


def test_holm_adjusts_as_worked_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.5]).tolist() == [1, 1]
    assert stats.holm([0.2]) == pytest.approx([0.2]) and stats.holm([]).size == 0


# Seeds


def test_three_seeds_of_one_sign_have_two_flips_of_eight() -> None:
    found = stats.permutation([1.0, 2.0, 3.0])
    assert (found.mean, found.p) == (2, 0.25)
    theirs = scipy_stats.ttest_1samp([1.0, 2.0, 3.0], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("n", [9, 17])
def test_sign_flips_are_those_of_scipy(n: int) -> None:
    """Exact up to 16 seeds, sampled above: there as near as 100,000 flips come."""
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    theirs = scipy_stats.permutation_test(
        (differences,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    found = stats.permutation(differences)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12 if n <= 16 else 0.005)
    assert found == stats.permutation(differences)


def test_sign_flips_are_wrong_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    wrong = [stats.permutation(draw.normal(size=8)).p <= 0.05 for _ in range(600)]
    assert 0.02 <= np.mean(wrong) <= 0.075


def test_rounding_does_not_part_a_flip_from_what_was_seen() -> None:
    assert stats.permutation([0.8, 0.8, 0.8, 0.1]).p == 2 / 2**4
    assert stats.permutation([0.7, 0.1, 0.7, 0.7, 0.4]).p == 2 / 2**5
    assert stats.permutation([0.3, -0.3]).p == 1


# Claims and curves


def test_as_good_is_an_interval_inside_the_margin() -> None:
    low, high = np.array([-0.4, -0.6, 0.1, -0.5]), np.array([0.4, 0.4, 0.6, 0.2])
    assert stats.not_worse(low, 0.5).tolist() == [True, False, True, False]
    assert stats.equivalent(low, high, 0.5).tolist() == [True, False, False, False]


def test_the_area_under_a_constant_curve_is_its_constant() -> None:
    assert stats.aurac([1, 2, 8], [0.7, 0.7, 0.7]) == pytest.approx(0.7)
    assert stats.aurac([4], [0.3]) == 0.3


def test_the_area_counts_doublings_whatever_the_order() -> None:
    assert stats.aurac([1, 2, 8], [0.0, 1.0, 1.0]) == pytest.approx((0.5 + 2) / 3)
    assert stats.aurac([8, 1, 2], [1.0, 0.0, 1.0]) == pytest.approx((0.5 + 2) / 3)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: stats.holm([0.5, 1.5]), "between 0 and 1"),
        (lambda: stats.holm([np.nan]), "between 0 and 1"),
        (lambda: stats.permutation([1.0]), "two seeds or more"),
        (lambda: stats.aurac([1, 1], [0.5, 0.5]), "different ranks"),
        (lambda: stats.aurac([0, 1], [0.5, 0.5]), "from 1 up"),
        (lambda: stats.aurac([1, 2], [0.5]), "a value for each"),
        (lambda: stats.not_worse(0, 0), "above 0"),
        (lambda: stats.equivalent(0, 0, float("nan")), "above 0"),
        (lambda: metric_sums.sums("bleu", {}, [1]), "bleu is no metric"),
        (lambda: metric_sums.sums("accuracy", {"prediction": [[1, 2]]}, [1]), r"not \(1, 2\) and \(1,\)"),
        (lambda: metric_sums.sums("perplexity", {"loss": [[9999.0]], "tokens": [[1]]}, [0]), "compare by loss"),
        (lambda: stats.bootstrap(coins(2, 1), 0), "score two or more"),
        (lambda: stats.split_half(coins(2, 1)), "score two or more"),
        (lambda: stats.all_pairs(coins(2, 1)), "score two or more"),
    ],
)
def test_what_cannot_be_asked_is_refused(ask: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ask()


# All pairs


def test_all_pairs_are_one_interval_each_way() -> None:
    found = stats.all_pairs(coins(5, 300), resamples=2000)
    assert np.allclose(found.difference, -found.difference.T) and np.allclose(found.low, -found.high.T)
    assert np.allclose(found.p, found.p.T) and np.diag(found.p).tolist() == [1.0] * 5
    assert ((found.low < found.difference) & (found.difference < found.high)).all()


def test_of_two_models_the_interval_is_the_bootstraps() -> None:
    """One pair is no family: the maximum over it is its own distance."""
    sums = coins(2, 900)
    alone, found = stats.bootstrap(sums, 1), stats.all_pairs(sums)
    assert found.low[0, 1] == pytest.approx(alone.low[0], abs=0.004)
    assert found.high[0, 1] == pytest.approx(alone.high[0], abs=0.004)
    assert found.p[0, 1] == pytest.approx(alone.p[0], abs=0.03)


def test_more_models_widen_every_interval() -> None:
    hits = np.random.default_rng(0).random((20, 500)) < 0.8
    few, many = (
        stats.all_pairs(metric_sums.sums("accuracy", {"prediction": part}, np.ones(500, dtype=bool)), resamples=2000)
        for part in (hits[:3], hits)
    )
    assert (many.high - many.low)[0, 1] > 1.2 * (few.high - few.low)[0, 1]


def test_models_that_no_example_tells_apart_may_still_differ() -> None:
    """None of 300 says little of one in 300; equal real values are equal."""
    same = np.tile(np.random.default_rng(0).random(300) < 0.8, (3, 1))
    found = stats.all_pairs(metric_sums.sums("accuracy", {"prediction": same}, np.ones(300, dtype=bool)), resamples=500)
    assert found.difference[0, 1] == 0 and found.p[0, 1] == 1
    noise = np.random.default_rng(1).random(300)
    losses = {"loss": np.array([noise, noise, noise + 1]), "tokens": np.ones((3, 300))}
    found = stats.all_pairs(metric_sums.sums("loss", losses, np.zeros(300)), resamples=500)
    assert found.low[0, 1] == found.high[0, 1] == 0 and found.low[2, 0] == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("k", "n"), [(8, 277), (32, 408)])
def test_what_choose_rank_says_is_false_in_few_of_many_made_up_runs(k: int, n: int, groups: int) -> None:
    """The promise of 95 %, over 1,000 runs whose true scores are known; `benchmarks/choosing.py` has more kinds."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    import choosing

    wrong, _ = choosing.errors(k, n, groups, sets=1000, resamples=1000)
    assert wrong <= 0.06


# Seeds


def means_of_seeds(
    k: int, seeds: int, n: int, spread: float, draw: int
) -> tuple[metric_sums.Means, list[stats.Trainings]]:
    """Models that are all right in 80 % of cases, give or take what their seeds add: each the mean of its seeds."""
    draws = np.random.default_rng(draw)
    shares = 0.8 + spread * draws.standard_normal(k * seeds)
    hits = draws.random((k * seeds, n)) < shares[:, None]
    every = metric_sums.sums("accuracy", {"prediction": hits}, np.ones(n, dtype=bool))
    mean = np.kron(np.eye(k), np.full((seeds, 1), 1 / seeds))
    values = every.whole().reshape(k, seeds).T
    return metric_sums.Means(every, mean), [stats.Trainings(list(range(k)), values)]


@pytest.mark.parametrize("shape", sample([(2, 3, 400), (4, 2, 1000), (6, 5, 400)], (2, 3, 400)))
def test_intervals_over_seeds_hold_where_those_over_examples_alone_do_not(shape: tuple[int, int, int]) -> None:
    """All models are alike, so every interval of a difference has to hold 0."""
    held = {True: 0, False: 0}
    for draw in range(100):
        sums, trainings = means_of_seeds(*shape, 0.03, draw)
        for both in held:
            found = stats.all_pairs(sums, resamples=500, seed=draw, trainings=trainings if both else [])
            held[both] += bool(((found.low <= 0) & (found.high >= 0)).all())
    assert held[True] >= 93 and held[False] <= 85


def test_over_seeds_alone_the_interval_of_two_is_the_t_interval() -> None:
    """Every example says the same, so what is left is how three seeds differ."""
    values = np.array([[0.0, 3.0], [1.0, 5.0], [2.0, 4.0]])
    tokens = np.ones((6, 50))
    every = metric_sums.sums("loss", {"loss": tokens * values.T.reshape(6, 1), "tokens": tokens}, np.zeros(50))
    mean = np.kron(np.eye(2), np.full((3, 1), 1 / 3))
    found = stats.all_pairs(
        metric_sums.Means(every, mean), resamples=40_000, trainings=[stats.Trainings([0, 1], values)]
    )
    theirs = scipy_stats.ttest_rel(*values.T[::-1]).confidence_interval(0.95)
    assert [found.low[1, 0], found.high[1, 0]] == pytest.approx([theirs.low, theirs.high], rel=0.03)
