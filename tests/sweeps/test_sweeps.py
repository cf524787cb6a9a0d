"""Every sweep composes, says what it asks and how it is started, and its jobs are the runs that it promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, Answer, sample, write_tiny
from hydra import compose, initialize_config_dir

from rankbench import load_runs
from rankbench.settings.compose import CONF, build
from rankbench.settings.run import Run

SWEEPS = sorted((REPOSITORY / "sweeps").glob("*.yaml"))


def jobs(sweep: Path, *overrides: str) -> list[Run]:
    """The runs of one seed that Hydra would launch."""
    params: dict[str, Any] = yaml.safe_load(sweep.read_text())["hydra"]["sweeper"]["params"] | {"seed": 0}
    choices = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    found = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for words in itertools.product(*choices):
            asked = [f"+sweeps={sweep.stem}", *words, *overrides]
            found.append(build(compose("config", asked), asked))
    return found


@pytest.mark.parametrize("sweep", sample(SWEEPS, *SWEEPS[::3]), ids=lambda file: file.stem)
def test_every_sweep_opens_with_its_question_and_command_and_composes(sweep: Path) -> None:
    head = [line for line in sweep.read_text().splitlines() if line.startswith("#")]
    assert head[0] == "# @package _global_" and head[2].startswith(f"#   python -m rankbench -m +sweeps={sweep.stem}")
    seeds = yaml.safe_load(sweep.read_text())["hydra"]["sweeper"]["params"].get("seed")
    assert seeds == (None if sweep.stem == "answer" else "0,1,2")
    runs = jobs(sweep)
    assert len(runs) > 1 and len({str(run) for run in runs}) == len(runs)


def named(name: str) -> Path:
    return REPOSITORY / "sweeps" / f"{name}.yaml"


def test_the_search_trains_and_measures_one_rank_a_run() -> None:
    runs = jobs(named("lora_search"))
    assert [(run.adapter.name, run.adapter.r) for run in runs] == [("lora", r) for r in (1, 2, 4, 8, 16, 32, 64)]
    assert all(run.evaluate.submodels == [run.adapter.r] for run in runs)


def test_the_search_stands_beside_dylora_and_the_cuts_of_one_lora() -> None:
    runs = jobs(named("dylora_vs_lora_search"))
    assert [(run.adapter.name, run.adapter.r, len(run.evaluate.cuts)) for run in runs] == [
        *(("dylora", 8, 0), ("dylora_late", 8, 0), ("lora", 8, 3)),
        *(("lora", r, 0) for r in (1, 2, 4)),
    ]
    assert runs[0].evaluate.submodels == "all" and runs[3].evaluate.submodels == [1]


@pytest.mark.slow
def test_ablations_cross_what_they_compare() -> None:
    assert {(run.sampler.name, run.adapter.update.value) for run in jobs(named("rank_distribution"))} == {
        (sampler, update) for sampler in ("uniform", "geometric") for update in ("full", "frozen_grad")
    }
    assert [run.sampler.name for run in jobs(named("summed_loss"))] == ["uniform", "all"]
    assert len({run.task.name for run in jobs(named("glue"))}) == 8


@pytest.mark.slow
def test_a_sweep_runs_and_takes_overrides(command_line: Callable[..., Answer], tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "data")
    settings = ["model=tiny_bert", "task=classification", f"task.data_dir={data}", "train.max_steps=2"]
    runs = ["adapter.r=1,3", "train.learning_rate=1e-3,2e-3", "seed=5", f"runs_dir={tmp_path / 'runs'}"]
    done = command_line("-m", "+sweeps=lora_search", *settings, *runs)
    assert done.rc == 0, done.err
    found = load_runs(tmp_path / "runs")
    assert found["run_id"].nunique() == 4 and set(found["rank"]) == {1, 3} and set(found["seed"]) == {5}
