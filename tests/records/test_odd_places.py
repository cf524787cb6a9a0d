"""Copies, links and things that are no records, where records are looked for: one answer everywhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Answer, sample

from rankbench.errors import RequestError
from rankbench.records.record import load_records, load_runs
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.sweeps import status


def copied(finished: Path, place: Path, **changes: object) -> Path:
    """A copy of the shared run in a folder of runs, its record changed."""
    folder = place / finished.name
    shutil.copytree(finished, folder)
    record = json.loads((folder / "record.json").read_text()) | changes
    (folder / "record.json").write_text(json.dumps(record, indent=1))
    return folder


UNDONE = {"status": "failed", "submodels": [], "reason": "the disk broke"}


@pytest.mark.parametrize("undone", ["a", "z"])
def test_of_copies_of_a_run_the_done_one_counts(finished: Path, tmp_path: Path, undone: str) -> None:
    for place in "az":
        copied(finished, tmp_path / place, **(UNDONE if place == undone else {}))
    assert set(load_runs([tmp_path / "a", tmp_path / "z"])["status"]) == {"done"}
    assert [s.state for s in status.standings(tmp_path)] == ["done"]


@pytest.mark.parametrize("newer", ["a", "z"])
@pytest.mark.parametrize("changes", [{}, UNDONE], ids=["done", "failed"])
def test_of_equal_copies_the_newest_counts(finished: Path, tmp_path: Path, newer: str, changes: dict) -> None:
    for place in "az":
        folder = copied(finished, tmp_path / place, **changes, made=place)
        os.utime(folder / "record.json", (5, 5 + (place == newer)))
    assert [record["made"] for record in load_records(tmp_path)] == [newer]


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "the run's folder": lambda run, runs: (runs / run.name).symlink_to(run),
    "a folder above it": lambda run, runs: (runs / "more").symlink_to(run.parent),
    "a cycle": lambda run, runs: (shutil.copytree(run, runs / run.name), (runs / "loop").symlink_to(runs)),
    "itself": lambda run, runs: (shutil.copytree(run, runs / run.name), (runs / "self").symlink_to(runs / "self")),
    "nothing": lambda run, runs: (shutil.copytree(run, runs / run.name), (runs / "gone").symlink_to(runs / "none")),
    "latest": lambda run, runs: (
        shutil.copytree(run, runs / "in" / run.name),
        (runs / "a").symlink_to(runs / "in" / run.name),
    ),
}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_tables_and_status_to_the_same_run(finished: Path, tmp_path: Path, link: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    LINKS[link](copied(finished, tmp_path / "far"), runs)
    assert [record["run_id"] for record in load_records(runs)] == [finished.name]
    assert [(s.run_id, s.state) for s in status.standings(runs)] == [(finished.name, "done")]


ODD = {
    "a folder": None,
    "no text": b"\xff\xfe",
    "cut": b'{"status": "done", "run',
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "done alone": b'{"status": "done", "schema": 2, "run_id": "x"}',
    "no settings": b'{"status": "done", "schema": 2, "run_id": "x", "submodels": [], "config": {}}',
    "nothing measured": json.dumps(
        {"status": "done", "schema": 2, "run_id": "x", "submodels": []}
        | {"config": {"seed": 0} | {g: {"name": g} for g in ("task", "model", "adapter", "sampler", "quantization")}}
    ).encode(),
    "other types": b'{"status": 5, "schema": "a", "run_id": "x"}',
}


@pytest.fixture
def odd(make_run: Callable[..., Run], request: pytest.FixtureRequest) -> Path:
    """The folder of the smallest run, with something that is no record in the record's place."""
    folder = make_run().folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    content = ODD[request.param]
    if content is None:
        (folder / "record.json").mkdir()
    else:
        (folder / "record.json").write_bytes(content)
    return folder


every_odd = pytest.mark.parametrize("odd", ODD, indirect=True)


@every_odd
def test_what_is_no_record_is_named_and_ends_no_verb_in_a_traceback(
    odd: Path, call_main: Callable[..., Answer]
) -> None:
    file = str(odd / "record.json")
    for words in (["table", "curve", str(odd.parent)], ["table", "leaderboard", str(odd.parent)]):
        answer = call_main(*words)
        assert answer.rc == 2 and len(answer.said) == 1 and file in answer.err, answer.err
    answer = call_main("export", str(odd), "--rank", "1", "--to", str(odd.parent / "out"))
    assert answer.rc == 2 and str(odd) in answer.err and len(answer.said) == 1, answer.err
    answer = call_main("status", str(odd.parent))
    assert answer.rc == 0 and answer.out.splitlines()[-1] in ("1 stopped", "1 failed"), answer.out


@pytest.mark.parametrize("odd", sample(ODD, "a folder", "done alone", "cut"), indirect=True)
def test_a_run_passes_over_what_is_no_record_or_refuses_it_before_it_trains(
    odd: Path, make_run: Callable[..., Run], capfd: pytest.CaptureFixture[str]
) -> None:
    if (odd / "record.json").is_dir():
        with pytest.raises(RequestError, match=r"record\.json is a folder"):
            execute(make_run())
        return
    assert execute(make_run())["status"] == "done"
    assert f"{odd / 'record.json'} is not a whole record" in capfd.readouterr().err
