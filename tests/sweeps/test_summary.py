"""A sweep in Weights & Biases: one group, runs that go on as themselves, one table, and one command to send it all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, needs, sample
from test_tracking import Recorder
from wandb_service import Kept, Service, service

from rankbench.runs import tracking
from rankbench.sweeps import jobs, summary

wandb = pytest.importorskip("wandb")

Call = Callable[..., Answer]
SHORT = ["train.max_steps=2", "train.log_steps=1", "evaluate.submodels=[1,4]", "log=wandb"]


@pytest.fixture
def server() -> Iterator[Service]:
    with service() as running:
        yield running


def sync(command: str, server: Service, cwd: Path) -> str:
    """What a person does with the command that a sweep ends with."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | server.env | {"PATH": here}
    done = subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


def told(answer: Answer) -> str:
    """The command that a sweep says at its end."""
    return answer.err.split("wait to be sent:\n")[1].split("\nrankbench: ")[0].strip()


def rows_of(place: Path, kept: Kept) -> list[dict[str, Any]]:
    """The summary's table as its files under `place` have it."""
    (file,) = place.rglob(Path(kept.summary["runs"]["path"]).name)
    table = json.loads(file.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


# One group, one table, one command


@pytest.mark.parametrize("where", ["cluster=local", "cluster=local_parallel"])
@pytest.mark.slow
def test_a_sweep_without_a_network_is_sent_by_the_command_that_it_says(
    command_line: Call, tiny: list[str], server: Service, tmp_path: Path, where: str
) -> None:
    needs(where.removeprefix("cluster="))
    wide = ["adapter=lora,dylora", "adapter.r=4,33", "seed=5"]  # 33 is above the model's width
    answer = command_line("-m", *tiny, *SHORT, *wide, where)
    assert answer.rc == 1 and answer.out.splitlines()[-1] == "2 done, 2 refused"
    said = told(answer)
    assert "3 offline runs" in answer.err and "wandb sync" in said
    sync(said, server, tmp_path)
    groups = {kept.group for kept in server.runs.values()}
    assert len(server.runs) == 3 and len(groups) == 1 and groups != {None}
    trained = {name: kept for name, kept in server.runs.items() if kept.job_type != "summary"}
    assert set(trained) == {file.parent.name for file in (tmp_path / "runs").glob("*/record.json")}
    assert all(kept.steps == [1, 2] and kept.exits == [0] for kept in trained.values())
    (summary,) = (kept for kept in server.runs.values() if kept.job_type == "summary")
    rows = rows_of(tmp_path / "runs" / ".multirun", summary)
    assert summary.summary["done"] == 2 and summary.summary["refused"] == 2
    assert len(rows) == 2 + 2 * 2 and "seed" not in rows[0]
    done = [row for row in rows if row["status"] == "done"]
    assert [(r["adapter"], r["method"], r["rank"], r["metric"]) for r in done if r["adapter"] == "dylora"] == [
        ("dylora", "dylora", 1, "accuracy"),
        ("dylora", "dylora", 4, "accuracy"),
    ]
    record = json.loads((tmp_path / "runs" / done[0]["run_id"] / "record.json").read_text())
    first = record["submodels"][0]
    assert (done[0]["value"], done[0]["n"]) == (first["metrics"]["accuracy"], first["n"])
    assert done[0]["parameters"] == first["parameters"]["trainable"]
    refused = [row for row in rows if row["status"] == "refused"]
    assert all(row["adapter.r"] == "33" and row["metric"] is None and "width 32" in row["reason"] for row in refused)
    assert "Skipped 3 synced run(s)" in sync(said, server, tmp_path)


@pytest.mark.slow
def test_a_repeated_sweep_goes_on_with_its_summary_and_names_only_what_is_not_sent(
    command_line: Call, tiny: list[str], server: Service, tmp_path: Path
) -> None:
    asked = ["-m", *tiny, *SHORT, "seed=0,1", "cluster.own_process=true"]
    sync(told(command_line(*asked)), server, tmp_path)
    again = command_line(*asked)
    assert told(again).split()[-1] == f"{tmp_path}/runs/.multirun/wandb/offline-run-*" and "runs/*" not in told(again)
    sync(told(again), server, tmp_path)
    assert len(server.runs) == 3 and len({kept.group for kept in server.runs.values()}) == 1
    (summary,) = (kept for kept in server.runs.values() if kept.job_type == "summary")
    assert len(summary.history) == 2 and summary.summary["done"] == 2


def test_the_place_of_a_sweep_does_not_name_its_group() -> None:
    asked = ["-m", "task=sst2", "seed=0,1"]
    elsewhere = [*asked, "cluster=slurm", "cluster.partition=gpu", "hydra.launcher.qos=long"]
    assert jobs.group(asked) == jobs.group(elsewhere) != jobs.group(["-m", "task=sst2", "seed=0,2"])


def test_a_hundred_runs_are_one_line_of_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = [Path("runs") / f"run-{number}" for number in range(100)]
    for place in [*places, Path("runs/.multirun"), Path("my runs/a")]:
        (place / "wandb" / "offline-run-2-x").mkdir(parents=True)
    (places[0] / "wandb" / "offline-run-2-x" / "run-x.wandb.synced").touch()
    found = [folder for place in places for folder in tracking.unsent(place)]
    assert len(found) == 99
    with_summary = [*found, *tracking.unsent(Path("runs/.multirun"))]
    line = "wandb sync runs/*/wandb/offline-run-* runs/.multirun/wandb/offline-run-*"
    assert summary.sync_command(with_summary) == line and len(line) <= 80
    asked = summary.sync_command([*with_summary, *tracking.unsent(Path("my runs/a"))])
    assert max(map(len, asked.splitlines())) <= 80 and len(asked.splitlines()) == 4
    shown = subprocess.run(["bash", "-c", asked.replace("wandb sync", "ls -d")], capture_output=True, text=True)
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) == 102  # what was sent too: wandb sync knows


# Restarts


def kill_after(step: int, words: list[str], env: dict[str, str], runs: Path) -> None:
    """Start a run and kill it when it has told W&B of `step`."""
    with subprocess.Popen([sys.executable, "-m", "rankbench", *words], env=os.environ | env) as process:
        end = time.monotonic() + 120
        while not any(tracking._noted(folder) >= step for run in runs.glob("*") for folder in tracking._folders(run)):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
@pytest.mark.slow
def test_a_killed_run_goes_on_as_itself_and_logs_no_step_twice(
    command_line: Call, tiny: list[str], server: Service, tmp_path: Path, online: bool
) -> None:
    words = [*tiny, *SHORT, "train.max_steps=300", "train.checkpoint_steps=50"]
    env = server.env if online else {}
    kill_after(120, words, env, tmp_path / "runs")
    assert command_line(*words, env=env).rc == 0
    (folder,) = (tmp_path / "runs").glob("classification-*")
    assert "resumed at step 1" in (folder / "run.log").read_text()
    if not online:
        assert len(tracking.unsent(folder)) == 1
        sync(f"wandb sync {folder}/wandb/offline-run-*", server, tmp_path)
        assert tracking.unsent(folder) == []
    (kept,) = server.runs.values()
    if online:  # what the client had not sent when it was killed stays in its file
        assert kept.steps == sorted(set(kept.steps)) and kept.steps[-1] == 300
    else:
        assert kept.steps == list(range(1, 301))
    numbers = [line["_step"] for _, line in sorted(kept.history.items())]
    assert numbers == sorted(set(numbers))
    assert kept.summary["status"] == "done" and kept.exits[-1] == 0


@pytest.mark.slow
def test_what_was_sent_before_a_restart_is_not_said_again(
    make_run: Callable[..., Any], server: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankbench.runs.life import execute
    from rankbench.training import loop

    run = make_run(*SHORT, "log.mode=offline", "train.max_steps=6", "train.checkpoint_steps=2")
    show, shown = loop.Progress.show, []

    def dies(self: Any, step: int, *rest: Any) -> None:
        shown.append(step)
        if shown == [1, 2, 3]:
            raise KeyboardInterrupt
        show(self, step, *rest)

    monkeypatch.setattr(loop.Progress, "show", dies)
    with pytest.raises(KeyboardInterrupt):
        execute(run)
    wandb.teardown()
    command = summary.sync_command(tracking.unsent(run.folder))
    sync(command, server, tmp_path)
    assert execute(run)["status"] == "done" and shown == [1, 2, 3, 3, 4, 5, 6]
    wandb.teardown()
    sync(command, server, tmp_path)
    (kept,) = server.runs.values()
    assert kept.steps == [1, 2, 3, 4, 5, 6] and kept.summary["status"] == "done"


def test_a_fresh_run_begins_its_wandb_run_anew(
    call_main: Call, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record(monkeypatch)
    words = [*tiny, *SHORT, "log.mode=offline"]
    for again in ([], ["fresh=true"]):
        assert call_main(*words, *again).rc == 0 and recorder.settings["resume"] is None
    assert [v["train/step"] for v in recorder.logged if "train/step" in v] == [1, 2, 1, 2]


# Faults


def record(monkeypatch: pytest.MonkeyPatch, **faults: str) -> Recorder:
    recorder = Recorder(**faults)
    monkeypatch.setattr(wandb, "init", recorder.init)
    monkeypatch.setattr(wandb, "finish", recorder.finish)
    return recorder


@pytest.mark.parametrize("place", sample(["init", "log", "finish"], "log"))
def test_a_broken_service_costs_no_sweep(
    call_main: Call, tiny: list[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    recorder = record(monkeypatch, raises=place)
    answer = call_main("-m", *tiny, *SHORT, "log.mode=offline", "seed=0,1")
    assert answer.rc == 0 and answer.out.splitlines()[-1] == "2 done"
    said = [line for line in answer.err.splitlines() if f"no service at {place}" in line]
    assert len(said) == 3 and "the sweep's summary is not there" in said[-1]
    assert "Traceback" not in answer.err and (recorder.exits == []) == (place == "init")


def test_a_broken_service_does_not_hide_how_a_sweep_failed(
    call_main: Call, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(monkeypatch, raises="log")
    answer = call_main("-m", *tiny, *SHORT, "log.mode=offline", "train.learning_rate=1e-3,1e30")
    assert answer.rc == 1 and "1 of 2 runs are not done" in answer.err


def test_a_record_that_cannot_be_read_costs_the_summary_alone(
    call_main: Call, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["-m", *tiny, *SHORT, "log.mode=offline", "seed=0,1"]
    record(monkeypatch)
    assert call_main(*asked).rc == 0
    file = next((tmp_path / "runs").glob("*/record.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99}, indent=1))
    answer = call_main(*asked)
    assert answer.rc == 0 and "newer rankbench" in answer.err and "the sweep's summary is not there" in answer.err


@pytest.mark.slow
def test_a_network_that_dies_in_the_middle_costs_neither_the_run_nor_its_end(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from rankbench.runs.life import execute
    from rankbench.scoring import evaluation

    monkeypatch.setattr(tracking, "SECONDS", 5.0)
    measure = evaluation.evaluate
    with service() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)

        def cut_off(*words: Any, **more: Any) -> Any:
            server.shutdown()
            server.server_close()
            return measure(*words, **more)

        monkeypatch.setattr(evaluation, "evaluate", cut_off)
        began = time.monotonic()
        assert execute(make_run(*SHORT))["status"] == "done"
    assert time.monotonic() - began < 60 and "W&B: " in capfd.readouterr().err
    wandb.teardown()


def test_without_wandb_nothing_is_said_of_it(call_main: Call, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(monkeypatch, raises="init")
    answer = call_main("-m", *tiny, "train.max_steps=1", "seed=0,1")
    assert answer.rc == 0 and recorder.settings == {} and "W&B" not in answer.err
