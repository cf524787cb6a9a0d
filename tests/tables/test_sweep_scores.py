"""The end of a sweep: each method's best score, and the command that chooses among the runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Answer
from test_choice import a_search
from test_curve import a_record

from rankbench.sweeps import scores

Call = Callable[..., Answer]


def runs(place: Path) -> list[Path]:
    return sorted(file.parent for file in place.glob("*/record.json"))


def test_each_method_has_its_best_rank_and_mean(tmp_path: Path) -> None:
    for seed, gain in ((0, 0.0), (1, 0.02)):
        a_record(tmp_path, "adapter=dylora", f"seed={seed}", values={1: 0.5, 2: 0.6 + gain, 4: 0.55})
    a_record(tmp_path, "adapter=full", values={None: 0.7})
    lines = scores.text(runs(tmp_path), tmp_path).splitlines()
    assert [re.split(r"  +", line) for line in lines if line] == [
        ["method", "best at", "accuracy x 100"],
        ["dylora", "rank 2", "61.0 ± 1.4"],
        ["full", "whole", "70.0"],
    ]


def test_of_a_loss_the_least_is_best(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=dylora", "task=alpaca", "model=tiny_llama", values={1: 0.5})
    for sub in (folder := tmp_path / "run-0").glob("record.json"):
        sub.write_text(sub.read_text().replace('"accuracy"', '"loss"').replace('"rank": 1', '"rank": 3'))
    assert "rank 3  0.500" in re.sub(r" {3,}", "  ", scores.text([folder], tmp_path))


def test_a_long_name_goes_on_in_a_line_below(tmp_path: Path) -> None:
    for rate, seed in (("1e-3", 0), ("2e-3", 1)):
        words = (f"train.learning_rate={rate}", "adapter.target_modules=[query,key,value]", f"train.epochs={seed + 1}")
        a_record(tmp_path, "adapter=dylora", "sampler=geometric", *words)
        words = ("sampler=uniform", "adapter.lora_dropout=0.25", f"train.learning_rate={rate}")
        a_record(tmp_path, "adapter=dylora", *words)
    text = scores.text(runs(tmp_path), tmp_path)
    assert max(map(len, text.splitlines())) <= 80 and "learning_rate=0.002" in text


@pytest.mark.parametrize("kind", ["none", "other task", "no predictions", "damaged"])
def test_no_command_is_named_that_would_be_refused(kind: str, tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=dylora")
    if kind == "other task":
        a_record(tmp_path, "adapter=dylora", "task=mrpc")
    if kind == "damaged":
        (tmp_path / "run-0" / "record.json").write_text("{")
    text = scores.text(runs(tmp_path) if kind != "none" else [], tmp_path)
    assert "choose_rank" not in text and ("dylora" in text) == (kind not in ("none", "damaged"))


def test_runs_over_one_data_set_have_a_next_command_that_works(tmp_path: Path, call_main: Call) -> None:
    place = tmp_path / "runs"
    a_search(place)
    for folder in runs(place):
        record = json.loads((folder / "record.json").read_text())
        training = {"seconds": 1.0, "peak_memory_bytes": 1, "examples_per_second": 1.0}
        subs = [sub | {"eval_seconds": 1.0} for sub in record["submodels"]]
        cuts = [sub | {"eval_seconds": 1.0} for sub in record.get("cuts") or []]
        (folder / "record.json").write_text(
            json.dumps(record | {"training": training, "submodels": subs, "cuts": cuts})
        )
    *_, command = scores.text(runs(place), place).splitlines()
    assert command == f"    rankbench table choose_rank {place}"
    a_record(place, "adapter=dylora", "task=mrpc")
    *_, narrowed = scores.text([run for run in runs(place) if run.name != "run-3"], place).splitlines()
    assert narrowed == f"{command} --task classification"
    assert call_main(*narrowed.split()[1:]).rc == 0


@pytest.mark.full
def test_a_sweep_says_which_run_it_is_at_and_ends_in_scores(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    answer = call_main("-m", *tiny, "adapter=lora,dylora", "evaluate.submodels=[1,4]", "train.max_steps=1", "seed=3")
    assert answer.rc == 0, answer.err
    assert [line for line in answer.err.splitlines() if line.startswith("[")] == [
        "[1/2] adapter=lora",
        "[2/2] adapter=dylora",
    ]
    rows = re.search(r"\n\nmethod  best at  +accuracy x 100\ndylora +rank \d +[\d.]+\nlora +rank \d", answer.out)
    assert rows, answer.out
    assert f"\n    rankbench table choose_rank {tmp_path / 'runs'}\n\ndone " in answer.out
    assert answer.out.splitlines()[-1] == "2 done"
    again = call_main("-m", *tiny, "adapter=lora,dylora", "evaluate.submodels=[1,4]", "train.max_steps=1", "seed=3")
    assert "[" not in again.err and "choose_rank" in again.out
