"""What lies beside a task's splits or a model's weights, a run's own files first, is no part of a run; ~ is home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Answer, compose_run, sentences, tiny_overrides, write_jsonl, write_tiny
from test_sources import tiny_model_folder

import rankbench
from rankbench.errors import RequestError
from rankbench.records.record import load_records
from rankbench.runs.life import execute
from rankbench.settings.compose import composed
from rankbench.settings.identity import identity, sources
from rankbench.settings.run import Run
from rankbench.settings.sources import Source, fingerprint, locate

QUICK = ("train.max_steps=1", "evaluate.submodels=[1]")


@pytest.mark.parametrize("runs", [".", "runs", "a/b", ".runs"])
def test_runs_beside_or_among_their_data_are_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: str
) -> None:
    monkeypatch.chdir(write_tiny(tmp_path))
    asked = [*tiny_overrides(Path("."), Path(runs)), *QUICK]
    before = compose_run(*asked).run_id
    first = execute(compose_run(*asked))
    made = (tmp_path / runs / before / "record.json").stat().st_mtime_ns
    execute(compose_run(*asked, "seed=1"))
    assert execute(compose_run(*asked))["run_id"] == first["run_id"] == before
    assert (tmp_path / runs / before / "record.json").stat().st_mtime_ns == made
    assert set(first["contents"]["task"]) == {"train.jsonl", "validation.jsonl"}


def test_a_sweep_among_its_data_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_main: Callable[..., Answer]
) -> None:
    monkeypatch.chdir(write_tiny(tmp_path))
    asked = ["-m", *tiny_overrides(Path("."), Path(".")), "evaluate.submodels=[1]", "seed=0,1"]
    for _ in range(2):
        answer = call_main(*asked)
        assert answer.rc == 0 and answer.out.splitlines()[-1] == "2 done", answer.out + answer.err
    assert "2 of 2 runs are done already" in answer.err


BESIDE = ("curve.csv", "o.json", "notes.txt", "curve.parquet", "mine/curve.csv", "trainer.json", ".train.jsonl")
SPLITS = ("test.csv", "validation-more.csv", "dev.tsv", "train.csv")


@pytest.mark.parametrize("name", [*BESIDE, *SPLITS])
def test_only_what_is_named_as_a_split_is_part_of_a_run(make_run: Callable[..., Run], name: str) -> None:
    before = make_run().run_id
    file = Path(str(make_run().task.data_dir)) / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("text,label\na,1\n")
    assert (make_run().run_id == before) == (name in BESIDE)


def test_a_split_of_any_name_is_part_of_a_run(make_run: Callable[..., Run]) -> None:
    data = Path(str(make_run().task.data_dir))
    ids = set()
    for n in (8, 9):
        for name in ("mine", "held-00000-of-00001"):
            write_jsonl(data / f"{name}.jsonl", sentences(n))
            ids.add(make_run("task.train_split=mine", "task.validation_splits=[held]").run_id)
    assert len(ids) == 4


def test_a_run_from_when_all_that_lay_there_counted_keeps_its_folder(make_run: Callable[..., Run]) -> None:
    run = make_run(*QUICK)
    (Path(str(run.task.data_dir)) / "labels.json").write_text("{}")
    source = locate("task", run.task)
    of_all = fingerprint(Source("path", source.path))
    assert of_all != fingerprint(source)
    before = run.id_of(identity(run, sources(run) | {"task": of_all}))
    now = execute(run)["run_id"]
    assert before != now == make_run(*QUICK).run_id
    (run.folder.parent / now).rename(run.folder.parent / before)
    assert make_run(*QUICK).run_id == before


def test_runs_in_the_folder_of_their_model_do_not_change_it(tmp_path: Path, tiny_data: Path) -> None:
    model = tiny_model_folder(tmp_path / "model")
    asked = [*tiny_overrides(tiny_data, model), f"model.path={model}", *QUICK]
    first = compose_run(*asked).run_id
    assert execute(compose_run(*asked))["run_id"] == first == compose_run(*asked).run_id


# ~


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_tilde_is_the_home_in_every_path_that_a_run_reads(
    home: Path, tmp_path: Path, call_main: Callable[..., Answer]
) -> None:
    write_tiny(home / "data")
    asked = [*tiny_overrides(Path("~/data"), Path("~/runs")), *QUICK]
    record = execute(composed(asked))
    folder = home / "runs" / record["run_id"]
    assert (folder / "predictions.parquet").is_file() and not (tmp_path / "~").exists()
    assert record["run_id"] == compose_run(*tiny_overrides(home / "data", home / "runs"), *QUICK).run_id
    assert len(rankbench.load_runs("~/runs")) == len(rankbench.load_runs(["~/runs"])) == 1
    assert load_records(f"~/runs/{record['run_id']}") == [record]
    assert call_main("status", "~/runs").out.splitlines()[-1] == "1 done"
    assert call_main("table", "curve", "~/runs", "--to", "~/t.csv").rc == 0 and (home / "t.csv").is_file()
    assert rankbench.load(f"~/runs/{record['run_id']}", rank=1) is not None
    answer = call_main("-m", *asked, "seed=0")
    assert answer.rc == 0 and "1 of 1 runs are done already" in answer.err
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("key", ["task.data_dir", "model.path", "adapter.start_from"])
def test_the_home_of_nobody_is_a_path_that_does_not_exist(home: Path, tiny: list[str], key: str) -> None:
    more = ["adapter=early_exit"] if key.startswith("adapter") else []
    words = [word for word in tiny if not (more and word.startswith("adapter"))]
    with pytest.raises(RequestError, match=key.replace(".", r"\.")):
        _ = composed([*words, *more, f"{key}=~nobody-here/x"]).run_id


def test_without_a_home_a_run_goes_on(tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pwd

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert execute(compose_run(*tiny, *QUICK))["status"] == "done"
