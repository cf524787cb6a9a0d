"""A checkpoint is whole or absent, verified before use, and a damaged one is named and skipped."""

from __future__ import annotations

import errno
import logging
import os
import shutil

import pytest
import torch

from rankbench.system import files
from rankbench.training import checkpoints

TENSORS = {"weights/a": torch.arange(6.0).reshape(2, 3), "optimizer/0/step": torch.tensor(3.0)}


def saved(folder, *steps):
    for step in steps:
        checkpoints.save(folder, step, TENSORS, {"progression": {"step": step}})


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path):
    saved(tmp_path, 7)
    found = checkpoints.newest(tmp_path)
    assert found.step == 7 and found.state == {"progression": {"step": 7}}
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[k], v) for k, v in TENSORS.items())


def test_the_newest_two_are_kept(tmp_path):
    saved(tmp_path, 9, 10, 100)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    assert checkpoints.newest(tmp_path).step == 100


def test_no_folder_means_no_checkpoint(tmp_path):
    assert checkpoints.newest(tmp_path / "none") is None


def truncate(file):
    with open(file, "r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


DAMAGE = {"truncated": truncate, "flipped": flip, "emptied": lambda f: f.write_bytes(b""), "deleted": os.unlink}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path, caplog, damage, file):
    saved(tmp_path, 1, 2)
    DAMAGE[damage](tmp_path / "step-00000002" / file)
    logging.getLogger("rankbench").propagate = True
    with caplog.at_level(logging.WARNING, "rankbench"):
        assert checkpoints.newest(tmp_path).step == 1
    assert "step-00000002 is damaged" in caplog.text


def test_when_all_are_damaged_training_starts_anew(tmp_path):
    saved(tmp_path, 1, 2)
    for folder in tmp_path.iterdir():
        truncate(folder / "tensors.safetensors")
    assert checkpoints.newest(tmp_path) is None


@pytest.mark.parametrize("fails", ["save_file", "os.replace", "flush"])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, fails):
    saved(tmp_path, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"rankbench.training.checkpoints.{fails}", full)
        with pytest.raises(OSError, match="No space left"):
            saved(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001"]
    assert checkpoints.newest(tmp_path).step == 1
    saved(tmp_path, 2)
    assert checkpoints.newest(tmp_path).step == 2


def test_a_half_written_checkpoint_of_a_killed_process_is_not_taken_for_one(tmp_path):
    saved(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".writing-step-00000002")
    assert checkpoints.newest(tmp_path).step == 1
    saved(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    file = tmp_path / "record.json"
    files.write_atomic(file, "old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rankbench.system.files.flush", full)
        with pytest.raises(OSError, match="No space left"):
            files.write_atomic(file, "new")
    assert file.read_text() == "old" and names(tmp_path) == ["record.json"]
