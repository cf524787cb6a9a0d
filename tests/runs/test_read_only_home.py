"""A home and a hub cache that cannot be written cost no run, and the doctor says which they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import evaluate
import numpy as np
import pytest
from conftest import Answer, compose_run
from huggingface_hub import constants

from rankbench.forecast import doctor
from rankbench.settings.metrics import METRICS
from rankbench.system import home
from rankbench.tasks.metrics import score


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A folder that root cannot make either."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "home"


@pytest.mark.parametrize("name", [name for name, own in METRICS.items() if not own.java])
def test_no_metric_writes_to_the_libraries_cache(name: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(nowhere))
    texts = METRICS[name].of_texts
    values = np.array(["a", "b"]) if texts else np.array([0, 1])
    columns = {"prediction": values, "loss": np.array([0.1, 0.2]), "tokens": np.array([3, 4])}
    columns |= {"scores": np.array([[0.6, 0.4], [0.3, 0.7]]), "null_difference": np.array([0.1, 0.2])}
    assert score([name], columns, [["a"], ["b"]] if texts else values)


@pytest.mark.slow
def test_a_run_and_its_mirror_are_whole_without_a_home(
    command_line: Callable[..., Answer], tiny: list[str], nowhere: Path, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    env = {"HOME": str(nowhere), "HF_HOME": str(nowhere / "hub")}
    answer = command_line(*tiny, "log=wandb", "log.mode=offline", env=env)
    assert answer.rc == 0, answer.err
    assert not [line for line in answer.said if str(nowhere) in line or "rankbench: " in line], answer.err
    assert list((tmp_path / "runs").glob("*/record.json")) and list((tmp_path / "runs").glob("*/wandb/offline-run-*"))


def test_libraries_write_beside_the_runs_where_the_home_takes_nothing(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in home.LIBRARIES:
        monkeypatch.setenv(variable, "")  # and put back after the test
    monkeypatch.setenv("WANDB_CACHE_DIR", "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    home.spare(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("HOME", str(nowhere))
    home.spare(tmp_path / "runs")

    assert os.environ["WANDB_CACHE_DIR"] == "mine"
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "runs" / ".cache" / "wandb")


def test_the_doctor_says_what_cannot_be_written(nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = compose_run("model=tiny_bert", f"task.data_dir={tmp_path}")

    def found() -> list[tuple[str, str]]:
        return [(line.name, line.level) for line in doctor.examine(run) if line.name in ("HOME", "HF_HOME")]

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    assert found() == []
    monkeypatch.setenv("HOME", str(nowhere))
    assert found() == [("HOME", "warning")]
    monkeypatch.setattr(constants, "HF_HOME", str(nowhere.parent / "hub"))
    assert found() == [("HOME", "warning"), ("HF_HOME", "warning")]
