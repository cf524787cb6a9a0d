"""The identity of a run: everything that can change its result, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.settings.base import neutrals, plain
from rankbench.settings.sources import Source, fingerprint, locate
from rankbench.system.files import expanded

if TYPE_CHECKING:
    from rankbench.settings.run import Run

# Settings that cannot change a result; `train.eval_steps` does where evaluations decide (`train.selects`).
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
    "model.sha256",
    "model.found",
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

    So too `chat_template`, where a run reads one that lies in a file of its own.

    Raises RequestError where something is not there.
    """
    found = {group: fingerprint(locate(group, getattr(run, group))) for group in ("model", "task")}
    if run.adapter.begins_with is not None:
        found["start"] = fingerprint(Source("path", start_folder(run) / "adapter"))
    if run.task.chats and (folder := locate("model", run.model).path) is not None:
        file = folder / "chat_template.jinja"
        if file.is_file():
            found["chat_template"] = fingerprint(Source("path", file))
    return found


def identity(run: Run, at: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything that can change the result: the settings, with each place replaced by what lies there.

    `at` is what `sources` found, as a record keeps it; by default the places are looked at.
    """
    at = sources(run) if at is None else at
    values = settings(run)
    for group, once in ONCE_SHARED.items():
        values[group] = once | values[group]
    groups = [(group, values[name]) for name, group in vars(run).items() if is_dataclass(group)]
    for asked, kept in [(run, values), *groups]:
        for name, neutral in neutrals(asked).items():
            if kept[name] == neutral or (neutral is None and kept[name] == {}):  # no entry is no setting
                del kept[name]
    values = {name: kept for name, kept in values.items() if kept != {}}  # a group that came later
    for key in VOLATILE:
        if key == "train.eval_steps" and run.train.selects:  # then evaluations decide what is kept
            continue
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node.pop(last, None)
    if "start" in at:
        values["adapter"]["start_from"] = at["start"]
    if "chat_template" in at:
        values["model"]["chat_template"] = at["chat_template"]
    values["model"]["name"] = values["model"].pop("preset", None) or values["model"]["name"]
    for group in ("model", "task"):
        for key in PLACES:
            values[group].pop(key, None)
        values[group]["source"] = at[group]
    return values


def start_folder(run: Run) -> Path:
    """The finished run that `adapter.start_from` names, by its folder or by its id in runs_dir. Raises RequestError."""
    name = str(run.adapter.begins_with)
    for folder in (expanded(name), Path(run.runs_dir) / name):
        if (folder / "adapter").is_dir():
            return folder
    raise RequestError(f"adapter.start_from={name} is no finished run; give the folder of one, or its id in runs_dir")
