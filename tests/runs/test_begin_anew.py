"""fresh=true refuses what it can before it empties a folder, and odd things in a run's folder cost no result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Answer, compose_run, tiny_overrides, write_jsonl, write_tiny

from rankbench.errors import RequestError, RunFailed
from rankbench.models import backbone
from rankbench.runs.life import execute
from rankbench.settings.run import Run

QUICK = ("train.max_steps=1", "evaluate.submodels=[1]")


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run's folder but its lock and its log."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".lock" not in str(file))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.name != "run.log"}


@pytest.fixture
def done(make_run: Callable[..., Run]) -> Run:
    """A done run that is asked for once more, from the beginning."""
    execute(make_run(*QUICK))
    return make_run(*QUICK, "fresh=true")


def refuses_the_model(*_: object, **__: object) -> None:
    raise RequestError("no such weights")


def breaks(*_: object, **__: object) -> None:
    raise RuntimeError("the card fell out")


@pytest.mark.parametrize(("fault", "error"), [(refuses_the_model, RequestError), (breaks, RunFailed)])
def test_a_new_beginning_that_comes_to_nothing_leaves_the_done_run(
    done: Run, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None], error: type[Exception]
) -> None:
    before = content(done.folder)
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(backbone, "load", fault)
        execute(done)
    assert content(done.folder) == before
    made = (done.folder / "record.json").stat().st_mtime_ns
    assert execute(done)["status"] == "done" and (done.folder / "record.json").stat().st_mtime_ns > made


def test_a_new_beginning_over_a_start_that_is_gone_leaves_the_done_run(tmp_path: Path) -> None:
    words = [
        word for word in tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs") if "adapter.r" not in word
    ]
    words += ["train.max_steps=1"]
    sft = execute(compose_run(*words, "adapter=sft"))
    asked = [*words, "adapter=early_exit", f"adapter.start_from={tmp_path / 'runs' / sft['run_id']}"]
    heads = compose_run(*asked, "fresh=true")
    execute(heads)
    before = content(heads.folder)
    (tmp_path / "runs" / sft["run_id"] / "record.json").unlink()
    with pytest.raises(RequestError):
        execute(heads)
    assert content(heads.folder) == before


@pytest.mark.parametrize("fault", ["refused", "broken"])
def test_a_sweep_does_not_count_what_it_did_not_do_again(
    tiny: list[str], tmp_path: Path, call_main: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    words = ["-m", *tiny, *QUICK, "seed=0"]
    assert call_main(*words).rc == 0
    monkeypatch.setattr(backbone, "load", {"refused": refuses_the_model, "broken": breaks}[fault])
    answer = call_main(*words, "fresh=true")
    assert answer.rc == 1 and "1 failed" in answer.out and "fresh=true did not do it again" in answer.out, answer.out


@pytest.mark.parametrize("name", ["adapter", "checkpoints"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_link_in_a_runs_folder_is_used_and_what_it_leads_to_is_never_removed(
    make_run: Callable[..., Run], tmp_path: Path, name: str, fresh: bool
) -> None:
    run, far = make_run(*QUICK, "seed=7"), tmp_path / "scratch"
    write_jsonl(far / "mine.jsonl", [])
    if fresh:
        execute(run)
        run = make_run(*QUICK, "seed=7", "fresh=true")
        shutil.rmtree(run.folder / name, ignore_errors=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / name).symlink_to(far)
    assert execute(run)["status"] == "done"
    assert (far / "mine.jsonl").exists() and not (run.folder / "checkpoints").exists()
    assert (run.folder / "adapter" / "rankbench.json").is_file() and "was a link" in (
        run.folder / "run.log"
    ).read_text()


IN_THE_WAY = ["config.yaml/", "run.log/", "predictions.parquet/", "record.json/", "adapter", "checkpoints", "adapter@"]


@pytest.mark.parametrize("thing", [*IN_THE_WAY, "checkpoints@"])
def test_what_has_the_place_of_a_runs_own_is_refused_before_training(
    make_run: Callable[..., Run], tmp_path: Path, thing: str
) -> None:
    run = make_run()
    place = run.folder / thing.rstrip("/@")
    run.folder.mkdir(parents=True)
    if thing.endswith("/"):
        place.mkdir()
    elif thing.endswith("@"):
        place.symlink_to(tmp_path / "gone")
    else:
        place.write_text("mine")
    with pytest.raises(RequestError, match=f"{place.name} is a .*(move it away|remove the link)"):
        execute(run)
    assert os.path.lexists(place) and not (run.folder / "predictions.parquet").is_file()


def test_a_refused_request_removes_its_own_alone(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = [make_run(f"seed={seed}") for seed in range(3)]
    (runs[1].folder / "adapter").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    runs[2].folder.symlink_to(tmp_path / "far")
    monkeypatch.setattr(backbone, "load", refuses_the_model)
    for run in runs:
        with pytest.raises(RequestError, match="no such weights"):
            execute(run)
    assert not runs[0].folder.exists() and (runs[1].folder / "adapter").is_dir()
    assert runs[2].folder.is_symlink() and not [item for item in runs[2].folder.iterdir() if "lock" not in item.name]
