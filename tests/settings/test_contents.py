"""A file that has changed where its fingerprint does not look is noticed, before anything is taken for done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import compose_run, sentences, tiny_overrides, write_jsonl, write_tiny
from test_export import base_folder

from rankbench.errors import RequestError
from rankbench.runs.life import execute
from rankbench.settings import contents
from rankbench.settings.run import Run
from rankbench.settings.sources import Source, fingerprint
from rankbench.shipping.export import export

LARGE = 17 << 20


def write(folder: Path) -> Path:
    """A training file above what is hashed whole."""
    rows = sentences(64)
    padding = "x" * (LARGE // len(rows))
    write_jsonl(folder / "train.jsonl", [row | {"more": padding} for row in rows])
    write_jsonl(folder / "validation.jsonl", sentences(12, start=64))
    return folder


def turn_labels(file: Path) -> None:
    """Turn round the labels that the fingerprint's blocks do not hold."""
    before = fingerprint(Source("path", file))
    data = bytearray(file.read_bytes())
    turned, place = 0, 0
    while (place := data.find(b'"label": ', place + 1)) > 0:
        at = place + len(b'"label": ')
        own, data[at] = data[at], data[at] ^ 1
        file.write_bytes(data)
        if fingerprint(Source("path", file)) == before:
            turned += 1
            if turned == 3:
                return
        else:
            data[at] = own
            file.write_bytes(data)
    raise AssertionError("every label lies in a block")


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    return tiny_overrides(write(tmp_path / "data"), tmp_path / "runs")


def test_turned_labels_are_another_run(asked: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = execute(compose_run(*asked))
    folder = tmp_path / "runs" / first["run_id"]
    assert set(first["contents"]["task"]) == {"train.jsonl", "validation.jsonl"}
    assert not (folder / contents.FILE).exists()
    assert execute(compose_run(*asked))["run_id"] == first["run_id"]
    turn_labels(tmp_path / "data" / "train.jsonl")
    run = compose_run(*asked)
    assert run.run_id != first["run_id"]
    second = execute(run)
    assert second["run_id"] == run.run_id == compose_run(*asked).run_id
    assert second["data"]["splits"]["train"]["sha256"] != first["data"]["splits"]["train"]["sha256"]
    assert json.loads((folder / "record.json").read_text())["contents"] == first["contents"]
    log = (run.folder / "run.log").read_text()
    assert "train.jsonl of task" in log and first["run_id"] in log


def test_no_checkpoint_of_other_data_is_gone_on_from(asked: list[str], tmp_path: Path) -> None:
    from rankbench.training import checkpoints

    run, kept = compose_run(*asked, "train.checkpoint_steps=1"), checkpoints.keep

    def stop(*given: object) -> None:
        kept(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "keep", stop)
        execute(run)
    folder = run.folder
    assert contents.kept(folder) and (folder / "checkpoints").exists()
    turn_labels(tmp_path / "data" / "train.jsonl")
    record = execute(run)
    assert record["run_id"] != folder.name and len(record["training"]["loss_curve"]) > 0
    assert not (folder / "record.json").exists()


def test_a_file_is_read_once(asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run: Run = compose_run(*asked)
    found = contents.of(run)
    monkeypatch.setattr(contents, "sha256", lambda file: pytest.fail(f"{file} is read again"))
    assert contents.of(run) == found and found["task"]
    file = tmp_path / "data" / "validation.jsonl"
    os.utime(file, (1, 1))
    with pytest.raises(pytest.fail.Exception, match=r"validation.jsonl is read again"):
        contents.of(run)


def test_a_hubs_file_goes_by_its_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, revision = tmp_path / "models--a--b" / "blobs" / ("c" * 64), tmp_path / "models--a--b" / "snapshots" / "d"
    for folder in (blob.parent, revision):
        folder.mkdir(parents=True)
    blob.write_text("weights")
    (revision / "model.safetensors").symlink_to(blob)
    run = compose_run("model=tiny_bert", f"model.path={revision}", f"runs_dir={tmp_path}", f"task.data_dir={revision}")
    assert contents.of(run)["model"] == {"model.safetensors": "c" * 64}


def test_where_sums_cannot_be_kept_they_are_made_anew(asked: list[str], tmp_path: Path) -> None:
    run = compose_run(*asked)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".cache").write_text("a file, not a folder")
    assert contents.of(run) == contents.of(run) != {}


@pytest.mark.parametrize("damaged", ["[]", "7", "{", "", '"text"'])
def test_damaged_files_are_made_anew(damaged: str, asked: list[str], tmp_path: Path) -> None:
    run = compose_run(*asked)
    expected = contents.of(run)
    (tmp_path / "runs" / ".cache" / "sums.json").write_text(damaged)
    run.folder.mkdir(parents=True)
    for name in (contents.FILE, "record.json"):
        (run.folder / name).write_text(damaged)
    assert contents.of(run) == expected and contents.kept(run.folder) is None
    assert compose_run(*asked).run_id == run.run_id


def test_changed_code_of_a_trusted_model_is_another_run(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", "tiny_bert")
    (folder / "mine.py").write_text("SCALE = 1.0\n")
    words = [*tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs"), f"model.path={folder}"]
    words += ["model.random=null", "train.max_steps=1"]
    untrusted = compose_run(*words).run_id
    first = execute(compose_run(*words, "model.trust_remote_code=true"))
    assert set(first["contents"]["model"]) >= {"mine.py", "model.safetensors"}
    (folder / "mine.py").write_text("SCALE = -1.0\n")
    run = compose_run(*words, "model.trust_remote_code=true")
    assert run.run_id != first["run_id"] and compose_run(*words).run_id == untrusted, "what never runs changes nothing"
    with pytest.raises(RequestError, match="holds another model than the one"):
        export(tmp_path / "runs" / first["run_id"], tmp_path / "out", 2)
    (folder / "mine.py").write_text("SCALE = 1.0\n")
    assert compose_run(*words, "model.trust_remote_code=true").run_id == first["run_id"]
    export(tmp_path / "runs" / first["run_id"], tmp_path / "out", 2)
