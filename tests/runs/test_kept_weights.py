"""A run that keeps its best evaluation ends with those weights, and its record and its closing lines say so."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from conftest import compose_run, write_jsonl, write_tiny
from safetensors.torch import load_file

import rankbench
from rankbench.errors import RequestError
from rankbench.runs.life import execute, summary

COMMON = ["model=tiny_bert", "task=classification", "task.regression=true", "task.metrics=[pearson]", "adapter.r=3"]
COMMON += ["train.batch_size=8", "train.learning_rate=0.04", "train.schedule=constant", "train.warmup_ratio=0"]
COMMON += ["train.eval_steps=2", "train.max_steps=12"]


def settings(folder: Path, *words: str) -> list[str]:
    if not (folder / "data").exists():
        write_tiny(folder / "data")
    return [*COMMON, f"task.data_dir={folder / 'data'}", f"runs_dir={folder / 'runs'}", *words]


def done(folder: Path, *words: str) -> tuple[Path, dict]:
    run = compose_run(*settings(folder, *words))
    return run.folder, execute(run)


def mean(record: dict) -> float:
    return sum(sub["metrics"]["pearson"] for sub in record["submodels"]) / len(record["submodels"])


def test_the_run_ends_with_the_weights_of_its_best_evaluation(tmp_path: Path) -> None:
    """A run that stops there by itself has the same ones: steps, draws and dropout are functions of the step."""
    folder, record = done(tmp_path, "train.keep=best")
    kept, evaluations = record["training"]["kept"], record["training"]["evaluations"]
    assert [entry["step"] for entry in evaluations if entry["rank"] == 1] == [2, 4, 6, 8, 10, 12]  # the last one too
    by_step = pd.DataFrame(evaluations).groupby("step")["value"].mean()
    value = pytest.approx(by_step.max())
    assert kept == {"step": by_step.idxmax(), "value": value, "by": "pearson, the mean of 3 sub-models"}
    assert kept["step"] < 12 and mean(record) == pytest.approx(kept["value"])
    assert record["training"]["steps"] == 12 and "stopped_early" not in record["training"]
    shorter, its = done(tmp_path, f"train.max_steps={kept['step']}")
    mine, theirs = (load_file(place / "adapter" / "adapter_model.safetensors") for place in (folder, shorter))
    assert all((mine[name] == theirs[name]).all() for name in mine | theirs)
    assert its["submodels"][0]["metrics"] == record["submodels"][0]["metrics"] and "kept" not in its["training"]
    assert f"Kept the weights of step {kept['step']} of 12, the best by pearson" in " ".join(summary(record).split())
    assert "Kept the weights of step" in (folder / "run.log").read_text()


def test_one_rank_may_decide(tmp_path: Path) -> None:
    _, record = done(tmp_path, "train.keep=best", "train.keep_by=2")
    own = {e["step"]: e["value"] for e in record["training"]["evaluations"] if e["rank"] == 2}
    best = max(own, key=lambda step: own[step])
    assert record["training"]["kept"] == {"step": best, "value": own[best], "by": "pearson of rank 2"}
    (two,) = (sub["metrics"]["pearson"] for sub in record["submodels"] if sub["rank"] == 2)
    assert two == pytest.approx(own[best])


def test_a_run_that_stops_early_says_where(tmp_path: Path) -> None:
    folder, record = done(tmp_path, "train.patience=1", "train.max_steps=40")
    training = record["training"]
    stopped = training["stopped_early"]
    assert training["steps"] == stopped["step"] < 40 and stopped["patience"] == 1 and "kept" not in training
    assert stopped["best"]["step"] == stopped["step"] - 2 and training["loss_curve"][-1]["step"] == stopped["step"]
    said = f"Stopped at step {stopped['step']}: 1 evaluation without a better one than that of step"
    assert said in " ".join(summary(record).split()) and said in (folder / "run.log").read_text()
    last = [e["value"] for e in training["evaluations"] if e["step"] == stopped["step"]]
    assert [sub["metrics"]["pearson"] for sub in record["submodels"]] == pytest.approx(last)


@pytest.mark.parametrize("words", [["train.keep=best"], ["train.patience=2"]])
def test_a_metric_that_says_nothing_cannot_choose_weights(words: list[str], tmp_path: Path) -> None:
    write_tiny(tmp_path / "data")
    write_jsonl(tmp_path / "data" / "validation.jsonl", [{"text": f"row {i}", "label": 1} for i in range(5)])
    run = compose_run(*settings(tmp_path, *words))
    with pytest.raises(RequestError, match=r"pearson is undefined on validation, where every label is the same"):
        execute(run)
    assert not run.folder.exists()
    execute(compose_run(*settings(tmp_path, "train.max_steps=2")))


def test_an_exit_that_is_not_there_cannot_choose_weights(tmp_path: Path) -> None:
    words = [
        word for word in settings(tmp_path, "adapter=sorted_ft", "adapter.exits=[1,2]") if "adapter.r=" not in word
    ]
    run = compose_run(*words, "train.keep=best", "train.keep_by=7")
    with pytest.raises(RequestError, match=r"train.keep_by=7 is no sub-model .* the measured exits are 1, 2"):
        execute(run)
    assert not run.folder.exists()


def test_tables_tell_runs_that_look_on_at_other_steps_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where evaluations decide what is kept, how often they come is a setting like others; else it is none."""
    caplog.set_level(logging.ERROR, "rankbench")
    for words in (["train.keep=best"], ["train.keep=best", "train.eval_steps=3"], ["seed=1"], ["seed=2"]):
        done(tmp_path, "train.max_steps=4", *words)
    text = rankbench.table("curve", tmp_path / "runs").text("md")
    head = next(line for line in text.splitlines() if "dylora" in line)
    assert head.count("dylora") == 3 and "eval_steps=2" in head and "eval_steps=3" in head, "seeds are one method"
    assert "keep=best" in text and "are the best of several on these examples" in " ".join(text.split())


def test_the_record_is_json_with_a_metric_that_is_never_finite() -> None:
    from rankbench.records.notes import how_it_ended

    kept = {"step": 12, "value": None, "by": "loss of rank 1"}
    stopped = {"step": 12, "patience": 2, "best": kept}
    said = how_it_ended(json.loads(json.dumps({"training": {"steps": 12, "kept": kept, "stopped_early": stopped}})))
    assert said[1] == "Kept the last weights: no evaluation gave a finite loss of rank 1." and "never finite" in said[0]
