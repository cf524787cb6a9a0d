"""Checkpoints that are whole or absent: written aside, renamed into place, verified before use."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rankbench.system.files import flush, sha256

log = logging.getLogger("rankbench")

KEPT = 2  # the newest may be damaged by the very fault that ended the run


@dataclass(frozen=True)
class Checkpoint:
    """A verified training state after `step` optimizer steps."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def save(folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write checkpoint `step` whole or not at all, then drop all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".writing-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, aside / "tensors.safetensors")
        (aside / "state.json").write_text(json.dumps(state))
        files = {p.name: {"size": p.stat().st_size, "sha256": sha256(p)} for p in sorted(aside.iterdir())}
        (aside / "manifest.json").write_text(json.dumps({"step": step, "files": files}))
        for file in aside.iterdir():
            flush(file)
        flush(aside)
        target = folder / f"step-{step:08d}"
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk gets its space back; the older checkpoint stands
        raise
    flush(folder)
    for old in _newest_first(folder)[KEPT:]:
        shutil.rmtree(old)


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies; each damaged one is named in the log and skipped."""
    for candidate in _newest_first(folder):
        try:
            return _load(candidate)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is damaged (%s); skipped", candidate.name, error)
    return None


def _load(folder: Path) -> Checkpoint:
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, expected in manifest["files"].items():
        file = folder / name
        if file.stat().st_size != expected["size"] or sha256(file) != expected["sha256"]:
            raise ValueError(f"{name} differs from the manifest")
    state = json.loads((folder / "state.json").read_text())
    return Checkpoint(manifest["step"], load_file(folder / "tensors.safetensors"), state)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)
