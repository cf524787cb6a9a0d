"""A finished run read back: its record, its settings, and what adapter/ says of its ranks."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.records import record as records
from rankbench.settings.model import Model
from rankbench.settings.run import Run


@dataclass(frozen=True)
class Finished:
    """A done run: its folder, its record, its settings, and what adapter/rankbench.json says of its ranks."""

    folder: Path
    record: dict[str, Any]
    run: Run
    note: dict[str, Any]

    @property
    def adapter(self) -> Path:
        """The folder of the trained weights."""
        return self.folder / "adapter"

    @property
    def whole(self) -> bool:
        """Whether adapter/ is a whole model or early exits' heads, which have no ranks."""
        return "r" not in self.note

    @property
    def sized(self) -> bool:
        """Whether there is one size and so no rank to choose: a whole model, or a LoRA cut to a rank for each layer."""
        return self.whole or "ranks" in self.note

    @property
    def factorised(self) -> bool:
        """Whether adapter/ is a whole model with factors for some of its weights."""
        return self.note["method"] == "flop"

    @property
    def early(self) -> bool:
        """Whether adapter/ holds a head for each exit, over a body that is elsewhere."""
        return self.note["method"] == "early_exit"

    @property
    def model(self) -> Model:
        """The backbone's settings, held to the kind of source that it trained on."""
        kind = (self.record.get("backbone") or {}).get("source")
        if kind in ("hub", "random"):
            return dataclasses.replace(self.run.model, package=None)
        return dataclasses.replace(self.run.model, hub=None) if kind == "package" else self.run.model

    @property
    def label_names(self) -> list[str] | None:
        """The classes in the order of their numbers; None for other tasks."""
        return (self.record.get("data") or {}).get("label_names") or self.run.task.label_names

    def with_data(self, data_dir: str | None) -> Finished:
        """The same run, its task's data in this folder, if one is given."""
        if data_dir is None:
            return self
        task = dataclasses.replace(self.run.task, data_dir=data_dir)
        return dataclasses.replace(self, run=dataclasses.replace(self.run, task=task))


def finished(folder: Path) -> Finished:
    """The done run in a folder.

    Raises RequestError when it is not there, not done or not whole, or its method is not installed.
    """
    record, note = kept(folder)
    return Finished(folder, record, of_settings(folder, record), note)


def kept(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of the done run in a folder, and what adapter/rankbench.json says, whatever method it was of.

    Raises RequestError when it is not there, not done or not whole.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder; give the folder of a finished run, such as runs/<run_id>")
    record = records.read(folder)
    if record is None:
        if (folder / "record.json").exists():
            raise RequestError(f"{folder / 'record.json'} is not a record; run that run again")
        inside = sorted(file.parent.name for file in folder.glob("*/record.json"))[:3]
        hint = f"give one of the runs in it, such as {inside[0]}" if inside else "the run is not finished; run it again"
        raise RequestError(f"{folder} holds no record.json; {hint}")
    if record["status"] != "done":
        raise RequestError(f"{folder} is not done (status {record['status']}); run the same command again")
    try:
        if record["schema"] > records.SCHEMA:
            raise RequestError(f"{folder} was written by a newer rankbench (schema {record['schema']}); update")
        note = json.loads((folder / "adapter" / "rankbench.json").read_text())
        parts: list[tuple[Any, tuple[str, ...]]]
        parts = [(record, ("run_id", "environment")), (record["environment"], ("precision", "device"))]
        parts += [(sub, ("rank", "metrics", "n", "parameters")) for sub in record["submodels"]]
        parts += [(note, ("method",)), (note, ("trained_ranks", "scale") if "r" in note else ())]
        parts += [(note, ("trained_exits",) if "exits" in note else ())]
        if why := records.affected(record):
            records.warn(folder, why)
        lacking = [key for part, keys in parts for key in keys if key not in part]
        if lacking:
            raise KeyError(lacking[0])
    except FileNotFoundError as error:
        raise RequestError(
            f"{folder} lacks adapter/ or the rankbench.json in it; run it again with fresh=true"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{folder} is not a whole run ({error!r}); run it again with fresh=true") from error
    return record, note


def of_settings(folder: Path, record: dict[str, Any]) -> Run:
    """The run of a record; settings that came after it are neutral."""
    from omegaconf.errors import OmegaConfBaseException

    from rankbench.settings.compose import of_record

    try:
        return of_record(record["config"])
    except OmegaConfBaseException as error:
        version = (record.get("environment") or {}).get("rankbench")
        key = getattr(error, "full_key", None) or "its config"
        raise RequestError(
            f"{folder}: this rankbench does not know the setting {key}; use the one that made the run ({version})"
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{folder} is not a whole run ({error!r}); run it again with fresh=true") from error


def exit_of(found: Finished, depth: int | None) -> int | None:
    """The asked depth, None for the whole. Raises RequestError where the run did not train that exit."""
    check_whole("depth", depth)
    if depth is None:
        return None
    if "exits" not in found.note:
        raise RequestError(f"{found.folder} has no exits ({found.note['method']}); leave out --depth")
    if depth not in found.note["trained_exits"]:
        raise RequestError(
            f"depth {depth} is none that this run trained ({', '.join(map(str, found.note['trained_exits']))}); "
            "choose one of them"
        )
    return None if depth == found.note["exits"][-1] else depth


def check_whole(name: str, number: object) -> None:
    """Refuse a rank or a depth of Python's that is no whole number, as 2.0 and True are none. Raises RequestError."""
    if number is not None and (isinstance(number, bool) or not isinstance(number, Integral)):
        raise RequestError(f"{name}={number!r} is no whole number; give {name}=4, say, or None for the largest")


def refuse_rank(found: Finished, rank: int | None, way: str = "") -> None:
    """Refuse a rank, or the option that is a way to cut to one, of a run that has none. Raises RequestError."""
    check_whole("rank", rank)
    if found.sized and (rank is not None or way):
        why = "has no low-rank factors" if "ranks" not in found.note else "gave each layer a rank of its own"
        raise RequestError(
            f"{found.folder} {why} (adapter={found.note['method']}), so no ranks; leave out "
            f"{'--rank' if rank is not None else way}"
        )


def ranks_in_words(ranks: list[int]) -> str:
    """`1 to 8` where none is missing, else all of them."""
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]} to {ranks[-1]}"
    return ", ".join(map(str, ranks))
