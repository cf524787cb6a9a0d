"""Killed at any moment and started again by the same command, a run ends as one never killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import sample, write_tiny
from tiny import a_run

from rankbench.errors import RunFailed
from rankbench.models import precision
from rankbench.runs import life as runs
from rankbench.runs import work
from rankbench.scoring import evaluation
from rankbench.training import checkpoints, loop

STEPS = 12
COMMON = [
    "task=classification",
    f"train.max_steps={STEPS}",
    "train.batch_size=8",
    "train.checkpoint_steps=3",
    "train.log_steps=2",
    "train.eval_steps=5",
    "adapter.lora_dropout=0.1",
    "adapter.r=3",
]


class Killed(BaseException):
    """Stands for SIGKILL inside the process: no handler of the run's own may catch it."""


def settings(tmp_path: Path, *overrides: str) -> list[str]:
    data = tmp_path / "data"
    if not data.exists():
        write_tiny(data)
    return [*COMMON, f"task.data_dir={data}", *overrides]


def outcome(folder: Path) -> dict:
    """Everything of a run that must not depend on how often it was killed."""
    record = json.loads((folder / "record.json").read_text())
    training = record["training"]
    return {
        "adapter": (folder / "adapter" / "adapter_model.safetensors").read_bytes(),
        "metrics": [s["metrics"] for s in record["submodels"]],
        "losses": training["loss_curve"],
        "evaluations": training["evaluations"],
        "steps": training["steps"],
        "selected": {key: training.get(key) for key in ("kept", "stopped_early")},
        "csv": (folder / "metrics.csv").read_text(),
        "predictions": (folder / "predictions.parquet").read_bytes(),
        "checkpoints": (folder / "checkpoints").exists(),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What each variant leaves when nothing kills it."""
    cache: dict[tuple[str, ...], dict] = {}
    tmp_path = tmp_path_factory.mktemp("whole")

    def of(*overrides: str) -> dict:
        if overrides not in cache:
            run = a_run(*settings(tmp_path, *overrides), f"runs_dir={tmp_path / 'runs'}")
            runs.execute(run)
            cache[overrides] = outcome(run.folder)
        return cache[overrides]

    return of


def dies_at(monkeypatch, owner, name: str, call: int, after: bool = False):
    """Kill the process at the n-th call of a function (counted from 1), before or after it."""
    original = getattr(owner, name)
    calls = 0

    def dying(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        result = original(*args, **kwargs)
        if calls == call:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, dying)


MOMENTS = {
    "before the first step": (loop, "draw", 1, False),
    "before the first checkpoint": (loop, "draw", 3, False),
    "right after a checkpoint": (checkpoints, "save", 2, True),
    "between checkpoints": (loop, "draw", 8, False),
    "while a checkpoint is written": (checkpoints, "save_file", 2, True),
    "before a checkpoint is renamed": (checkpoints.os, "replace", 3, False),
    "at the last step": (loop, "draw", STEPS, False),
    "after the last checkpoint": (checkpoints, "save", 4, True),
    "in the final evaluation": (evaluation, "_score", 1, False),
    "while the adapter is saved": (work, "replace_folder", 1, False),
    "after the adapter is saved": (work, "replace_folder", 1, True),
    "before the record": (runs, "_finish", 1, False),
    "after the record": (runs, "_finish", 1, True),
}
# A correlation moves with every step, so that which evaluation is best depends on all of them.
SELECTING = ("task.regression=true", "task.metrics=[pearson]", "train.keep=best", "train.eval_steps=2")
SELECTING += ("train.learning_rate=0.02", "train.schedule=constant")
LATE = "before the best is put back"
BEST_MOMENTS = {
    "before a best is kept": (checkpoints, "keep_best", 2, False),
    "after a best that no checkpoint knows": (checkpoints, "keep_best", 2, True),
    "while a best is written": (checkpoints, "save_file", 3, False),
    "before older ones are dropped": (checkpoints, "_drop", 3, False),
    "right after a checkpoint": (checkpoints, "save", 2, True),
    "before the last evaluation": (loop, "draw", STEPS, False),
    LATE: (checkpoints, "put_back", 1, False),
    "after the best is put back": (checkpoints, "put_back", 1, True),
    "before the record": (runs, "_finish", 1, False),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_once(moment, whole, tmp_path, monkeypatch):
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    with monkeypatch.context() as patch:
        dies_at(patch, *MOMENTS[moment])
        with pytest.raises(Killed):
            runs.execute(run)
    runs.execute(run)
    assert outcome(run.folder) == whole()


@pytest.mark.parametrize(
    "moment",
    sample(
        BEST_MOMENTS, "after a best that no checkpoint knows", "while a best is written", "before the best is put back"
    ),
)
@pytest.mark.parametrize("more", sample([(), ("train.patience=2",)], ()), ids=str)
def test_killed_once_while_the_best_is_kept(moment, more, whole, tmp_path, monkeypatch):
    run = a_run(*settings(tmp_path, *SELECTING, *more), f"runs_dir={tmp_path / 'runs'}")
    with monkeypatch.context() as patch:
        dies_at(patch, *BEST_MOMENTS[moment])
        with contextlib.suppress(Killed):  # with patience the last evaluation may never come
            runs.execute(run)
    assert (run.folder / "checkpoints").exists() or more
    runs.execute(run)
    assert outcome(run.folder) == whole(*SELECTING, *more)


def test_the_runs_above_keep_neither_their_first_nor_their_last_weights(whole):
    kept = whole(*SELECTING)["selected"]["kept"]
    assert 2 < kept["step"] < STEPS and kept["by"] == "pearson, the mean of 3 sub-models"
    stopped = whole(*SELECTING, "train.patience=2")
    assert stopped["steps"] < STEPS and stopped["selected"]["stopped_early"]["step"] == stopped["steps"]


@pytest.mark.parametrize(
    "variant",
    [
        ("adapter.update=frozen_strict",),
        ("adapter.update=frozen_grad", "sampler=geometric"),
        ("sampler=sandwich", "train.gradient_accumulation_steps=2"),
        ("sampler=sandwich", "sampler.per_row=true", "sampler.whole_first=0.4", "adapter.reorder_at=[0.25,0.5,1.0]"),
        ("adapter=lora",),
        ("train.optimizer=sgd", "train.schedule=cosine"),
        ("model=tiny_gpt2", "train.gradient_checkpointing=true"),
        (*SELECTING, "adapter.reorder_at=[0.25,0.5,1.0]"),
        (*SELECTING, "adapter=lora_gated", "adapter.r=4", "train.patience=2", "adapter.sparsity_warmup=0"),
        (*SELECTING, "train.patience=1", "train.keep_by=2"),
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_every_method_resumes_exactly(variant, whole, tmp_path, monkeypatch):
    run = a_run(*settings(tmp_path, *variant), f"runs_dir={tmp_path / 'runs'}")
    for step in (5, 4):  # killed twice, the second time after a resume
        with monkeypatch.context() as patch:
            dies_at(patch, loop, "learning_rate_factor", step)
            with pytest.raises(Killed):
                runs.execute(run)
    runs.execute(run)
    assert outcome(run.folder) == whole(*variant)


def test_full_fine_tuning_resumes_exactly(tmp_path, monkeypatch):
    results = []
    for name, kill in (("a", False), ("b", True)):
        run = a_run(*settings(tmp_path, "adapter=full"), f"runs_dir={tmp_path / name}")
        if kill:
            with monkeypatch.context() as patch:
                dies_at(patch, loop, "draw", 8)
                with pytest.raises(Killed):
                    runs.execute(run)
        record = runs.execute(run)
        results.append(((run.folder / "adapter" / "model.safetensors").read_bytes(), record["submodels"][0]["metrics"]))
    assert results[0] == results[1]


def test_a_run_that_goes_on_in_another_precision_says_so(tmp_path, monkeypatch):
    """As where `train.precision=auto` finds another card."""
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    with monkeypatch.context() as patch:
        patch.setattr(precision, "choose_precision", lambda *_: ("bf16", "as this machine has it"))
        dies_at(patch, checkpoints, "save", 2, True)
        with pytest.raises(Killed):
            runs.execute(run)
    record = runs.execute(run)
    assert record["environment"]["precision"] == "fp32"
    parts = [(part["from_step"], part["precision"]) for part in record["training"]["stretches"]]
    assert parts == [(0, "bf16"), (6, "fp32")]
    assert "until step 6 it trained in bf16" in (run.folder / "run.log").read_text()
    assert "Trained first in bf16 on" in runs.summary(record) and "from step 6 in fp32" in runs.summary(record)


def test_a_run_that_goes_on_as_it_began_says_nothing(tmp_path, monkeypatch):
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    with monkeypatch.context() as patch:
        dies_at(patch, checkpoints, "save", 2, True)
        with pytest.raises(Killed):
            runs.execute(run)
    record = runs.execute(run)
    assert "stretches" not in record["training"] and "Trained first" not in runs.summary(record)


def test_a_damaged_newest_checkpoint_costs_steps_not_exactness(whole, tmp_path, monkeypatch):
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    with monkeypatch.context() as patch:
        dies_at(patch, loop, "draw", 8)
        with pytest.raises(Killed):
            runs.execute(run)
    newest = sorted((run.folder / "checkpoints").glob("step-*"))[-1]
    (newest / "tensors.safetensors").write_bytes(b"no longer")
    runs.execute(run)
    assert "step-00000006 is damaged" in (run.folder / "run.log").read_text()
    assert "resumed at step 3" in (run.folder / "run.log").read_text()
    assert outcome(run.folder) == whole()


def test_a_full_disk_fails_the_run_and_a_repeat_finishes_it(whole, tmp_path, monkeypatch):
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    original = checkpoints.save_file

    def full(tensors, file):
        if "6" in Path(file).parent.name:
            raise OSError(28, "No space left on device")
        original(tensors, file)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(RunFailed, match="No space left on device; mend the disk"):
            runs.execute(run)
    record = json.loads((run.folder / "record.json").read_text())
    assert record["status"] == "failed" and "No space left" in record["traceback"]
    runs.execute(run)
    assert outcome(run.folder) == whole()


def start(arguments: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "rankbench", "model=tiny_bert", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_sigkill_and_the_same_command_again(whole, tmp_path):
    arguments = [*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}"]
    run = a_run(*arguments)
    process = start(arguments)
    deadline = time.monotonic() + 120
    while not list((run.folder / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (run.folder / "record.json").exists()
    again = start(arguments)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    assert "resumed at step" in output
    assert outcome(run.folder) == whole()


@pytest.mark.slow
def test_sigkill_at_random_moments_until_it_is_done(whole, tmp_path):
    arguments = [*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}"]
    run = a_run(*arguments)
    draw = random.Random(os.getpid())
    deaths = 0
    for attempt in range(6):
        process = start(arguments)
        try:
            # The first dies in training for certain; the later ones anywhere between the imports and the record.
            if attempt == 0:
                while process.poll() is None and not list((run.folder / "checkpoints").glob("step-*")):
                    time.sleep(0.002)
                raise subprocess.TimeoutExpired(process.args, 0)
            process.wait(timeout=draw.uniform(4, 10))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            deaths += process.wait() == -signal.SIGKILL
        if (run.folder / "record.json").exists():
            break
    output, _ = start(arguments).communicate(timeout=240)
    assert outcome(run.folder) == whole(), output
    assert deaths >= 1
