"""A run's folder has one live owner, whatever died in it before and on which machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rankbench.errors import InUse
from rankbench.records import lock
from rankbench.system import slurm

HOLD = "import sys, time; from pathlib import Path\nfrom rankbench.records import lock\n"
HOLD += "with lock.held(Path(sys.argv[1])):\n"


def hold(folder: Path, then: str) -> subprocess.Popen[str]:
    """A process that holds the folder; returns once it does."""
    words = [sys.executable, "-c", f"{HOLD} print('held', flush=True); {then}", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def claim(folder: Path, owner: lock.Owner, silent: float = 0.0) -> None:
    """A lock as another process would have left it, its last sign of life so many seconds ago."""
    place = folder / ".lock-3"
    place.mkdir()
    (place / "owner.json").write_text(json.dumps(asdict(owner)))
    os.utime(place / "owner.json", (time.time() - silent,) * 2)


def elsewhere(**changes: object) -> lock.Owner:
    return replace(lock.myself(), token="t", host="node7", machine="node7 boot ns", **changes)


def test_a_held_folder_is_refused_and_a_released_one_is_not(tmp_path: Path) -> None:
    with lock.held(tmp_path):
        with pytest.raises(InUse, match=f"in use by a live run .pid {os.getpid()} on "), lock.held(tmp_path):
            pass
        assert lock.holder(tmp_path) is not None
    assert lock.holder(tmp_path) is None
    with lock.held(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".lock-2"]


def test_a_killed_owner_on_this_machine_is_dead_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path, "time.sleep(60)")
    with pytest.raises(InUse), lock.held(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    while lock.holder(tmp_path):  # a zombie, before anybody waits for it, counts as dead
        time.sleep(0.01)
    assert process.returncode is None
    with lock.held(tmp_path):
        pass
    process.wait()


def test_a_process_id_used_again_is_not_the_owner(tmp_path: Path) -> None:
    claim(tmp_path, replace(lock.myself(), started=lock.myself().started - 1000))
    assert lock.holder(tmp_path) is None


def test_an_owner_on_another_machine_lives_while_it_gives_signs(tmp_path: Path) -> None:
    claim(tmp_path, elsewhere(), silent=lock.SILENCE / 2)
    with pytest.raises(InUse, match="on node7"), lock.held(tmp_path):
        pass


def test_a_silent_owner_on_another_machine_is_dead(tmp_path: Path) -> None:
    claim(tmp_path, elsewhere(), silent=lock.SILENCE + 5)
    with lock.held(tmp_path):
        assert [p.name for p in tmp_path.glob(".lock-*")] == [".lock-4"]


@pytest.mark.parametrize(("state", "lives"), [("RUNNING", True), ("PENDING", False), ("", False)])
def test_a_silent_owner_lives_as_long_as_slurm_says_that_its_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, lives: bool
) -> None:
    monkeypatch.setattr(slurm, "state", lambda job: state if job == "12_3" else "")
    claim(tmp_path, elsewhere(slurm_job="12_3"), silent=lock.SILENCE + 5)
    assert (lock.holder(tmp_path, ask_slurm=True) is not None) == lives
    assert lock.holder(tmp_path) is None  # who only looks asks nobody


def test_the_earlier_life_of_this_slurm_job_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(tmp_path, elsewhere(slurm_job="12_3", restarts=0))
    for name, value in (("SLURM_ARRAY_JOB_ID", "12"), ("SLURM_ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(name, value)
    assert lock.holder(tmp_path) is not None  # the same life, as another task of the job is
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert lock.holder(tmp_path) is None


def test_signs_of_life_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with lock.held(tmp_path):
        file = tmp_path / ".lock-1" / "owner.json"
        os.utime(file, (1, 1))
        time.sleep(0.5)
        assert time.time() - file.stat().st_mtime < 5


def test_one_that_was_thought_dead_sees_that_its_folder_was_taken(tmp_path: Path) -> None:
    with lock.held(tmp_path) as mine:
        mine.check()
        claim(tmp_path, elsewhere())
        with pytest.raises(InUse, match="taken over by another run"):
            mine.check()


@pytest.mark.full
def test_of_many_that_try_at_once_one_holds(tmp_path: Path) -> None:
    claim(tmp_path, elsewhere(), silent=lock.SILENCE + 5)  # all of them find a dead owner
    words = "import os; fd = os.open(sys.argv[2], os.O_RDONLY); os.read(fd, 1)\ntry:\n"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    trial = HOLD.replace("\nwith", f"\n{words} with", 1) + "  print('held', flush=True); time.sleep(3)\n"
    trial += "except lock.InUse: print('refused')"
    call = [sys.executable, "-c", trial, str(tmp_path), str(gate)]
    racers = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    with open(gate, "w"):  # opens when a first one reads; closing lets all of them go
        time.sleep(2.5)
    said = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
    assert said == ["held"] + ["refused"] * 5


def test_a_lock_of_another_version_is_respected(tmp_path: Path) -> None:
    (tmp_path / ".lock-1").mkdir()
    (tmp_path / ".lock-1" / "owner.json").write_text("{}")
    with pytest.raises(InUse), lock.held(tmp_path):
        pass
