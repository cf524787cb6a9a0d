"""A signal ends a run with a checkpoint at the next step, and the same command ends as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, sample
from test_resume_exact import outcome, settings, start
from tiny import a_run

from rankbench import methods
from rankbench.errors import RequestError, RunFailed
from rankbench.forecast import rehearsal, step_memory
from rankbench.records import lock
from rankbench.records import record as records
from rankbench.runs import life as runs
from rankbench.runs import work
from rankbench.system import slurm, stopping
from rankbench.tasks import data
from rankbench.training import loop


def strikes(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int, number: int) -> None:
    """Send this process a signal at the n-th call of a function."""
    original, calls = getattr(owner, name), 0

    def struck(*words: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return original(*words, **more)

    monkeypatch.setattr(owner, name, struck)


KEPT = ("SIGTERM at 1", "SIGINT at 5", "SIGUSR2 at 12")


@pytest.mark.parametrize(
    "case", sample([f"{s.name} at {step}" for s in stopping.SIGNALS for step in (1, 5, 12)], *KEPT)
)
def test_a_signal_in_training_is_obeyed_after_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    number, step = signal.Signals[case.split()[0]], int(case.split()[-1])
    before = signal.getsignal(number)
    run, whole = (a_run(*settings(tmp_path), f"runs_dir={tmp_path / name}") for name in ("runs", "whole"))
    with monkeypatch.context() as patch:
        strikes(patch, loop, "draw", step, number)
        stops, said = stopping.Stopped, f"stopped by {number.name}; the same command goes on"
        stops, said = (KeyboardInterrupt, "") if number == signal.SIGINT else (stops, said)
        with pytest.raises(stops, match=said):
            runs.execute(run)
    assert (run.folder / "checkpoints" / f"step-{step:08d}").is_dir()
    assert not (run.folder / "record.json").exists() and signal.getsignal(number) is before
    runs.execute(run)
    runs.execute(whole)
    assert outcome(run.folder) == outcome(whole.folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_after_a_failure_leaves_it_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Slurm sends one to the processes of a run that has lost another: the job is not to be queued again for it."""
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    monkeypatch.setattr(work, "carry_out", lambda *words: 1 / 0)
    strikes(monkeypatch, runs, "write_atomic", 2, number)  # the second is of the record
    with stopping.obeyed(), pytest.raises(RunFailed, match="division by zero"):
        runs.execute(run)
    assert records.read(run.folder)["status"] == "failed"
    with pytest.raises(stopping.Stopped), stopping.obeyed():  # the next run of a sweep is stopped as ever
        os.kill(os.getpid(), number)


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    with monkeypatch.context() as patch:
        strikes(patch, loop, "draw", 2, signal.SIGINT)
        strikes(patch, loop, "collate", 2, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            runs.execute(run)
    assert not (run.folder / "checkpoints" / "step-00000002").exists()


@pytest.mark.parametrize(
    ("job", "again"),
    [
        ({"SLURM_JOB_ID": "7"}, {"SLURM_RESTART_COUNT": "1"}),
        ({"TORCHELASTIC_RUN_ID": "none"}, {"TORCHELASTIC_RESTART_COUNT": "1"}),
    ],
)
def test_a_job_that_is_started_anew_begins_anew_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, str], again: dict[str, str]
) -> None:
    """fresh=true under a requeue: the first start empties the folder of an earlier run, the next goes on."""
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}", "fresh=true")
    run.folder.mkdir(parents=True)
    (run.folder / "of-an-earlier-run").write_text("")
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch, pytest.raises(stopping.Stopped):
        strikes(patch, loop, "draw", 3, signal.SIGTERM)
        runs.execute(run)
    assert not (run.folder / "of-an-earlier-run").exists() and list(run.folder.glob("checkpoints/step-*"))
    for name, value in again.items():
        monkeypatch.setenv(name, value)
    runs.execute(run)
    assert "resumed at step 3" in (run.folder / "run.log").read_text()
    assert runs.execute(run)["status"] == "done" and (run.folder / "run.log").read_text().count("run ") < 9
    monkeypatch.setenv(next(iter(job)), "another")
    (run.folder / "of-an-earlier-run").write_text("")
    runs.execute(run)
    assert not (run.folder / "of-an-earlier-run").exists()


@pytest.mark.parametrize("moment", [(runs, "environment"), (work, "replace_folder"), (runs, "_finish")])
def test_a_signal_outside_of_the_training_is_obeyed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: tuple[object, str]
) -> None:
    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    with monkeypatch.context() as patch:
        strikes(patch, *moment, 1, signal.SIGTERM)
        with pytest.raises(stopping.Stopped):
            runs.execute(run)
    assert runs.execute(run)["status"] == "done"


def lost_in_a_callback(number: int) -> None:
    """What the signal raises lands in a weak reference's callback, where Python drops it."""
    thing = type("Thing", (), {})()
    kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
    del thing
    assert kept() is None


def made_another_error(number: int) -> None:
    """What the signal raises is caught by a library, whose state it has broken."""
    try:
        os.kill(os.getpid(), number)
        signal.getsignal(number)
    except BaseException:
        raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'") from None


def wrongly_refused(number: int) -> None:
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), number)
        signal.getsignal(number)
    raise RequestError("the file cannot be read")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lost", [lost_in_a_callback, made_another_error, wrongly_refused])
@pytest.mark.parametrize(
    "moment",
    sample(["environment", "load", "carry_out", "attach", "replace_folder", "_finish"], "environment", "attach"),
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_lost_or_made_an_error_still_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: Callable[[int], None], moment: str, number: int
) -> None:
    owner: object = {"environment": runs, "_finish": runs, "load": data, "attach": methods}.get(moment, work)
    original = getattr(owner, moment)

    def struck(*words: object, **more: object) -> object:
        lost(number)
        return original(*words, **more)

    run = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, struck)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else stopping.Stopped):
            runs.execute(run)
    assert (records.read(run.folder) or {"status": "none"})["status"] in ("none", "done")
    assert runs.execute(run)["status"] == "done"


def test_a_signal_in_torchs_own_callbacks_waits_for_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ended = a_run(*settings(tmp_path), f"runs_dir={tmp_path / 'runs'}", "task.max_length=17"), []
    forecast = step_memory.forecast
    with monkeypatch.context() as patch, pytest.raises(stopping.Stopped):
        patch.setattr(step_memory, "forecast", lambda run: (forecast(run), ended.append(run))[0])
        strikes(patch, rehearsal, "saved", 1, signal.SIGTERM)
        runs.execute(run)
    assert ended == [run] and not (run.folder / "checkpoints").exists()


def test_a_sweep_whose_run_lost_a_signal_starts_no_other(
    tmp_path: Path, tiny: list[str], call_main: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = work.replace_folder

    def struck(*words: Any) -> None:
        lost_in_a_callback(signal.SIGTERM)
        original(*words)

    with monkeypatch.context() as patch:
        patch.setattr(work, "replace_folder", struck)
        answer = call_main("-m", *tiny, "seed=0,1")
    assert answer.rc == 128 + signal.SIGTERM and "stopped by SIGTERM" in answer.err
    assert len(list((tmp_path / "runs").glob("class*"))) == 1


@pytest.mark.slow
def test_a_terminated_process_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = [*settings(tmp_path), "train.max_steps=2000", f"runs_dir={tmp_path / 'runs'}"]
    run = a_run(*arguments)
    process = start(arguments)
    while not list((run.folder / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1].startswith("rankbench: stopped by SIGTERM; the same command goes on")


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_in_its_own_process_keeps_a_checkpoint_too(tmp_path: Path, number: int, sweep: list[str]) -> None:
    arguments = [*settings(tmp_path), "train.max_steps=20000", "train.checkpoint_steps=20000"]
    arguments += [f"runs_dir={tmp_path / 'runs'}"]
    run = a_run(*arguments)
    process = start([*sweep, *arguments, "cluster.own_process=true"])
    log = run.folder / "run.log"
    while not (log.exists() and " step " in log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    owner = lock.holder(run.folder)
    assert owner is not None and owner.pid != process.pid
    process.send_signal(number)  # not to the group: the other process hears of it from this one alone
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert list((run.folder / "checkpoints").glob("step-*"))
    assert lock.holder(run.folder) is None


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Callable[[signal.Signals, str], list[int]]:
    """handed(signal, state): what a launcher that waits for SIGUSR2 gets, in a job that Slurm has in this state."""

    def of(number: signal.Signals, state: str) -> list[int]:
        got: list[int] = []
        monkeypatch.setattr(slurm, "state", lambda job: state)
        before = signal.signal(signal.SIGUSR2, lambda number, frame: got.append(number))
        try:
            stopping.hand_over(stopping.Stopped(number))
        finally:
            signal.signal(signal.SIGUSR2, before)
        return got

    return of


def test_the_launcher_queues_a_job_again_unless_slurm_has_decided(handed) -> None:
    assert handed(signal.SIGUSR2, "RUNNING") == [signal.SIGUSR2]
    assert handed(signal.SIGTERM, "RUNNING") == [signal.SIGUSR2]  # the notice of a preemption
    assert handed(signal.SIGTERM, "COMPLETING") == []  # requeued by Slurm itself, or cancelled
    assert handed(signal.SIGTERM, "CANCELLED") == []


def test_without_a_launcher_nobody_is_signalled() -> None:
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL  # which would end this process
    assert stopping.hand_over(stopping.Stopped(signal.SIGUSR2)) is None


def test_a_stop_is_over_with_its_context() -> None:
    """Who catches it, as a notebook does, may go on to generate or to predict."""
    with pytest.raises(stopping.Stopped), stopping.obeyed():
        os.kill(os.getpid(), signal.SIGTERM)
    assert not stopping.asked()
    stopping.check()
