"""The identity of a run: everything that can change its result, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.settings.sources import Source, fingerprint, locate

if TYPE_CHECKING:
    from rankbench.settings.run import Run

# Settings that cannot change a result.
VOLATILE = (
    "runs_dir",
    "fresh",
    "log",
    "cluster",
    "train.eval_batch_size",
    "train.eval_steps",
    "train.checkpoint_steps",
    "train.log_steps",
    "model.shape",
)
# Settings that say where a source lies; the identity holds what lies there instead.
PLACES = ("path", "package", "hub", "revision", "data_dir", "hub_config")
# What every method and sampler once had among its settings. Their identities go on holding it where it is not theirs.
ONCE_SHARED: dict[str, dict[str, Any]] = {
    "adapter": {"update": "full"},
    "sampler": {"ranks": None, "p": 0.15},
}


def settings(run: Run) -> dict[str, Any]:
    """The run as plain values, as its record and `config.yaml` store it."""
    return {k: plain(v) for k, v in asdict(run).items()}


def sources(run: Run) -> dict[str, str]:
    """What lies where the run's settings point, by fingerprint: `model`, `task`, and `start` where it has one.

    Raises RequestError where something is not there.
    """
    found = {group: fingerprint(locate(group, getattr(run, group))) for group in ("model", "task")}
    if run.adapter.begins_with is not None:
        found["start"] = fingerprint(Source("path", start_folder(run) / "adapter"))
    return found


def identity(run: Run, at: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything that can change the result: the settings, with each place replaced by what lies there.

    `at` is what `sources` found, as a record keeps it; by default the places are looked at.
    """
    at = sources(run) if at is None else at
    values = settings(run)
    for group, once in ONCE_SHARED.items():
        values[group] = once | values[group]
    for key, neutral in neutrals(run):
        group, _, name = key.rpartition(".")
        if (values[group] if group else values)[name] == neutral:
            del (values[group] if group else values)[name]
    for key in VOLATILE:
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node.pop(last, None)
    if "start" in at:
        values["adapter"]["start_from"] = at["start"]
    for group in ("model", "task"):
        for key in PLACES:
            values[group].pop(key, None)
        values[group]["source"] = at[group]
    return values


def neutrals(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings that came after the first records, by their dotted keys, with their neutral values."""
    for setting in fields(settings):
        value = getattr(settings, setting.name, None)
        if "neutral" in setting.metadata:
            yield prefix + setting.name, plain(setting.metadata["neutral"])
        elif is_dataclass(value):
            yield from neutrals(value, f"{prefix}{setting.name}.")


def start_folder(run: Run) -> Path:
    """The finished run that `adapter.start_from` names, by its folder or by its id in runs_dir. Raises RequestError."""
    name = str(run.adapter.begins_with)
    for folder in (Path(name).expanduser(), Path(run.runs_dir) / name):
        if (folder / "adapter").is_dir():
            return folder
    raise RequestError(f"adapter.start_from={name} is no finished run; give the folder of one, or its id in runs_dir")


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value
