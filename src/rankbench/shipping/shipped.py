"""An export read back: a note beside it says what stock files cannot, so that rankbench predicts with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.records.finished import Finished, check_whole, exit_of, finished, of_settings, refuse_rank
from rankbench.settings.sources import Source, fingerprint
from rankbench.shipping.finished_adapter import refuse_untrained
from rankbench.system.files import write_atomic

if TYPE_CHECKING:
    from rankbench.shipping.base import Base
    from rankbench.shipping.card_code import Made

CONFIG, NOTE = "adapter_config.json", "rankbench.json"
SCHEMA = 1
FACTS = {"environment": ("precision", "device"), "backbone": (), "contents": ("model",), "data": ("label_names",)}
GROUPS = ("model", "task", "quantization")
BARE: dict[str, Any] = {  # settings that no prediction depends on
    "adapter": {"name": "lora"},
    "sampler": {"name": "fixed"},
    "log": {"name": "none"},
}


@dataclass(frozen=True)
class Shipped(Finished):
    """One rank or depth of a run as `export` wrote it, with as much of the run's record as its note kept.

    `layers` is what a base has to be cut to, None for all.
    """

    form: str = "adapter"
    rank: int | None = None
    depth: int | None = None
    layers: int | None = None

    @property
    def adapter(self) -> Path:
        """The folder of the weights: the export itself."""
        return self.folder

    @property
    def whole(self) -> bool:
        """Whether it is a whole model."""
        return self.form != "adapter"

    @property
    def factorised(self) -> bool:
        """Never: factors were multiplied out."""
        return False

    @property
    def early(self) -> bool:
        """Never: an exit's head is the model's."""
        return False

    def elsewhere(self) -> Iterator[Path]:
        """Where the adapter's config says that the base lies, if that is here: a base that moved is named there."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            place = Path(json.loads((self.folder / CONFIG).read_text())["base_model_name_or_path"])
            if place.is_dir():
                yield from sorted(place.glob("*.gguf")) or [place]

    def refuse_other(self, rank: int | None, depth: int | None) -> None:
        """Refuse another rank or depth than the one that it is. Raises RequestError."""
        for name, asked, own in (("rank", rank, self.rank), ("depth", depth, self.depth)):
            check_whole(name, asked)
            if asked not in (None, own):
                has = f"is {name} {own} alone" if own else f"has no {name}s to choose"
                raise RequestError(
                    f"{self.folder} {has}; leave out --{name}, or give the folder of the run {self.record['run_id']}"
                )


def opened(folder: Path, trust_remote_code: bool = False) -> Finished:
    """The finished run, or the export of one, in a folder.

    Code that came with an export's model runs only where `trust_remote_code` says so; a run has its own setting.
    Raises RequestError as `finished` does.
    """
    if folder.is_dir() and not (folder / "record.json").exists():
        if (folder / NOTE).is_file() and folder.name == "adapter" and (folder.parent / "record.json").is_file():
            raise RequestError(f"{folder} is the part of a run that holds its weights; give the run, {folder.parent}")
        if (folder / NOTE).is_file():
            return _shipped(folder, trust_remote_code)
        if any((folder / name).is_file() for name in (CONFIG, "config.json")):
            raise RequestError(
                f"{folder} has no {NOTE}, which says how its texts are read: export it again, or give its run"
            )
    return finished(folder)


def refuse_lacking(found: Finished, rank: int | None, depth: int | None) -> None:
    """Refuse a rank or a depth that is not there, before anything heavy is loaded. Raises RequestError."""
    if isinstance(found, Shipped):
        found.refuse_other(rank, depth)
        return
    exit_of(found, depth)
    refuse_rank(found, rank)
    if not found.sized:
        refuse_untrained(found, rank)


def write_note(found: Finished, made: Made, folder: Path) -> None:
    """Leave in the folder of an export what predicting needs to know of its run."""
    record, exits = found.record, found.note.get("exits")
    facts = {name: record.get(name) or {} for name in FACTS}
    kept = {
        name: {key: facts[name][key] for key in keys or facts[name] if key in facts[name]}
        for name, keys in FACTS.items()
    }
    kept["data"]["label_names"] = found.label_names
    config = {group: record["config"][group] for group in GROUPS}
    config |= {"seed": found.run.seed, "train": {"eval_batch_size": found.run.train.eval_batch_size}}
    if made.base.portable:
        config, kept = _portable(config, kept, made.base)
    note = {
        "export": SCHEMA,
        "run_id": record["run_id"],
        "form": made.form,
        "rank": made.rank,
        "depth": made.depth or (exits[-1] if exits else None),
        "layers": made.depth,
        "method": found.note["method"],
        **kept,
        "config": config,
    }
    write_atomic(folder / NOTE, json.dumps(note, indent=1, ensure_ascii=False) + "\n")


def _portable(config: dict[str, Any], kept: dict[str, Any], base: Base) -> tuple[dict[str, Any], dict[str, Any]]:
    """The note's settings and facts with the hub's id for the backbone, or no more than the name of its folder."""
    model, task, backbone = config["model"], config["task"], kept["backbone"]
    if base.revision:
        theirs = {"path": None, "package": None, "random": None, "sha256": None}
        model = model | theirs | {"hub": base.name, "revision": base.revision}
        kept = kept | {"backbone": _of_hub(base), "contents": {}}
    elif model.get("path"):
        model = model | {"path": Path(model["path"]).name}
        kept = kept | {"backbone": backbone | {"location": Path(str(backbone.get("location"))).name}}
    if task.get("data_dir"):
        task = task | {"data_dir": Path(task["data_dir"]).name}
    return config | {"model": model, "task": task}, kept


def _of_hub(base: Base) -> dict[str, Any]:
    """What a record says of a backbone that a run fetched from the hub."""
    source = Source("hub", hub=base.name, revision=base.revision)
    facts = {"source": "hub", "location": base.name, "revision": base.revision}
    return facts | {"fingerprint": fingerprint(source)}


def _shipped(folder: Path, trust_remote_code: bool) -> Shipped:
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if note["export"] > SCHEMA:
            raise RequestError(f"{folder} was written by a newer rankbench; update")
        record = {key: note[key] for key in ("run_id", *FACTS)}
        run = of_settings(folder, {"config": BARE | note["config"], **record})
        run = dataclasses.replace(run, model=dataclasses.replace(run.model, trust_remote_code=trust_remote_code))
        if not isinstance(record["environment"]["precision"], str):
            raise KeyError("precision")
        what = {key: note[key] for key in ("form", "rank", "depth", "layers")}
        return Shipped(folder, record, run, {"method": note["method"]}, **what)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{folder / NOTE} is damaged ({error!r}); export it again from its run") from error


def mended(error: RequestError) -> RequestError:
    """What is wrong with the files of an export, with the mend that an export has."""
    said = str(error)
    for again in ("run the same command again with fresh=true", "run it again with fresh=true"):
        said = said.replace(again, "export it again from its run")
    return RequestError(said)
