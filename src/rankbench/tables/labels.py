"""A name for each run of a table: its method, and as few of its settings as tell it from the others."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from rankbench.records import tested
from rankbench.settings.identity import ONCE_SHARED, PLACES, VOLATILE
from rankbench.settings.kinds import KINDS, NEUTRAL
from rankbench.tables.shown import Shown


def labels(
    records: list[dict[str, Any]],
    beside: list[dict[str, Any]] | None = None,
    alike: Sequence[str] = (),
    method: str | None = None,
) -> dict[str, str]:
    """A name for each run: its adapter, and as few of the settings that differ as tell the methods apart.

    Runs that differ in the seed alone share a name; task and model are named where there are several. What a run began
    from is looked for among these records and those `beside` them. Settings in `alike` tell no methods apart. `method`
    stands in the adapter's place.
    """
    by_id = {record["run_id"]: record for record in [*(beside or []), *records]}
    content = _contents(records)
    flat = {r["run_id"]: _whole(r) | content[r["run_id"]] | _start(r, by_id) | dict.fromkeys(alike) for r in records}
    shared = [key for key in ("task.name", "model.name") if len({config[key] for config in flat.values()}) > 1]
    by_adapter: dict[tuple[Any, ...], list[str]] = {}
    for run_id, config in flat.items():
        by_adapter.setdefault((*(config[key] for key in shared), config["adapter.name"]), []).append(run_id)
    named = {}
    for words, runs in by_adapter.items():
        keys = _telling({run: flat[run] for run in runs})
        for run in runs:
            settings = [_setting(key, flat[run][key]) for key in keys if flat[run].get(key) is not None]
            named[run] = " ".join([*map(str, words[:-1]), method or str(words[-1]), *settings])
    return named


SEARCH = "LoRA, one training a rank"
# What tells runs of one search apart, and no method.
OF_SEARCH = ("adapter.r", "evaluate.submodels", "evaluate.cuts")


def is_search(record: dict[str, Any]) -> bool:
    """Whether a run is one point of a search: a LoRA that measured its own rank alone."""
    adapter = record["config"]["adapter"]
    return adapter["name"] == "lora" and [row["rank"] for row in record.get("submodels") or []] == [adapter["r"]]


def of_search(
    records: list[dict[str, Any]],
    beside: list[dict[str, Any]],
    alike: Sequence[str] = (),
    points: list[dict[str, Any]] | None = None,
) -> dict[str, str]:
    """The name of the search that each of these LoRAs is of, or would be of.

    Where alpha follows the rank in all `points` of searches (these records, by default), their scaling alpha/r, PEFT's
    term, tells searches apart in its place.
    """
    scales = [_scale(record) for record in (records if points is None else points)]
    if len({alpha for alpha, _ in scales}) > 1 and len({scaling for _, scaling in scales}) == 1:
        records = [_with(record, lora_alpha=None, scaling=_scale(record)[1]) for record in records]
    return labels(records, beside, (*OF_SEARCH, *alike), SEARCH)


def _scale(record: dict[str, Any]) -> tuple[float | None, float | None]:
    """alpha and alpha/r."""
    adapter = record["config"]["adapter"]
    alpha, rank = adapter.get("lora_alpha"), adapter.get("r")
    return alpha, round(alpha / rank, 9) if alpha and rank else None


def _with(record: dict[str, Any], **of_adapter: Any) -> dict[str, Any]:
    return record | {"config": record["config"] | {"adapter": record["config"]["adapter"] | of_adapter}}


def columns(records: list[dict[str, Any]]) -> dict[str, str]:
    """As `labels`, but LoRAs of several ranks that each measured its own are one method, the search."""
    searched = [record for record in records if is_search(record)]
    if len({record["config"]["adapter"]["r"] for record in searched}) < 2:
        return labels(records)
    points = of_search(searched, records)
    return labels([record for record in records if record["run_id"] not in points], records) | points


# What says where something lies, of which `_contents` says what it was, and defaults of settings that tell themselves.
_SILENT = {
    "seed",
    "task.metrics",
    "task.test_splits",
    "model.preset",
    "model.learning_rate",
    "model.target_modules",
} | {f"{group}.{place}" for group in ("model", "task") for place in PLACES}
ELSEWHERE = _SILENT - {"model.preset"}  # settings of which a run's name, its data or its other settings tell
SHARED = ("r", "lora_alpha", "lora_dropout", "target_modules")  # of the methods' settings, what several have
_RESULT = (
    "train",
    "task",
    "model",
    "quantization",
    "arithmetic",
    "generation",
)  # groups of any method that change its score


def legend(records: list[dict[str, Any]], shown: Shown | None = None) -> list[str]:
    """What the names of `labels` leave out: settings in which these methods differ, and unlike runs that share a name.

    A method's own settings tell it by its name; these are those that it shares with others, such as the learning rate.
    Methods are held against those on the same task and model, shown by the same metric.
    """
    content = _contents(records)
    whole = {r["run_id"]: _whole(r) | content[r["run_id"]] for r in records}
    apart: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        place = record["config"]["task"]["name"], record["config"]["model"]["name"]
        apart.setdefault((*place, (shown or {}).get(record["run_id"], "")), []).append(record)
    often = Counter(place[:2] for place in apart)
    apart = {place if often[place[:2]] > 1 else place[:2]: runs for place, runs in apart.items()}
    found = {", ".join(place): list(_differing(runs, whole)) for place, runs in apart.items()}
    return [f"{place}: {line}" if len(apart) > 1 else line for place, lines in found.items() for line in lines]


def _differing(records: list[dict[str, Any]], whole: dict[str, dict[str, Any]]) -> Iterator[str]:
    names = columns(records)
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(names[record["run_id"]], []).append(record)
    configs = [whole[record["run_id"]] for record in records]
    apart = [whole[run["run_id"]] for name, runs in groups.items() if SEARCH not in name for run in runs]
    common = [key for key in configs[0] if all(key in config for config in configs)]
    differ = {key: len({str(one[key]) for one in (apart if key in OF_SEARCH else configs)}) > 1 for key in common}
    keys = [key for key in common if differ[key] and _tells(key)]
    for name, runs in groups.items():
        config = whole[runs[0]["run_id"]]
        silent = OF_SEARCH if SEARCH in name else () if config["adapter.r"] else ("adapter.r",)
        if SEARCH in name and len({str(whole[run["run_id"]].get("adapter.lora_alpha")) for run in runs}) > 1:
            silent = (*silent, "adapter.lora_alpha")  # which follows the rank
        told = [key for key in keys if key not in silent]
        left = [_pair(key, config[key]) for key in told if _setting(key, config[key]) not in name.split()]
        if left and len(groups) > 1:
            yield f"{name}: {', '.join(left)}."
        for what, found in _unlike(runs).items():
            yield f"{name} averages runs of unlike {what}: {', '.join(found)}."
    if "task.data" in keys:
        for data, run in {whole[record["run_id"]]["task.data"]: record for record in records}.items():
            splits = ((run.get("data") or {}).get("splits") or {}).values()
            yield f"data={data}: {', '.join(map(_rows, splits))}."


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


def _rows(split: dict[str, Any]) -> str:
    return f"{split['file']} of {split['rows']:,} rows"


def _contents(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each run was trained and scored on, wherever it lay: runs on other data are not seeds of one method.

    Each is called by where it lay, and by its digest too where other content lay in a place of that name.
    """
    data, weights = {}, {}
    for record in records:
        of, body = record.get("data") or {}, record.get("backbone") or {}
        seen = [split for name, split in sorted((of.get("splits") or {}).items()) if name not in tested.splits(record)]
        files = "".join(str(split.get("sha256")) for split in seen)
        data[record["run_id"]] = of.get("location"), hashlib.sha256(files.encode()).hexdigest() if files else None
        template = (record.get("sources") or {}).get("chat_template", "")
        digest = template + (body.get("fingerprint") or "")
        weights[record["run_id"]] = body.get("location") or body.get("source"), digest or None
    called, bodies = _called(data), _called(weights)
    return {run: {"task.data": called[run], "model.weights": bodies[run]} for run in data}


def _called(found: dict[str, tuple[str | None, str | None]]) -> dict[str, str | None]:
    """A name for each content, given (place, digest): equal for equal content alone."""
    place = {digest: Path(where or "").name or "here" for where, digest in sorted(found.values(), key=str)}
    often = Counter(name for digest, name in place.items() if digest)
    names = {d: name if often[name] == 1 else f"{name}@{d[:6]}" for d, name in place.items() if d}
    return {run: names[digest] if digest else None for run, (_, digest) in found.items()}


def training(record: dict[str, Any]) -> str:
    """What a run's weights were trained by: equal for runs of one method whose ranks, cuts or metrics alone differ."""
    whole = _whole(record)
    measures = ("evaluate.cuts", "evaluate.baselines") if "train.judge" in whole else ("evaluate.",)
    kept = {key: value for key, value in whole.items() if not key.startswith(measures)}
    kept = {key: value for key, value in kept.items() if not _silent(key) or key == "seed"}
    splits, sources = (record.get("data") or {}).get("splits") or {}, record.get("sources") or {}
    of = [split.get("sha256") for name, split in sorted(splits.items()) if name not in tested.splits(record)]
    of += [(record.get("backbone") or {}).get("fingerprint"), sources.get("chat_template"), sources.get("start")]
    return json.dumps([kept, of], sort_keys=True, default=str)


def _start(record: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For a run that began from another one: how that was trained, rather than which one of its seeds it was."""
    body = by_id.get(Path(record["config"]["adapter"].get("start_from") or "").name)
    if body is None:
        return {}
    return {"adapter.start_from": "a run"} | {f"start.{key}": value for key, value in _whole(body).items()}


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    """A run's settings by dotted keys; those that it lacks at the value that means what was before them.

    An architecture for random weights is one of them where the run drew such weights.
    """
    config = record["config"]
    if (record.get("backbone") or {}).get("source", "random") != "random":
        config = config | {"model": config["model"] | {"random": None}}
    shared = {f"{group}.{key}": value for group, once in ONCE_SHARED.items() for key, value in once.items()}
    whole = _flatten(NEUTRAL | shared) | _flatten(config)
    if whole["train.keep"] == "last" and whole["train.patience"] is None:
        whole.pop("train.eval_steps", None)  # looking on changes nothing
    else:
        whole["train.judge"] = next(iter(config["task"].get("metrics") or ()), None)
    if whole.get("train.max_steps") is not None:
        whole.pop("train.epochs", None)  # it is of no account
    if whole.get("train.warmup_steps") is not None:
        whole.pop("train.warmup_ratio", None)
    if whole.get("arithmetic.name") == "float":  # of whose settings it has none
        whole = {k: value for k, value in whole.items() if k == "arithmetic.name" or not k.startswith("arithmetic.")}
    return whole


def _word(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, separators=(",", ":")) if value else None  # no entry is no setting
    return json.dumps(value) if isinstance(value, list) else value


OF_WORDS = ("class_weights", "groups")  # settings whose keys are the data's words


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key.rpartition(".")[2] not in OF_WORDS:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = _word(value)
    return flat


GIVEN_UP = ("model", "train", "evaluate")  # first


def _telling(configs: dict[str, dict[str, Any]]) -> list[str]:
    """The fewest keys that separate these runs as all keys but the seed do.

    Those of the model are given up first, then of training and of measuring: a method is called by its own settings.
    """

    def groups(keys: list[str]) -> set[tuple[str, ...]]:
        found: dict[tuple[Any, ...], list[str]] = {}
        for run, config in configs.items():
            found.setdefault(tuple(config.get(key) for key in keys), []).append(run)
        return {tuple(runs) for runs in found.values()}

    every = {key for config in configs.values() for key in config if not _silent(key)}
    keys = sorted(key for key in every if len({config.get(key) for config in configs.values()}) > 1)
    target = groups(keys)
    for key in sorted(keys, key=lambda key: (*(not key.startswith(f"{first}.") for first in GIVEN_UP), key)):
        fewer = [other for other in keys if other != key]
        if groups(fewer) == target:
            keys = fewer
    return keys


@functools.cache
def _silent(key: str) -> bool:
    key = key.removeprefix("start.")
    return key in _SILENT or any(key == v or key.startswith(v + ".") for v in VOLATILE if v != "train.eval_steps")


_CHOICES = {"sampler.name", "quantization.name", "generation.name", "arithmetic.name"} | {
    f"{group}.{one.name}"
    for group, kinds in KINDS.items()
    for kind in kinds.values()
    for one in fields(kind)
    if isinstance(one.default, Enum)
}  # whose values are words that tell by themselves which setting they are of


def _setting(key: str, value: Any) -> str:
    """`learning_rate=0.001`, but `frozen_grad`: one of a method's few words tells by itself which setting it is of."""
    return str(value) if key.removeprefix("start.") in _CHOICES else _pair(key, value)


def _pair(key: str, value: Any) -> str:
    """`learning_rate=0.001`, `quantization=nf4`."""
    *groups, last = key.split(".")
    name = groups[-1] if last == "name" and groups else last
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
