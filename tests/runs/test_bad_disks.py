"""A full disk, a read-only one and things in the way end a call in a line or two, and nothing that was done is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Answer, compose_run, sample, tiny_overrides

from rankbench.runs.life import execute
from rankbench.settings.run import Run

QUICK = ("train.max_steps=1", "evaluate.submodels=[1]")
Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """disk("size=64k"): a file system of its own, of that size."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here, which only root may")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def calm(answer: Answer) -> list[str]:
    """The lines on stderr, none of them of a traceback."""
    assert "Traceback" not in answer.err and "Logging error" not in answer.err, answer.err
    return answer.said


@pytest.mark.parametrize("size", sample([4, 8, 16, 40, 64, 100], 4, 8, 40))
def test_a_full_disk_fails_a_run_in_a_line(
    disk: Disk, tiny: list[str], call_main: Callable[..., Answer], size: int
) -> None:
    place = disk(f"size={size}k")
    answer = call_main(*tiny, f"runs_dir={place / 'runs'}", "train.checkpoint_steps=1")
    assert answer.rc in (1, 2) and "No space left" in calm(answer)[-1], answer.err


def test_a_full_disk_leaves_a_sweeps_table(disk: Disk, tiny: list[str], call_main: Callable[..., Answer]) -> None:
    place = disk("size=24k")
    answer = call_main("-m", *tiny, f"runs_dir={place / 'runs'}", "seed=0,1")
    assert answer.rc == 1 and "2 runs are not done" in calm(answer)[-1], answer.err


def test_a_full_disk_keeps_a_run_that_was_to_begin_anew(
    disk: Disk, tiny_data: Path, call_main: Callable[..., Answer]
) -> None:
    place = disk("size=4m")
    words = [*tiny_overrides(tiny_data, place / "runs"), *QUICK]
    folder = place / "runs" / execute(compose_run(*words))["run_id"]
    before = (folder / "record.json").read_bytes()
    with open(place / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))
    answer = call_main(*words, "fresh=true")
    assert answer.rc in (1, 2) and calm(answer)
    assert (folder / "record.json").read_bytes() == before and (folder / "adapter" / "rankbench.json").is_file()


def test_a_done_run_on_a_read_only_disk_is_done(disk: Disk, tiny_data: Path, call_main: Callable[..., Answer]) -> None:
    place = disk("size=4m")
    words = [*tiny_overrides(tiny_data, place / "runs"), *QUICK]
    execute(compose_run(*words))
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    answer = call_main(*words)
    assert answer.rc == 0 and "already done" in "\n".join(calm(answer))
    answer = call_main(*words, "fresh=true")
    assert answer.rc == 2 and "Read-only" in calm(answer)[-1], answer.err
    answer = call_main("status", str(place / "runs"))
    assert answer.rc == 0 and answer.out.splitlines()[-1] == "1 done"


@pytest.mark.parametrize("more", [[], ["cluster.own_process=true"], ["-m"]], ids=["run", "own_process", "sweep"])
def test_a_read_only_disk_is_refused(
    disk: Disk, tiny: list[str], call_main: Callable[..., Answer], more: list[str]
) -> None:
    answer = call_main(*more, *tiny, f"runs_dir={disk('ro') / 'runs'}")
    assert answer.rc == 2 and "Read-only file system" in calm(answer)[-1] and "runs_dir" in answer.err, answer.err


@pytest.mark.parametrize("more", [[], ["cluster.own_process=true"], ["-m"]], ids=["run", "own_process", "sweep"])
@pytest.mark.parametrize("thing", ["a file", "a link to nothing"])
def test_what_is_in_the_way_of_the_runs_is_named(
    tiny: list[str], call_main: Callable[..., Answer], tmp_path: Path, more: list[str], thing: str
) -> None:
    place = tmp_path / "mine"
    place.write_text("") if thing == "a file" else place.symlink_to(tmp_path / "gone")
    answer = call_main(*more, *tiny, f"runs_dir={place}")
    assert answer.rc == 2 and str(place) in calm(answer)[-1] and "choose another runs_dir" in answer.err, answer.err


@pytest.mark.parametrize("more", [[], ["cluster.own_process=true"]], ids=["run", "own_process"])
def test_a_file_in_the_place_of_a_runs_folder_is_named(
    make_run: Callable[..., Run], tiny: list[str], call_main: Callable[..., Answer], more: list[str]
) -> None:
    folder = make_run().folder
    folder.parent.mkdir(parents=True)
    folder.write_text("mine")
    answer = call_main(*tiny, *more)
    assert answer.rc == 2 and f"{folder} is no folder" in calm(answer)[-1], answer.err
    answer = call_main("-m", *tiny, "seed=0")
    assert answer.rc == 1 and f"{folder} is no folder" in "\n".join(calm(answer)), answer.err
    assert folder.read_text() == "mine"
