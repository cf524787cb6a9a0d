"""E2E, DART and WebNLG end to end: trained on pairs, scored once an input, predicted, chosen by a group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import compose_run, write_jsonl

import rankbench
from rankbench.runs.life import execute
from rankbench.shipping import predict

CATEGORIES = ("Food", "Artist", "City", "Politician")


def row(task: str, i: int) -> dict[str, Any]:
    said = f"name[A{i}], eatType[pub]" if task == "e2e" else f"A{i} : KIND : pub"
    return {
        "meaning_representation": said,
        "references": [f"A{i} is a pub", f"a pub is A{i}"][: 1 + i % 2],
        "category": CATEGORIES[i % 4],
    }


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return [
        "model=tiny_gpt2",
        f"runs_dir={tmp_path / 'runs'}",
        "adapter=dylora",
        "adapter.r=2",
        "train.max_steps=3",
        "train.batch_size=4",
        "task.max_new_tokens=4",
        "task.metrics=[bleu_sacre,loss]",
    ]


def ready(task: str, folder: Path) -> list[str]:
    for split, first in (("train", 0), ("validation", 10)):
        write_jsonl(folder / f"{split}.jsonl", [row(task, first + i) for i in range(8)])
    return [f"task={task}", f"task.data_dir={folder}"]


@pytest.mark.parametrize("task", ["e2e", pytest.param("dart", marks=pytest.mark.slow)])
def test_a_run_learns_pairs_and_scores_inputs(task: str, words: list[str], tmp_path: Path) -> None:
    run = compose_run(*words, *ready(task, tmp_path / "data"), "train=lora_nlg", "train.epochs=1")
    record = execute(run)
    assert record["data"]["splits"]["train"]["rows"] == 12 and record["submodels"][0]["n"] == 8
    kept = pd.read_parquet(run.folder / "predictions.parquet")
    assert len(kept) == 2 * 8 and "group" not in kept
    new = write_jsonl(tmp_path / "new.jsonl", [{"meaning_representation": row(task, 3)["meaning_representation"]}] * 2)
    for file in (new, tmp_path / "data" / "validation.jsonl"):  # without accepted texts, and with
        predict.main([str(run.folder), "--data", str(file), "--to", str(tmp_path / "out.jsonl")])
        said = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert len(said) == (2 if file == new else 8) and all(isinstance(one["prediction"], str) for one in said)
    top = kept[kept["rank"] == 2].sort_values("index")["prediction"].tolist()
    assert [one["prediction"] for one in said] == top
    assert rankbench.load(run.folder).predict([row(task, 10)["meaning_representation"]]) == top[:1]


def test_webnlgs_scores_are_of_all_seen_and_unseen(words: list[str], tmp_path: Path) -> None:
    names = ("ter_webnlg", "nist_e2e", "loss")
    run = compose_run(*words, *ready("webnlg", tmp_path / "data"), f"task.metrics=[{','.join(names)}]")
    record = execute(run)
    metrics = record["submodels"][0]["metrics"]
    assert list(metrics) == [f"{name}{end}" for end in ("", "_seen", "_unseen") for name in names]
    kept = pd.read_parquet(run.folder / "predictions.parquet").query("rank == 1")
    for group in ("seen", "unseen"):
        own = kept[kept["group"] == group]
        assert metrics[f"loss_{group}"] == pytest.approx(own["loss"].sum() / own["tokens"].sum())
    assert metrics["loss"] == pytest.approx(kept["loss"].sum() / kept["tokens"].sum())
    assert len({metrics["loss"], metrics["loss_seen"], metrics["loss_unseen"]}) == 3
    for metric in ("loss_unseen", "ter_webnlg_seen", "nist_e2e_unseen"):  # by the bootstrap over the group's rows
        assert rankbench.choose_rank(run.folder, metric).metric == metric
    table = rankbench.table("nlg", run.folder)
    assert list(table.ours[0].frame.columns)[-1] == "loss unseen"
