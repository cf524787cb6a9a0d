"""Sweeps end with every run accounted for: refused before they start, each on its own, shared, asked again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import CONF, LAUNCHERS, Answer, compose, compose_run, needs, sample
from hydra.types import RunMode

from rankbench.records import lock
from rankbench.runs import own_process
from rankbench.system import gpus

Call = Callable[..., Answer]
CLUSTERS = sorted(file.stem for file in (CONF / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_where_a_run_is_done_does_not_name_it(cluster: str, tiny: list[str]) -> None:
    needs(cluster)
    run = compose_run(*tiny, f"cluster={cluster}", "cluster.minutes=7", "cluster.partition=gpu")
    assert run.cluster.name == cluster and run.run_id == compose_run(*tiny).run_id


@pytest.mark.parametrize("cluster", LAUNCHERS)
def test_a_cluster_without_its_launcher_is_refused_with_the_package(cluster: str, tmp_path: Path) -> None:
    code = "import sys; sys.modules['hydra_plugins'] = None\nfrom rankbench.__main__ import main\nmain()"
    words = [sys.executable, "-c", code, "-m", f"cluster={cluster}", "seed=0,1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert f"pip install 'rankbench[{cluster}]'" in done.stderr


def test_slurm_is_asked_for_what_the_cluster_says() -> None:
    needs("slurm")
    text = (CONF / "cluster" / "slurm.yaml").read_text()
    for key in vars(compose_run("model=tiny_bert").cluster):
        assert f"${{cluster.{key}}}" in text or key in ("name", "own_process")
    assert compose("cluster=slurm").cluster.requeues > 0


def test_a_cluster_without_m_is_refused(call_main: Call, tiny: list[str]) -> None:
    needs("slurm")
    answer = call_main(*tiny, "cluster=slurm")
    assert answer.rc == 2 and "rankbench -m " in answer.err


@pytest.mark.parametrize("setting", ["cluster.at_once=0", "cluster.minutes=0", "cluster.requeues=-1", "cluster.gpus=x"])
def test_a_wrong_setting_of_a_cluster_is_refused(call_main: Call, tiny: list[str], setting: str) -> None:
    answer = call_main("-m", *tiny, setting)
    assert answer.rc == 2 and setting in answer.err


# Checked in full before the first job


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["adapter.r=1,2,0"], ["adapter.r=0", "a rank is at least 1", "job 5 of 6", "seed=0"]),
        (["adapter=lora,dylra"], ["adapter=dylra", "did you mean dylora?", "job 3 of 4"]),
        (["train.precision=fp32,fp8"], ["train.precision", "fp8", "job 3 of 4"]),
        (["task.data_dir=nowhere"], ["task.data_dir=nowhere does not exist", "job 1 of 2"]),
    ],
    ids=["check", "choice", "type", "place"],
)
def test_one_wrong_job_and_none_is_started(
    call_main: Call, tiny: list[str], tmp_path: Path, wrong: list[str], said: list[str]
) -> None:
    tiny = [word for word in tiny if word.split("=")[0] not in {word.split("=")[0] for word in wrong}]
    answer = call_main("-m", *tiny, *wrong, "seed=0,1")
    assert answer.rc == 2 and len(answer.said) == 1 and "nothing was started" in answer.err
    for words in said:
        assert words in answer.err
    assert not list((tmp_path / "runs").glob("[!.]*"))


# The table at the end


@pytest.mark.parametrize("cluster", sample(["local", "local_parallel"], "local"))
def test_every_run_of_a_sweep_is_in_the_table_with_its_reason(
    call_main: Call, tiny: list[str], tmp_path: Path, cluster: str
) -> None:
    needs(cluster)
    wide = ["adapter.r=2,33,34", "train.learning_rate=1e-3,1e30", "train.max_steps=2", f"cluster={cluster}"]
    answer = call_main("-m", *tiny, *wide)
    assert answer.rc == 1
    table = answer.out[answer.out.index("done  ") :].splitlines()
    assert table[-1] == "1 done, 4 refused, 1 failed" and max(map(len, table)) <= 80
    assert sum("the loss is nan at step 2" in line for line in table) == 1
    for rank in (33, 34):
        assert sum(f"adapter.r={rank} is above the width 32" in line for line in table) == 2
    assert "5 of 6 runs are not done" in answer.said[-1]
    assert call_main("status", str(tmp_path / "runs")).out.splitlines() == table
    again = call_main("-m", *tiny, "adapter.r=2", "train.learning_rate=1e-3", "train.max_steps=2", f"cluster={cluster}")
    assert again.rc == 0 and again.out.splitlines()[-1] == "1 done"


def test_failed_runs_are_tried_again_and_done_ones_are_not(
    call_main: Call, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankbench.runs import work

    asked = ["-m", *tiny, "seed=0,1,2", "train.max_steps=1", "evaluate.submodels=[1]"]
    carry_out, tried = work.carry_out, []

    def breaks(run, *rest):
        tried.append(run.seed)
        if run.seed == 1 and len(tried) < 4:
            raise ValueError("boom\nand more")
        return carry_out(run, *rest)

    monkeypatch.setattr(work, "carry_out", breaks)
    first = call_main(*asked)
    assert first.rc == 1 and "boom" in first.out and "and more" not in first.out and tried == [0, 1, 2]
    assert call_main(*asked).rc == 0 and tried == [0, 1, 2, 1]
    commands = [json.loads(f.read_text())["environment"]["command"] for f in (tmp_path / "runs").glob("*/record.json")]
    assert sorted(command.split("seed=")[1][0] for command in commands) == ["0", "1", "2"]  # each its own


def test_a_run_that_two_jobs_ask_for_is_done_once(call_main: Call, tiny: list[str]) -> None:
    answer = call_main("-m", *tiny, "train.max_steps=1", "seed=0,0")
    assert answer.rc == 0 and answer.out.count("record: ") == 1 and answer.out.splitlines()[-1] == "1 done"
    assert "record: " not in call_main("-m", *tiny, "train.max_steps=1").out
    assert "record: " in call_main("-m", *tiny, "train.max_steps=1", "fresh=true").out


@pytest.mark.slow
def test_a_cluster_of_ones_own_lies_in_a_folder_of_ones_own(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "cluster" / "ours.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\ndefaults: [local]\ncluster: {name: ours, own_process: true}\n")
    words = ["train.max_steps=1", "cluster=ours", "--config-dir", str(tmp_path / "mine")]
    answer = call_main("-m", *tiny, *words)
    assert answer.rc == 0 and answer.out.splitlines()[-1] == "1 done" and ": started" in answer.err


# Shared runs


@pytest.mark.slow
def test_a_run_that_another_sweep_holds_is_waited_for(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    run = compose_run(*tiny, "seed=1", "train.max_steps=1")
    run.folder.mkdir(parents=True)
    held, over = threading.Event(), threading.Event()

    def another() -> None:
        with lock.held(run.folder):
            held.set()
            over.wait(20)

    thread = threading.Thread(target=another)
    thread.start()
    held.wait()
    threading.Timer(6, over.set).start()
    began = time.monotonic()
    answer = call_main("-m", *tiny, "train.max_steps=1", "seed=0,1,2")
    thread.join()
    assert answer.rc == 0 and "waiting for 1 runs that another sweep is doing" in answer.err
    assert time.monotonic() - began > 4 and answer.out.splitlines()[-1] == "3 done"  # it died, so this one did it


@pytest.mark.slow
def test_two_sweeps_at_once_do_each_run_once(tiny: list[str], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rankbench", "-m", *tiny, "train.max_steps=1", "seed=0,1,2,3"]
    sweeps = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [sweep.communicate(timeout=300) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], said
    assert all(out.splitlines()[-1] == "4 done" for out, _ in said)
    logs = [log.read_text() for log in (tmp_path / "runs").glob("*/run.log")]
    assert len(logs) == 4 and all(log.count("measure 4 sub-models") == 1 for log in logs)


# A process for each run


@pytest.mark.slow
def test_a_run_apart_equals_one_in_this_process(make_run, tmp_path: Path) -> None:
    from rankbench.runs.life import execute

    one, other = make_run(), make_run(f"runs_dir={tmp_path / 'apart'}")
    assert own_process.execute(other, ["seed=0"])["submodels"][0]["metrics"] == execute(one)["submodels"][0]["metrics"]
    assert (one.folder / "metrics.csv").read_text() == (other.folder / "metrics.csv").read_text()
    assert json.loads((other.folder / "record.json").read_text())["environment"]["command"].endswith("rankbench seed=0")


def test_a_killed_process_is_one_failure_of_a_sweep(tiny: list[str], tmp_path: Path) -> None:
    needs("local_parallel")
    words = ["-m", *tiny, "train.checkpoint_steps=5", "seed=0,1", "train.max_steps=1500", "cluster=local_parallel"]
    victim = compose_run(*tiny, "seed=0", "train.max_steps=1500")
    sweep = subprocess.Popen([sys.executable, "-m", "rankbench", *words], stdout=subprocess.PIPE, text=True)
    while not list(victim.folder.glob("checkpoints/step-*")):
        time.sleep(0.02)
    owner = lock.holder(victim.folder)
    assert owner is not None and owner.pid != sweep.pid
    os.kill(owner.pid, signal.SIGKILL)
    out, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 1 and "1 done, 1 stopped" in out and "killed by SIGKILL" in out
    again = subprocess.run([sys.executable, "-m", "rankbench", *words], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "resumed at step" in (victim.folder / "run.log").read_text()


@pytest.mark.parametrize(("visible", "names"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-ab/c", ["GPU-ab/c"])])
def test_each_job_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, names: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    assert gpus.cards() == names and (not names or gpus.at_once() == len(names))
    with gpus.card() as first:
        assert first == (names[0] if names else None)
        if len(names) > 1:
            with gpus.card() as second:
                assert second == names[1]
    with gpus.card() as free:
        assert free == first


@pytest.mark.parametrize(
    ("optimizer", "cards", "mode", "apart"),
    [
        ("paged_adamw", ["0"], RunMode.MULTIRUN, True),
        ("paged_adamw", [], RunMode.MULTIRUN, False),
        ("paged_adamw", ["0"], RunMode.RUN, False),
        ("adamw", ["0"], RunMode.MULTIRUN, False),
    ],
)
def test_a_sweeps_run_that_would_keep_a_cards_pages_has_a_process_of_its_own(
    optimizer: str, cards: list[str], mode: RunMode, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankbench.system.gpus.cards", lambda: cards)
    monkeypatch.setattr(own_process.HydraConfig, "get", lambda: SimpleNamespace(mode=mode))
    assert own_process.wanted(compose_run("model=tiny_bert", f"train.optimizer={optimizer}")) is apart
