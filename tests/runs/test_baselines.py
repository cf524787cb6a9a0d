"""What stands beside every curve: the majority class or mean, and the backbone with the adapter switched off."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Answer, compose_run, sample, sentences, tiny_overrides, write_jsonl, write_tiny

from rankbench.models import backbone
from rankbench.records.notes import notes
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping.loading import load
from rankbench.tables import choice, closing
from rankbench.tasks import data
from rankbench.tasks.encoding import encode, encode_responses


def done(*words: str) -> tuple[Run, dict[str, Any]]:
    run = compose_run(*words)
    return run, execute(run)


def by_name(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {row["baseline"]: row["metrics"] for row in record["baselines"]}


@pytest.mark.parametrize("adapter", sample(["lora", "dylora", "qdylora", "sorted_lora"], "lora", "dylora"))
def test_rank_0_is_the_backbone_under_the_trained_head(tmp_path: Path, adapter: str) -> None:
    words = tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")
    run, record = done(*words, f"adapter={adapter}", "train.learning_rate=0.1", "train.max_steps=12")
    model = load(run.folder)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    loaded = data.load(run.task)
    split = encode(loaded.validation[0], backbone.byte_tokenizer(), run.task.max_length)
    with torch.no_grad():
        said = [
            model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits.argmax().item()
            for ids in split.features["input_ids"]
        ]
    assert by_name(record)["rank 0"]["accuracy"] == np.mean(np.array(said) == split.labels)


def test_the_majority_class_is_that_of_the_training_split(tmp_path: Path) -> None:
    rows = [row | {"label": 0 if i < 40 else 1} for i, row in enumerate(sentences(64))]
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    write_jsonl(
        tmp_path / "data" / "validation.jsonl", [r | {"label": int(i >= 6)} for i, r in enumerate(sentences(24))]
    )
    words = tiny_overrides(tmp_path / "data", tmp_path / "runs")
    _, record = done(*words, "task.metrics=[accuracy,f1,log_loss]", "adapter=full")
    (name, metrics), *others = by_name(record).items()
    assert (name, metrics["accuracy"], metrics["f1"]) == ("majority class", 6 / 24, 0.0)
    assert metrics["log_loss"] == pytest.approx(-(6 * np.log(40 / 64) + 18 * np.log(24 / 64)) / 24)
    assert not others, "every weight of the backbone was trained, so none is left to score"


def test_a_regression_is_held_to_the_mean(tmp_path: Path) -> None:
    for name, n in (("train", 64), ("validation", 24)):
        rows = [{"text": row["text"], "label": i / 10} for i, row in enumerate(sentences(n))]
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    words = tiny_overrides(tmp_path / "data", tmp_path / "runs")
    _, record = done(*words, "task.regression=true", "task.metrics=[mse]")
    wanted = np.mean((np.arange(24) / 10 - np.arange(64).mean() / 10) ** 2)
    assert by_name(record)["mean"]["mse"] == pytest.approx(wanted)


def test_a_language_model_is_held_to_its_backbone(tmp_path: Path) -> None:
    rows = [{"instruction": f"say {i}", "input": "", "output": f"word {i % 3}"} for i in range(40)]
    for name, part in (("train", rows[:30]), ("validation", rows[30:])):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", part)
    words = ["model=tiny_llama", "task=instruction", f"task.data_dir={tmp_path / 'data'}", f"runs_dir={tmp_path}"]
    words += ["task.metrics=[loss]", "adapter.r=2", "train.max_steps=3", "train.batch_size=8"]
    run, record = done(*words, "train.learning_rate=0.1")
    model = load(run.folder)
    split = encode_responses(data.load(run.task).validation[0], backbone.byte_tokenizer(), run.task.max_length)
    total, tokens = 0.0, 0
    with torch.no_grad(), model.disable_adapter():
        for ids, labels in zip(split.features["input_ids"], split.features["labels"], strict=True):
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            wanted = torch.tensor(labels[1:])
            kept = wanted >= 0
            total -= logits[kept].gather(1, wanted[kept][:, None]).sum().item()
            tokens += int(kept.sum())
    assert by_name(record) == {"rank 0": {"loss": pytest.approx(total / tokens, rel=1e-5)}}
    assert record["submodels"][-1]["metrics"]["loss"] != pytest.approx(total / tokens, rel=1e-3)


def test_they_change_nothing_else_and_may_be_left_out(tmp_path: Path) -> None:
    words = tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")
    run, record = done(*words, "evaluate.cuts=[svd]", "adapter=lora")
    other, without = done(*words, "evaluate.cuts=[svd]", "adapter=lora", "evaluate.baselines=false")
    assert run.run_id != other.run_id and "baselines" not in without
    assert [sub["metrics"] for sub in without["submodels"]] == [sub["metrics"] for sub in record["submodels"]]
    frames = [pd.read_parquet(one.folder / "predictions.parquet") for one in (run, other)]
    pd.testing.assert_frame_equal(*frames)
    weights = [(one.folder / "adapter" / "adapter_model.safetensors").read_bytes() for one in (run, other)]
    assert weights[0] == weights[1]


def test_they_are_said_wherever_scores_are_shown(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    words = tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")
    said = call_main(*words, "evaluate.cuts=[]")
    (folder,) = (tmp_path / "runs").glob("classification-*")
    assert "Baseline: the majority class has accuracy x 100 50.0." in said.err + said.out
    assert "Baseline: rank 0 (the adapter off) has accuracy x 100" in said.err + said.out
    told = choice.choose_rank(folder, margin=50)[1]
    assert any(line.startswith("Baseline: rank 0") for line in told)
    run, record = done(*words, "seed=1")
    other, second = done(*words, "adapter=lora")
    lines = closing.lines([record, second], {run.run_id: "accuracy", other.run_id: "accuracy"})
    assert "Baseline: the majority class has accuracy x 100 50.0." in lines, "once for all"
    (line,) = [line for line in lines if line.startswith("Baseline: rank 0")]
    values = [f"{100 * by_name(one)['rank 0']['accuracy']:.1f}" for one in (record, second)]
    assert line == f"Baseline: rank 0 (the adapter off), accuracy x 100: dylora {values[0]}, lora {values[1]}."
    assert notes({"submodels": []}) == []


@pytest.mark.parametrize(
    "words",
    sample(
        [
            ("adapter=sorted_ft", "adapter.exits=[1,2]", "evaluate.submodels=[1]"),
            ("adapter=flop", "adapter.r=100000"),
            ("adapter=early_exit", "adapter.exits=[1,2]"),
            ("adapter=lora", "evaluate.submodels=[1]"),
            ("adapter=full",),
            ("adapter=head",),
        ],
        ("adapter=sorted_ft", "adapter.exits=[1,2]", "evaluate.submodels=[1]"),
        ("adapter=flop", "adapter.r=100000"),
    ),
    ids="-".join,
)
def test_no_more_is_trained_than_there_is(tiny: list[str], call_main: Callable[..., Answer], words: list[str]) -> None:
    said = call_main(*tiny, *words, "train.max_steps=1")
    (trained, total) = re.findall(r"([\d,]+) parameters trained of ([\d,]+)", said.err)[0]
    whole = 34_818  # of tiny_bert under a head of two classes
    trained, total = int(trained.replace(",", "")), int(total.replace(",", ""))
    assert trained <= total and total >= whole, said.err
    assert (trained == total) == (words[0] in ("adapter=sorted_ft", "adapter=flop", "adapter=full"))
