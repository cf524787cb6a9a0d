"""The record a run leaves, and records read back as a tidy table."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.records import tested
from rankbench.system.files import expanded, walk

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("rankbench")

SCHEMA = 2
"""2: labels are matched by name whatever type a file gives them, and f1 is of one class throughout."""
COLUMNS = [
    "run_id",
    "task",
    "model",
    "adapter",
    "sampler",
    "quantization",
    "seed",
    "rank",
    "depth",
    "metric",
    "value",
    "n",
    "status",
    "train_seconds",
    "eval_seconds",
    "peak_memory_bytes",
    "trainable_parameters",
]


Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def places(path: Paths) -> list[Path]:
    """The given place or places as paths. Raises RequestError for what is none."""
    given: Any = path
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    return [expanded(place) for place in (given if several else [given])]


def read(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder, or None where there is none that can be read."""
    try:
        record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("status"), str) else None


def done(folder: Path) -> dict[str, Any] | None:
    """The record of a run that is done; None where there is none, and a word where what is there is no whole one."""
    found, file = read(folder), folder / "record.json"
    why = "it lacks a status" if found is None and file.exists() else None
    if found and found["status"] == "done":
        why = damage(found)
    if why:
        log.warning("%s is not a whole record (%s), so the run does not count as done", file, why)
    return found if found and found["status"] == "done" and not why else None


def affected(record: dict[str, Any]) -> str | None:
    """Why a record that an older rankbench made may hold a wrong score; None where nothing says so.

    Before schema 2 labels of own data were numbered file by file, and f1 was of class 1 or of all by what was seen.
    """
    if record.get("schema", SCHEMA) > 1 or record.get("status") != "done":
        return None
    names = (record.get("data") or {}).get("label_names") or []
    own = (record.get("config") or {}).get("task", {}).get("label_names") is None
    if own and len(names) > 1 and list(names) != ["0", "1"] and all(str(name).lstrip("-").isdigit() for name in names):
        return "its labels are numbers, which may have been taken for others"
    scores = [name for sub in record.get("submodels") or [] for name in sub.get("metrics") or {}]
    mixed = len(names) > 2 or (own and list(names) not in (["0", "1"], ["False", "True"]))
    if mixed and any(name == "f1" or name.startswith("f1_") for name in scores):
        return "its f1 was of one class or of all, by what was predicted"
    return None


@functools.cache
def warn(folder: Path, why: str) -> None:
    """Say once in a process that the record in a folder may be wrong, and how to redo it."""
    log.warning("%s was made by an older rankbench, and %s: run it again with fresh=true", folder, why)


def load_records(path: Paths) -> list[dict[str, Any]]:
    """Every record under the given folder or folders (or record files), sorted by run id.

    Raises RequestError when a path does not exist, a file is no record, or nothing is found.
    """
    return list(_records(path).values())


def records_by_folder(path: Paths) -> dict[Path, dict[str, Any]]:
    """As `load_records`, by the folder of each."""
    return {file.parent: record for file, record in _records(path).items()}


def load_runs(path: Paths, split: str = "validation") -> pd.DataFrame:
    """Records as a tidy table: one row per (run, sub-model, metric), columns `COLUMNS`.

    With `split="test"` the values and `n` are those of `task.test_splits`: to report what was chosen by the others,
    never to choose by. A run without test splits then has no measurements, and the seconds are those of validation.
    Sub-models that a run only cut out (`evaluate.cuts`) come after its own, as `lora+svd` in the column `adapter`.
    `value` is a share or a correlation, not percent; a run without measurements has one row with an empty metric.
    Ranks and depths are nullable integers. Raises RequestError as `load_records` does.
    """
    import pandas as pd

    if split not in ("validation", "test"):
        raise RequestError(f"split={split!r}: give 'validation', by which is chosen, or 'test', which is reported")
    rows = [row for record in _records(path).values() for row in _rows(record, split == "test")]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    whole = ("rank", "depth", "n", "peak_memory_bytes", "trainable_parameters")
    real = ("value", "train_seconds", "eval_seconds")
    return frame.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(real, "float64"))


def of_task(path: Paths, task: str) -> list[Path]:
    """The record files of one task's runs under the given folder or folders, sorted by run id.

    Raises RequestError as `load_records` does, and when there is no run of that task.
    """
    names = {file: str(record["config"]["task"]["name"]) for file, record in _records(path).items()}
    found = [file for file, name in names.items() if name == task]
    if not found:
        raise RequestError(
            f"none of these runs is of task {task}; they are of {', '.join(sorted(set(names.values())))}"
        )
    return found


def damage(record: dict[str, Any]) -> str | None:
    """What a record lacks of its parts; None for a whole one."""
    try:
        parts = [record[key] for key in ("run_id", "status", "schema")]
        list(_rows(record, False))
    except (KeyError, TypeError, AttributeError) as error:
        return repr(error)
    if record["status"] == "done" and not record.get("submodels"):
        return "it has no sub-models"
    whole = all(isinstance(part, kind) for part, kind in zip(parts, (str, str, int), strict=True))
    return None if whole else "its run_id, status or schema is of another type"


def _records(path: Paths) -> dict[Path, dict[str, Any]]:
    """File -> record, sorted by run id; of copies of one run the newest done one counts, else the newest."""
    given = places(path)
    files: set[Path] = set()
    for place in given:
        if not place.exists():
            raise RequestError(f"{place} does not exist; give a runs folder, a run's folder or a record.json")
        files |= {place} if place.is_file() else set(_files(place))
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file, record in sorted(((file, _whole(file)) for file in files), key=_weight):
        found[record["run_id"]] = file, record
    for file, record in found.values():
        if why := affected(record):
            warn(file.parent, why)
    if not found:
        raise RequestError(f"no record.json under {', '.join(map(str, given))}; give the folder that holds the runs")
    return dict(found[key] for key in sorted(found))


def _files(place: Path) -> Iterable[Path]:
    for folder, inside, files in walk(place):
        if "record.json" in (*inside, *files):
            yield folder / "record.json"


def _weight(found: tuple[Path, dict[str, Any]]) -> tuple[bool, int, Path]:
    file, record = found
    return record["status"] == "done", file.stat().st_mtime_ns, file


def _whole(file: Path) -> dict[str, Any]:
    """The record in a file. Raises RequestError where it is none."""
    mend = "remove it or run that run again"
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{file} is not a record ({why}); {mend}") from error
    if isinstance(record, dict) and isinstance(record.get("schema"), int) and record["schema"] > SCHEMA:
        raise RequestError(f"{file} was written by a newer rankbench (schema {record['schema']}); update")
    if why := damage(record):
        raise RequestError(f"{file} is not a whole record ({why}); {mend}")
    return record


def _rows(record: dict[str, Any], test: bool) -> Iterable[list[Any]]:
    config, training = record["config"], record.get("training") or {}
    group = [config[key]["name"] for key in ("task", "model", "adapter", "sampler", "quantization")]
    common = [record["run_id"], *group, config["seed"]]
    train_seconds, memory = training.get("seconds"), training.get("peak_memory_bytes")
    submodels = [*(record.get("submodels") or []), *(record.get("cuts") or [])]
    submodels = [sub for sub in submodels if not test or sub.get("test")]
    for sub in submodels:
        cut = [f"{config['adapter']['name']}+{sub['cut']}"] if "cut" in sub else []
        for metric, value in sub["test" if test else "metrics"].items():
            n = tested.rows(record, metric, sub["test_n"]) if test else _rows_behind(record, metric, sub["n"])
            yield [
                *(*common[:3], *cut, *common[3 + len(cut) :]),
                *(sub["rank"], sub["depth"], metric, value, n, record["status"]),
                *(train_seconds, sub["eval_seconds"], memory, sub["parameters"]["trainable"]),
            ]
    if not submodels:
        yield [*common, None, None, None, None, None, record["status"], train_seconds, None, memory, None]


def _rows_behind(record: dict[str, Any], metric: str, n: int) -> int:
    """Rows that a metric was computed on: those of its split where several are kept apart."""
    for name, split in (record.get("data") or {}).get("splits", {}).items():
        if name.startswith("validation_") and metric.endswith(f"_{name.removeprefix('validation_')}"):
            return int(split["rows"])
    return n
