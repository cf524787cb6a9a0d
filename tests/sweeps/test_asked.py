"""Every job that a multirun asks for is done, or refused before the first starts, however the multirun is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, needs

Call = Callable[..., Answer]


@pytest.fixture
def tiny(tiny: list[str]) -> list[str]:
    """The smallest run, of one step, scored at one rank."""
    return [*(word for word in tiny if "max_steps" not in word), "train.max_steps=1", "evaluate.submodels=[1]"]


def configs(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text())["config"] for file in runs.glob("*/record.json")]


def mine(place: Path, **files: str) -> list[str]:
    """Experiment files of one's own in a folder, and the flag that names it."""
    (place / "mine" / "experiment").mkdir(parents=True)
    for name, text in files.items():
        (place / "mine" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return ["--config-dir", str(place / "mine")]


def test_two_sweep_files_bring_all_their_jobs_and_share_what_both_ask_for(
    call_main: Call, tiny: list[str], tmp_path: Path
) -> None:
    words = ["+sweeps=summed_loss,rank_distribution", "adapter.update=full", "seed=0"]
    answer = call_main("-m", *tiny, *words)
    assert answer.rc == 0 and answer.out.splitlines()[-1] == "3 done", answer.err
    found = configs(tmp_path / "runs")
    assert sorted(config["sampler"]["name"] for config in found) == ["all", "geometric", "uniform"]
    assert {config["log"]["group"] for config in found} == {"summed_loss+rank_distribution"}


def test_lists_of_experiment_files_that_jobs_choose_between_are_run(
    call_main: Call, tiny: list[str], tmp_path: Path
) -> None:
    files = {"a": "hydra: {sweeper: {params: {seed: '1,2'}}}", "b": "seed: 3"}
    answer = call_main("-m", *tiny, "+experiment=a,b", *mine(tmp_path, **files))
    assert answer.rc == 0, answer.err
    assert sorted(config["seed"] for config in configs(tmp_path / "runs")) == [1, 2, 3]


def test_a_wrong_job_of_a_file_that_jobs_choose_between_starts_none(
    call_main: Call, tiny: list[str], tmp_path: Path
) -> None:
    files = {"a": "seed: 3", "b": "hydra: {sweeper: {params: {adapter.r: '2,0'}}}"}
    answer = call_main("-m", *(w for w in tiny if w[:9] != "adapter.r"), "+experiment=a,b", *mine(tmp_path, **files))
    assert answer.rc == 2 and "adapter.r=0" in answer.err and "job 3 of 3" in answer.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster.own_process=false,true"], ["cluster.own_process=True", "one launcher", "job 2 of 2"]),
        (["cluster.minutes=60,120"], ["cluster.minutes=60", "one launcher"]),
        (["runs_dir=a,b"], ["runs_dir=a", "one folder", "job 1 of 2"]),
        (["runs_dir=runs-${seed}", "seed=0,1"], ["runs_dir=runs-1", "job 2 of 2"]),
        (["log=none,wandb"], ["log.name cannot change a result", "the same run as job 1", "job 2 of 2"]),
        (["train.log_steps=1,2", "fresh=false,true"], ["train.log_steps", "the same run as job 1"]),
        (["log.group=a,b"], ["log.group", "the same run as job 1"]),
        (["hydra.job.chdir=true", "seed=0,1"], ["hydra.job.chdir", "leave it out"]),
    ],
    ids=lambda value: value[0].split("=")[0],
)
def test_jobs_that_would_be_lost_or_done_elsewhere_are_refused_before_the_first(
    call_main: Call,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0].startswith("runs_dir"):
        tiny = [word for word in tiny if not word.startswith("runs_dir")]
    answer = call_main("-m", *tiny, *words)
    assert answer.rc == 2 and len(answer.said) == 1 and "nothing was started" in answer.err
    for text in said:
        assert text in answer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_slurm_beside_another_cluster_is_refused(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    needs("slurm")
    answer = call_main("-m", *tiny, "cluster=local,slurm")
    assert answer.rc == 2 and "cluster=slurm" in answer.err and "job 2 of 2" in answer.err
    assert not (tmp_path / "runs").exists()


def test_experiment_files_that_set_another_cluster_are_refused(
    call_main: Call, tiny: list[str], tmp_path: Path
) -> None:
    files = {"a": "seed: 1", "b": "cluster: {minutes: 60}"}
    words = mine(tmp_path, **files)
    answer = call_main("-m", *tiny, "+experiment=a,b", *words)
    assert answer.rc == 2 and "cluster.minutes=60" in answer.err and "job 2 of 2" in answer.err
    assert not (tmp_path / "runs").exists()
    assert call_main("-m", *tiny, "+experiment=b", *words).rc == 0  # the call's own then


@pytest.mark.parametrize("way", [["hydra.mode=MULTIRUN"], ["--multirun"], ["--multi"], ["+experiment=many"]], ids=str)
def test_whatever_way_a_multirun_is_asked_for_all_its_jobs_are_checked_first(
    call_main: Call, tiny: list[str], tmp_path: Path, way: list[str]
) -> None:
    folder = mine(tmp_path, many="hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,-1'}}}")
    seeds = [] if "experiment" in way[0] else ["seed=0,-1"]
    answer = call_main(*way, *folder, *tiny, *seeds)
    assert answer.rc == 2 and "seed=-1" in answer.err and "job 2 of 2" in answer.err
    assert not (tmp_path / "runs").exists()
    answer = call_main(*way, *folder, *tiny, "seed=0")
    assert answer.rc == 0 and answer.out.splitlines()[-1] == "1 done"
    assert configs(tmp_path / "runs")[0]["log"]["group"].startswith("sweep-")


@pytest.mark.parametrize("words", [["--run", "-m"], ["-m", "--info"], ["--resolve"], ["-m", "--frob"]], ids=str)
def test_flags_that_do_not_go_together_are_refused(call_main: Call, tiny: list[str], words: list[str]) -> None:
    answer = call_main(*tiny, *words)
    assert answer.rc == 2 and len(answer.said) == 1 and answer.err.startswith("rankbench: ") and words[-1] in answer.err


def test_flags_stand_wherever_people_put_them(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    folder = mine(tmp_path, a="seed: 3")
    answer = call_main(*tiny[:3], "-m", *tiny[3:], *folder, "+experiment=a")
    assert answer.rc == 0 and answer.out.splitlines()[-1] == "1 done", answer.err


def test_a_place_that_cannot_be_written_is_refused(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tiny = [word for word in tiny if not word.startswith("runs_dir")]
    answer = call_main("-m", *tiny, f"runs_dir={tmp_path / 'file' / 'runs'}", "seed=0,1")
    assert answer.rc == 2 and "choose another runs_dir" in answer.err
