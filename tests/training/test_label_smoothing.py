"""Label smoothing: LoRA's, which is torch's, on the response's tokens and in training alone, for every method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import compose_run, refused, write_jsonl
from tiny import a_batch, attached

from rankbench.methods import objective
from rankbench.models import backbone
from rankbench.runs.life import execute
from rankbench.scoring import evaluation
from rankbench.tasks import data
from rankbench.tasks.encoding import IGNORED, collate, encode_responses

STILL = ["+model.random.attn_pdrop=0", "+model.random.resid_pdrop=0", "+model.random.embd_pdrop=0"]
METHODS = {
    "dylora": ["adapter=dylora"],
    "lora": ["adapter=lora"],
    "full": ["adapter=full"],
    "sorted_ft": ["adapter=sorted_ft", "adapter.exits=[1,2]"],
    "early_exit": ["adapter=early_exit", "adapter.exits=[1,2]"],
    "sorted_lora": ["adapter=sorted_lora", "adapter.exits=[1,2]", "adapter.r=2"],
    "lora_gated": ["adapter=lora_gated"],
    "flop": ["adapter=flop"],
}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    rows = [{"meaning_representation": f"name[A{i}]", "references": [f"it is {i}", f"{i} it is"]} for i in range(6)]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
    return [
        "model=tiny_gpt2",
        "task=e2e",
        f"task.data_dir={tmp_path / 'data'}",
        f"runs_dir={tmp_path / 'runs'}",
        "task.metrics=[loss]",
        "adapter.r=4",
        "train.max_steps=2",
        "train.batch_size=4",
        *STILL,
    ]


def by_hand(logits: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
    """LoRA's gpt2 code in one line a term: (1 - e) nll + e mean over the vocabulary of -log p, over scored tokens."""
    logs = -logits.log_softmax(-1)
    kept = targets != IGNORED
    nll = logs.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return ((1 - share) * nll + share * logs.mean(-1))[kept].mean()


def test_the_loss_is_loras(words: list[str]) -> None:
    run = compose_run(*words)
    rows = encode_responses(data.load(run.task).train, backbone.byte_tokenizer(), 64)
    tuning = attached(*words, num_labels=None)
    tuning.model.eval()
    batch = collate(rows, np.arange(5), 0)
    width = batch["labels"].shape[1]
    logits = tuning.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = by_hand(logits[:, -width - 1 : -1], batch["labels"], 0.1)
    found = objective.loss(tuning.model, batch, None, 0.1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert abs(found - objective.loss(tuning.model, batch)).item() > 1e-4


def test_a_classifiers_loss_is_torchs() -> None:
    tuning, batch, weights = attached("model=tiny_bert"), a_batch(6), torch.tensor([0.5, 4.0])
    tuning.model.eval()
    logits = tuning.model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    for given in (None, weights):
        expected = F.cross_entropy(logits, batch["labels"], weight=given, label_smoothing=0.2)
        assert objective.loss(tuning.model, batch, given, 0.2).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_by_it_and_no_score_knows_of_it(method: str, words: list[str]) -> None:
    tuning = attached(*words, *METHODS[method], num_labels=None)
    rows = encode_responses(data.load(compose_run(*words).task).validation[0], backbone.byte_tokenizer(), 64)
    batch, top = collate(rows, np.arange(4), 0), tuning.learners[-1]
    told, scored = [], []
    for share in (0.0, 0.9):
        tuning.label_smoothing = share
        torch.manual_seed(0)
        told.append(tuning.accumulate(tuning.model, batch, [(top, 1.0)], torch.Tensor.backward).item())
        (score,) = evaluation.evaluate(tuning.model, tuning, [rows], [top], ["loss"], batch_size=4, pad_id=0)
        scored.append(score.metrics["loss"])
    assert told[0] != told[1] and scored[0] == scored[1]


@pytest.mark.slow
def test_a_run_smooths_as_it_is_told(words: list[str]) -> None:
    losses = [
        execute(compose_run(*words, "train.max_steps=1", f"train.label_smoothing={share}"))["training"]["loss_curve"]
        for share in (0.0, 0.9)
    ]
    assert losses[0][0]["loss"] != losses[1][0]["loss"]


@pytest.mark.parametrize("share", ["-0.1", "1", "nan"])
def test_a_share_outside_is_refused(share: str, words: list[str]) -> None:
    assert "not in [0, 1)" in refused(*words, f"train.label_smoothing={share}")


def test_a_regression_has_no_labels_to_smooth(tmp_path: Path) -> None:
    words = ["model=tiny_bert", "task=stsb", f"task.data_dir={tmp_path}", "train.label_smoothing=0.1"]
    assert "a regression has values" in refused(*words)


@pytest.mark.parametrize(("preset", "smoothing", "decay"), [("lora_nlg", 0.1, 0.01), ("lora_dart", 0.0, 0.0)])
def test_the_presets_are_loras_recipe(preset: str, smoothing: float, decay: float, words: list[str]) -> None:
    train = compose_run("model=gpt2_medium", f"train={preset}", *words[1:3]).train
    assert (train.epochs, train.batch_size, train.learning_rate, train.warmup_steps) == (5, 8, 2e-4, 500)
    assert (train.label_smoothing, train.weight_decay, train.max_grad_norm) == (smoothing, decay, 0)
    assert train.schedule.value == "linear" and train.optimizer.value == "adamw"
