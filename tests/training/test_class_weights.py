"""Class weights: torch's weighted mean, however a step is cut into micro-batches, for every kind of method."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from conftest import Answer, refused, sample, write_jsonl
from sklearn.utils.class_weight import compute_class_weight
from tiny import a_batch, a_run, asked, attached, encoded, state

from rankbench.errors import RequestError
from rankbench.methods import FineTuning, objective
from rankbench.records.record import load_records
from rankbench.scoring import evaluation
from rankbench.settings.run import Run
from rankbench.settings.samplers import Sampler
from rankbench.settings.task import Task
from rankbench.tables import labels
from rankbench.tasks import data
from rankbench.training import loop
from rankbench.training.samplers import draw

WEIGHTS = torch.tensor([0.5, 4.0])
STILL = ["+model.random.hidden_dropout_prob=0", "+model.random.attention_probs_dropout_prob=0"]
METHODS = {
    "a prefix": ["adapter=dylora"],
    "all prefixes": ["adapter=dylora", "sampler=all", "adapter.r=3"],
    "one rank": ["adapter=lora"],
    "gates": ["adapter=lora_gated"],
    "all weights": ["adapter=full"],
    "exits": ["adapter=sorted_ft", "adapter.exits=[1,2]"],
    "exits and ranks": ["adapter=sorted_lora", "adapter.exits=[1,2]", "adapter.r=2"],
    "heads": ["adapter=early_exit", "adapter.exits=[1,2]"],
}


def gradient(
    tuning: FineTuning, parts: list[tuple[dict[str, torch.Tensor], float]], sampler: Sampler | None
) -> dict[str, Any]:
    """The gradient of a step whose micro-batches have these shares, and its loss; without a sampler by rows."""
    for parameter in tuning.trained().values():
        parameter.grad = None
    total = torch.zeros(())
    for batch, share in parts:
        if sampler is None:
            each = [tuning.learners[int(ids[1]) % len(tuning.learners)] for ids in batch["input_ids"]]
            total += tuning.accumulate_rows(tuning.model, batch, each, share, torch.Tensor.backward)
        else:
            drawn = draw(sampler, tuning.learners, 0, 0, 0)
            shares = [(submodel, weight * share) for submodel, weight in drawn]
            total += tuning.accumulate(tuning.model, batch, shares, torch.Tensor.backward)
    found = {name: p.grad.clone() for name, p in tuning.trained().items() if p.grad is not None}
    return found | {"loss": total}


@pytest.mark.parametrize("model", sample(["tiny_bert", "tiny_gpt2", "tiny_llama"], "tiny_bert"))
def test_the_loss_is_torchs_weighted_mean(model: str) -> None:
    tuning, batch = attached(f"model={model}"), a_batch(6)
    logits = tuning.model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    expected = F.cross_entropy(logits, batch["labels"], weight=WEIGHTS)
    assert objective.loss(tuning.model, batch, WEIGHTS).item() == pytest.approx(expected.item(), abs=1e-6)
    assert abs(objective.loss(tuning.model, batch) - expected).item() > 1e-3
    ones = objective.loss(tuning.model, batch, torch.ones(2))
    assert ones.item() == pytest.approx(objective.loss(tuning.model, batch).item(), abs=1e-6)


@pytest.mark.parametrize("name", sample([*METHODS, "rows of their own ranks"], "a prefix", "exits", "heads", "gates"))
def test_a_step_in_two_parts_is_that_of_one_batch(name: str) -> None:
    words = [*STILL, *METHODS.get(name, ["adapter=dylora"])]
    tuning, sampler = attached(*words), a_run(*words).sampler if name in METHODS else None
    tuning.class_weights = WEIGHTS
    batch = a_batch(8)
    batch["labels"] = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])
    own = WEIGHTS[batch["labels"]]
    parts = [
        ({key: value[part] for key, value in batch.items()}, float(own[part].sum() / own.sum()))
        for part in (slice(0, 3), slice(3, 8))
    ]
    whole, apart = gradient(tuning, [(batch, 1.0)], sampler), gradient(tuning, parts, sampler)
    assert whole.keys() == apart.keys() and len(whole) > 1
    assert all(torch.allclose(whole[key], apart[key], atol=1e-5, rtol=1e-4) for key in whole)
    tuning.class_weights = None
    assert not torch.allclose(gradient(tuning, [(batch, 1.0)], sampler)["loss"], whole["loss"], atol=1e-4)


def trained(folder: Path, size: int, steps: int, weights: torch.Tensor | None) -> tuple[dict[str, torch.Tensor], float]:
    """Weights and loss after a step over eight rows, in so many batches of a size."""
    common = ["train.group_by_length=false", "train.max_steps=1", "train.log_steps=1", "train.optimizer=sgd", *STILL]
    tuning = attached(*common, f"train.batch_size={size}", f"train.gradient_accumulation_steps={steps}")
    tuning.class_weights = weights
    _, past = loop.train(*asked(tuning.run), tuning, encoded(8), 0, Accelerator(cpu=True), folder, lambda model: [])  # type: ignore[attr-defined]
    return state(tuning), past.losses[-1]["loss"]


def test_accumulated_steps_of_the_loop_are_one_batch(tmp_path: Path) -> None:
    assert len(Counter(encoded(8).labels.tolist())) == 2
    (one, loss), (two, again), (_, plain) = (
        trained(tmp_path / str(place), *how)
        for place, how in enumerate([(8, 1, WEIGHTS), (3, 3, WEIGHTS), (8, 1, None)])
    )
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    assert again == pytest.approx(loss, abs=1e-5) and abs(plain - loss) > 1e-3


def test_scores_know_nothing_of_class_weights() -> None:
    tuning = attached("adapter=dylora")
    names = ["accuracy", "log_loss", "roc_auc"]
    how: dict[str, Any] = {"batch_size": 8, "pad_id": 0}
    before = evaluation.evaluate(tuning.model, tuning, [encoded()], tuning.family, names, **how)
    tuning.class_weights = WEIGHTS
    after = evaluation.evaluate(tuning.model, tuning, [encoded()], tuning.family, names, **how)
    assert [score.metrics for score in before] == [score.metrics for score in after]


# What is asked for


def loaded(folder: Path, labels: list[Any], **settings: Any) -> data.Data:
    for name in ("train", "validation"):
        write_jsonl(
            folder / f"{name}.jsonl", [{"text": f"{name} {i}", "label": label} for i, label in enumerate(labels)]
        )
    task = Task(name="made_up", data_dir=str(folder), **settings)
    task.check()
    return data.load(task)


MAIL = ["ham"] * 6 + ["spam"] * 2 + ["note"]


def test_balanced_weights_are_scikit_learns(tmp_path: Path) -> None:
    found = loaded(tmp_path, MAIL, class_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=found.train.labels)
    assert found.class_weights == pytest.approx(tuple(expected)) and found.label_names == ("ham", "note", "spam")
    assert found.origin["class_weights"] == dict(zip(found.label_names, found.class_weights or (), strict=True))


def test_weights_are_in_the_order_of_the_classes_or_by_name(tmp_path: Path) -> None:
    assert loaded(tmp_path, MAIL, class_weights=[1, 2, 3.5]).class_weights == (1.0, 2.0, 3.5)
    assert loaded(tmp_path, MAIL, class_weights={"spam": 5}).class_weights == (1.0, 1.0, 5.0)
    assert loaded(tmp_path / "b", [0, 1, 1], class_weights={1: 2, "0": 3}).class_weights == (3.0, 2.0)
    assert loaded(tmp_path / "c", [True, False], class_weights={True: 2}).class_weights == (1.0, 2.0)
    plain = loaded(tmp_path, MAIL)
    assert plain.class_weights is None and "class_weights" not in plain.origin


def test_a_class_without_training_rows_is_no_division_by_zero(tmp_path: Path) -> None:
    found = loaded(tmp_path, ["a", "b", "b"], class_weights="balanced", label_names=["a", "b", "c"])
    assert found.class_weights == pytest.approx((1.5, 0.75, 1.0))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], r"has 2 numbers for 3 classes \(ham, note, spam\); give one for each"),
        ({"spma": 2}, r"names spma, which is none of the classes \(ham, note, spam\)"),
        ({"spam": 2, " spam": 3}, "has the class spam twice"),
        ([1, 2, -1], "must be balanced, or numbers above 0"),
        ([1, 2, 0], "numbers above 0"),
        ([1, 2, float("nan")], "numbers above 0"),
        ({"spam": float("inf")}, "numbers above 0"),
        ([1, 2, "x"], "numbers above 0"),
        ([1, 2, True], "numbers above 0"),
        ([], "numbers above 0"),
        ({}, "numbers above 0"),
        ("even", "must be balanced"),
        (3, "must be balanced"),
    ],
)
def test_weights_that_cannot_be_are_refused(tmp_path: Path, weights: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        loaded(tmp_path, MAIL, class_weights=weights)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["task=classification", "task.regression=true", "task.metrics=[mse]"], "regression"),
        (["task=instruction", "model=tiny_llama"], "causal_lm"),
    ],
)
def test_only_a_classification_has_class_weights(words: list[str], kind: str) -> None:
    told = refused(*words, "task.class_weights=balanced")
    assert "task.class_weights weighs the classes of a classification" in told and kind in told


# A run with them


def test_class_weights_are_part_of_what_a_run_is(make_run: Callable[..., Run]) -> None:
    ids = {make_run().run_id, make_run("task.class_weights=null").run_id}
    assert len(ids) == 1
    more = ["balanced", "[1,5]", "{0:1,1:5}"]
    assert len(ids | {make_run(f"task.class_weights={own}").run_id for own in more}) == 4
    assert make_run("task.class_weights={1:5,0:1}").run_id == make_run("task.class_weights={0:1,1:5}").run_id


def test_a_weighted_run_says_so_and_is_no_seed_of_another(
    tiny: list[str], call_main: Callable[..., Answer], tmp_path: Path
) -> None:
    said = [call_main(*tiny, f"task.class_weights={own}") for own in ("null", "{1:5}", "balanced")]
    assert [answer.rc for answer in said] == [0, 0, 0], said[1].err
    assert "class weights of the training loss, not of the scores: 0 1, 1 5" in said[1].err
    records = load_records(tmp_path / "runs")
    assert len(set(labels.labels(records).values())) == 3
    weights = [record["data"].get("class_weights") for record in records]
    assert {json.dumps(own) for own in weights} == {"null", '{"0": 1.0, "1": 5.0}', '{"0": 1.0, "1": 1.0}'}
    again = call_main(*tiny, "task.class_weights={1:5}")
    assert again.rc == 0 and len(load_records(tmp_path / "runs")) == 3
