"""Evaluation of every sub-model: order, stacking, and what it leaves untouched. Item 7 of the conformance list."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from tiny import MODELS, a_batch, attached, encoded

from rankbench.methods.submodel import Submodel
from rankbench.scoring import evaluation as module
from rankbench.scoring.evaluation import evaluate
from rankbench.tasks.encoding import collate

SPLIT = encoded(37, seed=5, name="validation")


def measured(tuning, ranks=range(1, 9), **options):
    settings = {"batch_size": 8, "pad_id": 0, **options}
    return evaluate(tuning.model, tuning, [SPLIT], [Submodel(rank=b) for b in ranks], ["accuracy"], **settings)


def told_apart(tuning):
    """Move the head so that half of the rows are of each class, differently by rank: else no mix-up could show."""
    head = tuning.model.base_model.model.classifier.modules_to_save["default"]
    tuning.activate(Submodel(rank=4))
    with torch.no_grad():
        batch = collate(SPLIT, np.arange(len(SPLIT)), 0)
        logits = tuning.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        head.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    return tuning


def stacked_logits(tuning, budget):
    """The raw logits of every rank, as evaluation computes them under a stacking budget."""
    seen = []
    classes = module._classes

    def record(*args):
        found = classes(*args)
        seen.append(found[1])
        return found

    module._classes = record
    try:
        measured(tuning, stack_tokens=budget, batch_size=64)
    finally:
        module._classes = classes
    return torch.cat(seen).view(8, 37, 2)


@pytest.mark.parametrize("adapter", ["dylora", "lora"])
@pytest.mark.parametrize("model", MODELS)
def test_stacked_ranks_equal_ranks_one_by_one(model, adapter):
    tuning = attached(f"model={model}", f"adapter={adapter}")
    one, all_ = stacked_logits(tuning, 0), stacked_logits(tuning, 10**9)
    assert one.shape == all_.shape == (8, 37, 2)
    assert torch.allclose(one, all_, atol=1e-5)
    assert (one[0] - one[7]).abs().max() > 1e-3


def test_stacking_makes_fewer_forwards():
    tuning = attached()
    calls = []
    hook = tuning.model.register_forward_pre_hook(lambda *_: calls.append(1))
    measured(tuning, stack_tokens=0)
    one_by_one = len(calls)
    measured(tuning, stack_tokens=10**9)
    hook.remove()
    assert one_by_one == 8 * 5 and len(calls) - one_by_one == 5


def test_any_order_gives_equal_results():
    tuning = told_apart(attached())

    def by_rank(scores):
        return {s.submodel: s.predictions["validation"]["scores"] for s in scores}

    up, down = by_rank(measured(tuning)), by_rank(measured(tuning, [8, 3, 5, 1, 7, 2, 4, 6]))
    alone = by_rank([s for b in range(1, 9) for s in measured(tuning, [b])])
    assert up.keys() == down.keys() == alone.keys()
    for submodel, scores in up.items():
        assert down[submodel] == pytest.approx(scores, abs=1e-6) and alone[submodel] == pytest.approx(scores, abs=1e-6)
    assert len({tuple(scores.argmax(-1)) for scores in up.values()}) > 3
    assert [s.submodel.rank for s in measured(tuning, [8, 3, 5])] == [8, 3, 5]


def test_predictions_stand_at_their_rows():
    tuning = told_apart(attached())
    for score in measured(tuning, [2]):
        assert 0 < score.predictions["validation"]["prediction"].mean() < 1
        for row in range(len(SPLIT)):
            ids = torch.tensor([SPLIT.features["input_ids"][row]])
            tuning.activate(score.submodel)
            with torch.no_grad():
                logits = tuning.model(input_ids=ids).logits[0]
            assert score.predictions["validation"]["prediction"][row] == logits.argmax(-1).item()
            assert score.predictions["validation"]["scores"][row] == pytest.approx(logits.softmax(-1).numpy(), abs=1e-6)
        assert score.metrics["accuracy"] == pytest.approx(
            np.mean(score.predictions["validation"]["prediction"] == SPLIT.labels)
        )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("budget", [0, 10**9])
def test_mode_rank_and_random_state_are_left_as_found(training, budget):
    tuning = attached()
    tuning.model.train(training)
    tuning.activate(Submodel(rank=3))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    measured(tuning, stack_tokens=budget)
    assert tuning.model.training is training
    assert all(m.training is training for m in tuning.model.modules() if isinstance(m, torch.nn.Dropout))
    assert tuning.active() == Submodel(rank=3)
    assert torch.equal(torch.get_rng_state(), before)
    tuning.model.eval()
    batch = a_batch()
    with torch.no_grad():
        after = tuning.model(**batch).logits
        tuning.activate(Submodel(rank=3))
        assert torch.equal(after, tuning.model(**batch).logits)


def test_it_is_left_as_found_after_a_failure_too():
    tuning = attached()
    tuning.model.train()
    tuning.activate(Submodel(rank=2))
    with torch.no_grad():
        next(iter(tuning.trained().values())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        measured(tuning)
    assert tuning.model.training and tuning.active() == Submodel(rank=2)


def test_a_full_fine_tuning_has_one_score():
    tuning = attached("adapter=full")
    (score,) = evaluate(
        tuning.model, tuning, [SPLIT], tuning.family, ["accuracy"], batch_size=8, pad_id=0, stack_tokens=10**9
    )
    assert score.submodel == Submodel() and score.n == len(SPLIT)


def test_splits_are_kept_apart_by_name():
    tuning = attached()
    other = encoded(11, seed=6, name="validation_mismatched")
    matched = encoded(37, seed=5, name="validation_matched")
    (score,) = evaluate(
        tuning.model, tuning, [matched, other], [Submodel(rank=1)], ["accuracy"], batch_size=8, pad_id=0
    )
    assert set(score.metrics) == {"accuracy_matched", "accuracy_mismatched"}
    assert score.n == 48 and len(score.predictions["validation_mismatched"]["prediction"]) == 11


class Slow:
    """A clock on which every look takes twenty seconds."""

    now = 0.0

    def monotonic(self):
        self.now += 20
        return self.now


@pytest.mark.parametrize("budget", [0, 10**9])
def test_measuring_says_how_far_it_is(budget, monkeypatch, caplog):
    monkeypatch.setattr("rankbench.system.progress.time", Slow())
    monkeypatch.setattr(logging.getLogger("rankbench"), "propagate", True)
    with caplog.at_level(logging.INFO, "rankbench"):
        measured(attached(), stack_tokens=budget)
    told = [line.split("  ") for line in caplog.messages]
    assert len(told) > 2 and {line[0] for line in told} == {"measuring 8 sub-models on validation, answers"}
    assert told[-1][1] == "296/296" and told[-1][2] == "0:00 left" and told[0][2] != "0:00 left"


def test_no_rank_pays_for_what_all_share():
    """The first of a batch embeds it for all of them."""
    found = measured(attached(), stack_tokens=0)
    assert len({score.seconds for score in found}) == 1 and found[0].seconds > 0
