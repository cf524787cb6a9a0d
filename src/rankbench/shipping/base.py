"""The backbone under a finished run: whether it is still what the run trained on, and how stock code finds it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.records.finished import Finished
from rankbench.settings import contents
from rankbench.settings.model import Model
from rankbench.settings.sources import Source, fingerprint, hub_of, locate
from rankbench.shipping.shipped import CONFIG, Shipped
from rankbench.system.files import expanded

log = logging.getLogger("rankbench")


@dataclass(frozen=True)
class Base:
    """What transformers loads the backbone by: a folder or hub id, None for random weights that lie nowhere.

    Of its layers the first `layers`, where that is given. `here` is a folder that holds the hub's files. Where it is
    `portable` an export over it is for other machines, and names no folder of this one.
    """

    name: str | None
    revision: str | None = None
    here: str | None = None
    gguf_file: str | None = None
    layers: int | None = None
    portable: bool = False


def same_backbone(found: Finished) -> Model:
    """The backbone's settings, once its source is seen to hold what the run trained on.

    Raises RequestError where other weights lie there now, or none.
    """
    model = kept_backbone(found)
    if model is None:
        try:
            source = locate("model", found.model)
        except RequestError as error:
            moved = ""
            if isinstance(found, Shipped):
                moved = f"; or write where it lies now into {found.folder / CONFIG}, as base_model_name_or_path"
            raise RequestError(
                f"the backbone of {found.folder} is not where the run found it: {error}{moved}"
            ) from error
        raise RequestError(f"{source.path} holds no weights any more; put back those that {found.folder} trained on")
    return model


def kept_backbone(found: Finished) -> Model | None:
    """The backbone's settings, at a place that holds what the run trained on; None where there are no weights any more.

    Raises RequestError where other weights lie there now. A relative path is looked up from here, then from where the
    run was started.
    """
    before = _origin(found).get("fingerprint")
    others = []
    for model in _places(found):
        try:
            source = locate("model", model)
        except RequestError:
            continue
        if not _has_weights(source):
            continue
        now = fingerprint(source)
        if before in (None, now) and not _changed(found, source):
            return model
        others.append((model.path or model.package or model.hub, now))
    if others:
        place, now = others[0]
        raise RequestError(
            f"{place} holds another model than the one that {found.folder} trained on ({_other(now, before)}); put "
            "that one back"
        )
    return None


def base_of(found: Finished, layers: int | None = None) -> Base:
    """How stock code finds the backbone that the run trained on, or its first layers.

    Raises RequestError where other weights lie there now and the export needs them; where there are none, nothing can
    be compared, and a warning says so.
    """
    return dataclasses.replace(_base_of(found), layers=layers or found.model.layers)


def _base_of(found: Finished) -> Base:
    origin = _origin(found)
    kind = origin.get("source")
    if kind == "random":
        return Base(None)
    if kind == "hub":
        return Base(found.model.hub, found.model.revision)
    model = None
    try:
        model = kept_backbone(found)
        if model is None and not origin.get("hub"):
            log.warning(
                "the backbone's weights are not here any more, so it is not checked that they are those of the run; "
                "the export names the place where the run found them"
            )
    except RequestError as error:
        if not found.whole:
            raise
        log.warning("%s; the export has all its weights and names that place as its base all the same", error)
    if model is None:
        return Base(origin["hub"], origin["revision"]) if origin.get("hub") else Base(_name(found))
    source = locate("model", model)
    assert source.path is not None
    path = source.path.absolute()
    if known := hub_of(found.run.model, source):
        return Base(*known, here=str(path))
    return Base(str(path.parent), gguf_file=path.name) if path.suffix == ".gguf" else Base(str(path))


def _name(found: Finished) -> str:
    """The place where the run found its backbone."""
    last = list(_places(found))[-1]
    return str(expanded(last.path).absolute()) if last.path else str(last.package)


def _origin(found: Finished) -> dict[str, Any]:
    return found.record.get("backbone") or {}


def _places(found: Finished) -> Iterator[Model]:
    """The backbone's settings as the run had them, and with the folder that its relative path meant then."""
    yield found.model
    location = str(_origin(found).get("location"))
    given = found.model.path
    if given and not expanded(given).is_absolute() and Path(location).is_absolute():
        yield dataclasses.replace(found.model, path=location)
    for place in found.elsewhere() if isinstance(found, Shipped) else ():
        yield dataclasses.replace(found.model, path=str(place))


def _changed(found: Finished, source: Source) -> list[str]:
    """The files of the backbone whose content is another than the run read, as far as its record has their sums."""
    before = (found.record.get("contents") or {}).get("model")
    if not before:
        return []
    runs = None if isinstance(found, Shipped) else found.folder.parent
    return contents.changed({"model": before}, {"model": contents.of_source(source, runs)})


def _other(now: str, before: str | None) -> str:
    return (
        "of the same fingerprint, but not of the same SHA-256" if now == before else f"fingerprint {now}, then {before}"
    )


def _has_weights(source: Source) -> bool:
    path = source.path
    return path is None or path.is_file() or any(file.is_file() for file in path.glob("*.safetensors"))
