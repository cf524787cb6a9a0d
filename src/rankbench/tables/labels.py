"""A name for each run of a table: its method, and as few of its settings as tell it from the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankbench.settings.compose import NEUTRAL
from rankbench.settings.identity import ONCE_SHARED, VOLATILE


def labels(
    records: list[dict[str, Any]], beside: list[dict[str, Any]] | None = None, alike: Sequence[str] = ()
) -> dict[str, str]:
    """A name for each run: its adapter, and as few of the settings that differ as tell the methods apart.

    Runs that differ in the seed alone share a name; task and model are named where there are several. What a run began
    from is looked for among these records and those `beside` them. Settings in `alike` tell no methods apart.
    """
    by_id = {record["run_id"]: record for record in [*(beside or []), *records]}
    flat = {r["run_id"]: _whole(r["config"]) | _content(r) | _start(r, by_id) | dict.fromkeys(alike) for r in records}
    shared = [key for key in ("task.name", "model.name") if len({config[key] for config in flat.values()}) > 1]
    by_adapter: dict[tuple[Any, ...], list[str]] = {}
    for run_id, config in flat.items():
        by_adapter.setdefault((*(config[key] for key in shared), config["adapter.name"]), []).append(run_id)
    named = {}
    for words, runs in by_adapter.items():
        keys = _telling({run: flat[run] for run in runs})
        for run in runs:
            settings = [_setting(key, flat[run].get(key)) for key in keys]
            named[run] = " ".join([*map(str, words), *settings])
    return named


SEARCH = "LoRA, one training a rank"
# What tells runs of one search apart, and no method.
OF_SEARCH = ("adapter.r", "evaluate.submodels", "evaluate.cuts")


def is_search(record: dict[str, Any]) -> bool:
    """Whether a run is one point of a search: a LoRA that measured its own rank alone."""
    adapter = record["config"]["adapter"]
    return adapter["name"] == "lora" and [row["rank"] for row in record.get("submodels") or []] == [adapter["r"]]


def of_search(label: str) -> str:
    """The name of the search that a LoRA of this name is of."""
    return " ".join([SEARCH, *label.split(" ")[1:]])


def columns(records: list[dict[str, Any]]) -> dict[str, str]:
    """As `labels`, but LoRAs of several ranks that each measured its own are one method, the search."""
    searched = [record for record in records if is_search(record)]
    if len({record["config"]["adapter"]["r"] for record in searched}) < 2:
        return labels(records)
    points = {run: of_search(name) for run, name in labels(searched, records, OF_SEARCH).items()}
    return labels([record for record in records if record["run_id"] not in points], records) | points


SHARED = ("r", "lora_alpha", "lora_dropout", "target_modules")  # of the methods' settings, what several have
_RESULT = ("train", "task", "model", "quantization")  # groups that can change a score, whatever the method


def legend(records: list[dict[str, Any]]) -> list[str]:
    """What the names of `labels` leave out: settings in which these methods differ, and unlike runs that share a name.

    A method's own settings tell it by its name; these are those that it shares with others, such as the learning rate.
    """
    names = columns(records)
    whole = {r["run_id"]: _whole(r["config"]) | _content(r) for r in records}
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(names[record["run_id"]], []).append(record)
    common = [key for key in next(iter(whole.values()), {}) if all(key in config for config in whole.values())]
    keys = [key for key in common if _tells(key) and len({str(config[key]) for config in whole.values()}) > 1]
    lines = []
    for name, runs in groups.items():
        config = whole[runs[0]["run_id"]]
        told = [key for key in keys if not (name.startswith(SEARCH) and key in OF_SEARCH)]
        left = [word for key in told if (word := _setting(key, config[key])) not in name.split()]
        if left and len(groups) > 1:
            lines.append(f"{name}: {', '.join(left)}.")
        for what, found in _unlike(runs).items():
            lines.append(f"{name} averages runs of unlike {what}: {', '.join(found)}.")
    return lines


def _tells(key: str) -> bool:
    group, _, name = key.partition(".")
    shared = group == "adapter" and name in SHARED
    return (shared or group in _RESULT) and key not in ("task.name", "model.name") and not _silent(key)


def _unlike(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Of runs that are averaged: precisions, kinds of device and versions of rankbench where there are several."""
    made = [run.get("environment") or {} for run in runs]
    seen = {
        "precision": {str(one["precision"]) for one in made if one.get("precision")},
        "device": {str(one["device"]).split(",")[0] for one in made if one.get("device")},
        "version of rankbench": {str(one["rankbench"]) for one in made if one.get("rankbench")},
    }
    return {what: sorted(values) for what, values in seen.items() if len(values) > 1}


def title(records: list[dict[str, Any]]) -> str:
    """What a picture of these records is of: tasks, models, and the number of scored examples."""
    tasks = sorted(
        {f"{r['config']['task']['name']} ({r['submodels'][0]['n']} examples)" for r in records if r["submodels"]}
    )
    return ", ".join([*tasks, *sorted({r["config"]["model"]["name"] for r in records})])


def _content(record: dict[str, Any]) -> dict[str, Any]:
    """What a run was trained and scored on, wherever it lay: runs on other data are not seeds of one method."""
    splits = (record.get("data") or {}).get("splits") or {}
    files = "".join(str(split.get("sha256")) for _, split in sorted(splits.items()))
    weights = (record.get("backbone") or {}).get("fingerprint")
    return {"task.data": hashlib.sha256(files.encode()).hexdigest()[:6] if files else None, "model.weights": weights}


def _start(record: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For a run that began from another one: how that was trained, rather than which one of its seeds it was."""
    body = by_id.get(Path(record["config"]["adapter"].get("start_from") or "").name)
    if body is None:
        return {}
    return {"adapter.start_from": "a run"} | {f"start.{key}": value for key, value in _whole(body["config"]).items()}


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """A run's settings by dotted keys; those that it lacks at the value that means what was before them."""
    shared = {f"{group}.{key}": value for group, once in ONCE_SHARED.items() for key, value in once.items()}
    return {key: _word(value) for key, value in (NEUTRAL | shared).items()} | _flatten(config)


def _word(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = _word(value)
    return flat


def _telling(configs: dict[str, dict[str, Any]]) -> list[str]:
    """The fewest keys, training settings given up first, that separate these runs as all keys but the seed do."""

    def groups(keys: list[str]) -> set[tuple[str, ...]]:
        found: dict[tuple[Any, ...], list[str]] = {}
        for run, config in configs.items():
            found.setdefault(tuple(config.get(key) for key in keys), []).append(run)
        return {tuple(runs) for runs in found.values()}

    every = {key for config in configs.values() for key in config if not _silent(key)}
    keys = sorted(key for key in every if len({config.get(key) for config in configs.values()}) > 1)
    target = groups(keys)
    for key in sorted(keys, key=lambda key: (not key.startswith("model."), not key.startswith("train."), key)):
        fewer = [other for other in keys if other != key]
        if groups(fewer) == target:
            keys = fewer
    return keys


def _silent(key: str) -> bool:
    key = key.removeprefix("start.")
    return key in ("seed", "task.data_dir", "model.path", "model.preset") or any(key == v or key.startswith(v + ".") for v in VOLATILE)


def _setting(key: str, value: Any) -> str:
    """`learning_rate=0.001`, but `frozen_grad`: a word tells by itself which setting it is of."""
    if isinstance(value, str) and value.isidentifier():
        return value
    return f"{key.split('.')[-1]}={value:g}" if isinstance(value, float) else f"{key.split('.')[-1]}={value}"
