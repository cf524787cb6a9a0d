"""Checkpoints that are whole or absent: written aside, renamed into place, verified before use."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rankbench.system import processes
from rankbench.system.files import flush, sha256

log = logging.getLogger("rankbench")

KEPT = 2  # the newest may be damaged by the very fault that ended the run


@dataclass(frozen=True)
class Checkpoint:
    """A verified training state after `step` optimizer steps."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


@dataclass
class Progression:
    """What training leaves for the record; a checkpoint holds it, so that a resumed run's is whole."""

    step: int = 0
    seconds: float = 0.0
    examples: int = 0
    pending_loss: float = 0.0  # summed since the last entry of `losses`
    skipped: int = 0  # steps that fp16 overflowed in, so that nothing was trained
    losses: list[dict[str, Any]] = field(default_factory=list)  # {step, loss, learning_rate, submodel, ...}
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # {step, rank, depth, metric, value}
    best: dict[str, Any] | None = None  # {step, value} of the best evaluation, where evaluations decide
    without: int = 0  # evaluations since then
    stopped: bool = False  # before the last step, for want of a better one
    kept: int | None = None  # the step whose weights lie beside the checkpoints
    stretches: list[dict[str, Any]] = field(default_factory=list)  # {from_step, precision, device, threads}, where new

    def goes_on(self, where: dict[str, Any]) -> None:
        """Note what computes from here on; a change that moves the numbers is told."""
        before = self.stretches[-1] if self.stretches else {}
        now = {"from_step": self.step, **where}
        if where.items() <= before.items():
            return
        if self.stretches and any(before[name] != now[name] for name in ("precision", "device")):
            ours, theirs = (f"{one['precision']} on {one['device']}" for one in (now, before))
            log.warning("goes on in %s; until step %d it trained in %s", ours, self.step, theirs)
        self.stretches.append(now)


class DamagedBest(RuntimeError):
    """The best weights cannot be read; the message says what to do."""


def keep(
    folder: Path,
    trained: dict[str, torch.nn.Parameter],
    optimizer: Any,
    accelerator: Accelerator,
    past: Progression,
) -> None:
    """Write a checkpoint of all that training goes on with."""
    tensors: dict[str, torch.Tensor] = {f"weights/{name}": p.data for name, p in trained.items()}
    for index, parameter in enumerate(_parameters(optimizer)):  # state_dict() differs: bitsandbytes packs it for FSDP
        moments = optimizer.state.get(parameter, {})
        tensors |= {
            f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in moments.items() if value is not None
        }
    scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
    state = {"progression": vars(past), "scaler": scaler}
    save(folder, past.step, tensors, state)


def keep_best(folder: Path, trained: dict[str, torch.nn.Parameter], past: Progression) -> None:
    """Write the weights as they are now as the best, and drop those that neither this nor a checkpoint goes on with."""
    past.kept = past.step
    if processes.first():
        _write(folder, _best(past.step), {name: p.data for name, p in trained.items()}, {"step": past.step})
        _drop(folder, past.kept)


def put_back(folder: Path, trained: dict[str, torch.nn.Parameter], past: Progression) -> None:
    """Make the weights those that are kept as the best, if any. Raises DamagedBest where they cannot be read."""
    if past.kept in (None, past.step):
        return
    processes.wait()  # the first has written them
    try:
        place = folder / _best(past.kept)
        _verified(place)
        with safe_open(place / "tensors.safetensors", "pt") as tensors:  # one after the other, not all of them twice
            for name, parameter in trained.items():
                parameter.data.copy_(tensors.get_tensor(name))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedBest(
            f"the weights of step {past.kept}, the best, are damaged ({error}); run the same command again: it goes "
            "on from before them"
        ) from error


def restore(
    folder: Path, trained: dict[str, torch.nn.Parameter], optimizer: Any, accelerator: Accelerator
) -> Progression:
    """Put back what the newest good checkpoint holds, where there is one; returns what had happened by then."""
    found = newest(folder)
    if found is None:
        return Progression()
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in found.tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "weights":
            trained[rest].data.copy_(tensor)
        elif kind == "optimizer":
            index, _, key = rest.partition("/")
            counter = tensor.dim() == 0 and not tensor.is_floating_point()  # bitsandbytes counts in plain integers
            moments.setdefault(int(index), {})[key] = tensor.item() if counter else tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    _page(optimizer)
    if accelerator.scaler and found.state["scaler"]:
        accelerator.scaler.load_state_dict(found.state["scaler"])
    log.info("resumed at step %d", found.step)
    return Progression(**found.state["progression"])


def save(folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write checkpoint `step` whole or not at all, then drop all but the newest two."""
    best = state["progression"].get("kept")
    _write(folder, f"step-{step:08d}", tensors, {"step": step, "best": best}, state)
    for old in _newest_first(folder)[KEPT:]:
        shutil.rmtree(old)
    _drop(folder, best)


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies, its best weights too; each damaged one is named in the log and skipped."""
    for candidate in _newest_first(folder):
        try:
            return _load(candidate)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is damaged (%s); skipped", candidate.name, error)
    return None


def _write(folder: Path, name: str, tensors: dict[str, torch.Tensor], told: dict[str, Any], state: Any = None) -> None:
    """Write `name` under the folder whole or not at all: tensors, a state if any, and a manifest that holds `told`."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".writing-{name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, aside / "tensors.safetensors")
        if state is not None:
            (aside / "state.json").write_text(json.dumps(state))
        files = {p.name: {"size": p.stat().st_size, "sha256": sha256(p)} for p in sorted(aside.iterdir())}
        (aside / "manifest.json").write_text(json.dumps(told | {"files": files}))
        for file in aside.iterdir():
            flush(file)
        flush(aside)
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk gets its space back; the older checkpoint stands
        raise
    flush(folder)


def _drop(folder: Path, best: int | None) -> None:
    """Drop the best weights of other steps than this one, but for those that a checkpoint goes on with."""
    used = {best}
    for place in _newest_first(folder):
        with contextlib.suppress(OSError, ValueError):  # a damaged one goes on with nothing
            used.add(json.loads((place / "manifest.json").read_text()).get("best"))
    wanted = {_best(step) for step in used if step is not None}
    for place in folder.glob("best-*"):
        if place.name not in wanted:
            shutil.rmtree(place)


def _best(step: int | None) -> str:
    return f"best-{step or 0:08d}"


def _load(folder: Path) -> Checkpoint:
    manifest = _verified(folder)
    if manifest.get("best") is not None:
        _verified(folder.parent / _best(manifest["best"]))
    state = json.loads((folder / "state.json").read_text())
    return Checkpoint(manifest["step"], load_file(folder / "tensors.safetensors"), state)


def _verified(folder: Path) -> dict[str, Any]:
    """The manifest. Raises ValueError where a file differs from it."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    for name, expected in manifest["files"].items():
        file = folder / name
        if file.stat().st_size != expected["size"] or sha256(file) != expected["sha256"]:
            raise ValueError(f"{name} of {folder.name} differs from the manifest")
    return manifest


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _parameters(optimizer: Any) -> list[torch.Tensor]:
    """The optimizer's tensors, in the order of its state's numbers."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _page(optimizer: Any) -> None:
    """Put the moments of a paged optimizer back into pages: bitsandbytes restores them as tensors of the card."""
    inner = getattr(optimizer, "optimizer", optimizer)
    for parameter in _parameters(inner) if getattr(inner, "is_paged", False) else ():
        for name in ("state1", "state2"):
            restored = inner.state[parameter].get(name)
            if restored is not None:
                inner.state[parameter][name] = inner.get_state_buffer(parameter, dtype=restored.dtype).copy_(restored)
