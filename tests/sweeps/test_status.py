"""`rankbench status` says from folders alone how every run stands, in 80 columns and at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import Answer
from test_lock import claim, elsewhere

from rankbench.errors import RequestError
from rankbench.records import lock
from rankbench.sweeps import status


def a_run(place: Path, name: str, **record: str) -> Path:
    """A run's folder, with a record where one is given."""
    folder = place / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    if record:
        (folder / "record.json").write_text(json.dumps({"schema": 1, "config": {"status": "no"}, **record}, indent=1))
    return folder


def at_step(folder: Path, *steps: int, **progress: int | None) -> None:
    for step in steps:
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (folder / "checkpoints" / "progress.json").write_text(json.dumps(progress))


def a_sweep(place: Path, runs: dict[str, list[str]], **more: object) -> None:
    (place / ".multirun").mkdir(parents=True, exist_ok=True)
    (place / ".multirun" / "search-1.json").write_text(json.dumps({"command": "rankbench -m", "runs": runs, **more}))


def found(place: Path) -> dict[str, tuple[str, str]]:
    return {s.run_id: (s.state, s.note) for s in status.standings(place)}


def test_records_say_done_failed_and_oom_with_one_line(tmp_path: Path) -> None:
    a_run(tmp_path, "a", status="done")
    a_run(tmp_path, "b", status="failed", reason="the loss is nan", error="the loss\nis nan")
    a_run(tmp_path, "c", status="oom", error="CUDA out of memory\nTried to allocate")  # of before there were reasons
    assert found(tmp_path) == {
        "a": ("done", ""),
        "b": ("failed", "the loss is nan"),
        "c": ("oom", "CUDA out of memory"),
    }


def test_a_live_run_shows_its_step_and_the_time_left(tmp_path: Path) -> None:
    folder = a_run(tmp_path, "a", status="failed", reason="the first time")
    at_step(folder, 100, step=120, steps=400, seconds_left=3600)
    with lock.held(folder):
        assert found(tmp_path)["a"] == ("running", "step 120/400, 1:00:00 left")
        at_step(folder, step=400, steps=400, seconds_left=0)
        assert found(tmp_path)["a"][1].endswith(", measuring")
    claim(a_run(tmp_path, "b"), elsewhere())
    assert found(tmp_path)["b"] == ("running", "on node7")
    assert found(tmp_path)["a"] == ("failed", "the first time")


def test_a_run_that_nobody_holds_is_stopped_at_its_checkpoint(tmp_path: Path) -> None:
    at_step(a_run(tmp_path, "a"), 100, 120, step=125, steps=400, seconds_left=7)
    a_run(tmp_path, "b")
    claim(a_run(tmp_path, "c"), elsewhere(), silent=1000)
    assert found(tmp_path) == {
        "a": ("stopped", "step 120/400 kept"),
        "b": ("stopped", "before its first checkpoint"),
        "c": ("stopped", "before its first checkpoint"),
    }


def test_a_sweep_knows_what_is_missing_refused_and_queued(tmp_path: Path) -> None:
    a_run(tmp_path, "a", status="done")
    at_step(a_run(tmp_path, "b"), 5, step=5, steps=9, seconds_left=1)
    runs = {name: ["task=sst2", f"seed={i}"] for i, name in enumerate("abcd")}
    a_sweep(tmp_path, runs, refused={"d": "adapter.r=33 is too wide"})
    assert {s.run_id: (s.state, s.asked) for s in status.standings(tmp_path)} == {
        "a": ("done", "seed=0"),
        "b": ("stopped", "seed=1"),
        "c": ("missing", "seed=2"),
        "d": ("refused", "seed=3"),
    }
    a_sweep(tmp_path, runs, launcher=asdict(lock.myself()))
    assert [state for state, _ in found(tmp_path).values()] == ["done", "queued", "queued", "queued"]


DAMAGED = {
    "empty": "{}",
    "list": "[]",
    "text": '"a"',
    "null": "null",
    "cut": '{"runs": ',
    "bytes": "\xff",
    "no_runs": '{"command": "rankbench -m"}',
    "runs_null": '{"runs": null}',
    "runs_list": '{"runs": ["a"]}',
    "words_null": '{"runs": {"a": null}}',
    "words_numbers": '{"runs": {"a": [1]}}',
    "refused_list": '{"runs": {"a": ["seed=0"]}, "refused": ["a"]}',
    "refused_number": '{"runs": {"a": ["seed=0"]}, "refused": {"a": 1}}',
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_list_is_named_and_hides_nothing(
    tmp_path: Path, call_main: Callable[..., Answer], caplog: pytest.LogCaptureFixture, case: str
) -> None:
    a_run(tmp_path, "a", status="done")
    a_sweep(tmp_path, {"b": ["seed=1"]})
    (tmp_path / ".multirun" / "damaged.json").write_text(DAMAGED[case], encoding="latin-1")
    answer = call_main("status", str(tmp_path))
    assert answer.rc == 0 and answer.out.splitlines()[-1] == "1 done, 1 missing"
    assert "damaged.json is no list of a sweep" in caplog.text and "remove it" in caplog.text


@pytest.mark.parametrize(
    "launcher", [[], {"pid": "x"}, asdict(lock.myself()) | {"pid": "x"}, 7], ids=["list", "part", "no_pid", "number"]
)
def test_a_launcher_that_nobody_can_be_is_waited_for_by_none(tmp_path: Path, launcher: object) -> None:
    a_sweep(tmp_path, {"a": ["seed=0"]}, launcher=launcher)
    assert found(tmp_path)["a"][0] == "missing"


@pytest.mark.parametrize(
    "progress", [{"step": 1}, {"step": None, "steps": 4}, {"step": 1, "steps": 4, "seconds_left": "x"}]
)
def test_damaged_progress_costs_its_line_alone(tmp_path: Path, progress: dict[str, int | None]) -> None:
    folder = a_run(tmp_path, "a")
    at_step(folder, 1, **progress)
    with lock.held(folder):
        assert found(tmp_path)["a"][0] == "running"


def test_the_table_fits_eighty_columns_and_counts(tmp_path: Path) -> None:
    name = "triviaqa-smollm2_135m-sorted_lora-0123456789"
    a_run(tmp_path, name, status="failed", reason="out of memory (tried to allocate 2 GiB); lower " + "word " * 90)
    a_run(tmp_path, "b", status="done")
    a_sweep(tmp_path, {name: ["seed=0", "train.learning_rate=0.001"], "b": ["seed=1"]})
    text = status.table(status.standings(tmp_path))
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[0] == "done     b  seed=1" and text.splitlines()[-1] == "1 done, 1 failed"


def test_one_run_may_be_asked_for_and_a_missing_folder_is_refused(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "deep" / "er", "a", status="done")
    assert list(found(folder)) == list(found(tmp_path)) == ["a"]
    with pytest.raises(RequestError, match="is no folder"):
        status.standings(tmp_path / "nowhere")


def test_a_thousand_folders_take_a_moment(command_line: Callable[..., Answer], tmp_path: Path) -> None:
    curve = "x" * 20_000
    for number in range(1000):
        folder = a_run(tmp_path, f"r{number:04d}", **({"status": "done", "loss_curve": curve} if number % 4 else {}))
        os.utime(folder, (time.time(), time.time()))
    answer = command_line("status", str(tmp_path))
    assert answer.rc == 0 and answer.out.splitlines()[-1] == "750 done, 250 stopped"
    assert answer.cpu < 1.5


def test_what_tells_a_sweeps_runs_apart_is_said_in_words_that_people_read() -> None:
    jobs = [["+sweeps=glue", f"sweeps/candidate@_global_={name}", f"seed={seed}"] for name in "ab" for seed in (0, 1)]
    assert status.apart_by(jobs) == [
        "candidate=a seed=0",
        "candidate=a seed=1",
        "candidate=b seed=0",
        "candidate=b seed=1",
    ]
