"""The identity of a run: a hash of everything that can change its result."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.settings.sources import Source, fingerprint, locate

# Settings that cannot change a result, and so are left out of a run's identity.
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
# Settings that came after the first records; at this value they leave the identity as it was without them.
LATER: dict[str, Any] = {
    "evaluate.cuts": [],
    "model.layers": None,
    "model.exits": None,
    "adapter.exits": None,
    "sampler.exit_weights": None,
    "sampler.per_micro_batch": False,
    "sampler.per_row": False,
    "sampler.whole_first": 0.0,
    "adapter.exit_stride": None,
    "adapter.trainable": "all",
    "adapter.start_from": None,
    "adapter.reorder_at": [],
    "adapter.target_sparsity": 0.5,
    "adapter.sparsity_warmup": 0.5,
    "adapter.gate_learning_rate": 0.1,
    "adapter.lambda_learning_rate": 0.1,
    "task.prompts": None,
    "task.response": "",
    "task.aliases_column": None,
    "task.max_new_tokens": 64,
    "task.packing": False,
    "quantization.double_quant": True,
    "quantization.block_size": 64,
    "quantization.compute_dtype": "auto",
}
# Settings that say where a source lies; the identity holds what lies there instead.
PLACES = ("path", "package", "hub", "revision", "data_dir", "hub_config")


def start_folder(run: Any) -> Path:
    """The finished run that `adapter.start_from` names, by its folder or by its id in runs_dir. Raises RequestError."""
    name = str(run.adapter.start_from)
    for folder in (Path(name).expanduser(), Path(run.runs_dir) / name):
        if (folder / "adapter").is_dir():
            return folder
    raise RequestError(f"adapter.start_from={name} is no finished run; give the folder of one, or its id in runs_dir")


def settings(run: Any) -> dict[str, Any]:
    """The run as plain values, as its record and `config.yaml` store it."""
    return {k: _plain(v) for k, v in asdict(run).items()}


def identity(run: Any) -> dict[str, Any]:
    """Everything that can change the result: the settings, with each place replaced by what lies there."""
    values = settings(run)
    for key in VOLATILE:
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        del node[last]
    if run.adapter.start_from is not None:
        values["adapter"]["start_from"] = fingerprint(Source("path", start_folder(run) / "adapter"))
    for key, before in LATER.items():
        group, name = key.split(".")
        if values[group][name] == before:
            del values[group][name]
    for group, source in (("model", run.model), ("task", run.task)):
        for key in PLACES:
            values[group].pop(key, None)
        values[group]["source"] = fingerprint(locate(group, source))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value
