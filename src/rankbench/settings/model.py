"""A backbone: where it comes from, and what of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rankbench.errors import RequestError
from rankbench.settings import names
from rankbench.settings.base import MISSING, added, require
from rankbench.settings.sources import fingerprint, hub_of, locate
from rankbench.system.files import expanded


@dataclass
class Model:
    """A backbone: from a local folder or GGUF file, an installed package, the hub, or random weights."""

    name: str = MISSING
    """The backbone, as folders, records and tables call it; your own weights by their folder or hub id."""
    preset: str | None = added(None)
    """The `model=` whose settings these are, where `path`, `package` or `hub` beside it brings other weights."""
    path: str | None = None
    """A folder in the hub's format, or a GGUF file; comes before `package` and `hub`."""
    package: str | None = None
    """An installed Python package that carries the model, and the place in it."""
    hub: str | None = None
    """A model of the Hugging Face hub."""
    revision: str | None = None
    """The commit of the hub's model."""
    sha256: str | None = added(None)
    """SHA-256 of the hub's model.safetensors at `revision`; an export over the same weights names the hub."""
    random: dict[str, Any] | None = None
    """An architecture as in a config.json, to be given random weights."""
    shape: dict[str, Any] | None = None
    """The architecture as in its config.json, so that `plan` can forecast before anything is downloaded."""
    found: str | None = added(None)
    """What `model=auto` found in the model's config.json; written by the run."""
    layers: int | None = added(None)
    """Keep the first so many layers alone: a cut model, to be fine-tuned by itself."""
    exits: list[int] | None = added(None)
    """The default of `adapter.exits`."""
    target_modules: list[str] = field(default_factory=list)
    """The default of `adapter.target_modules`."""
    learning_rate: float = 4e-4
    """The default of `train.learning_rate` for low-rank methods."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""

    def check(self) -> None:
        """Raises RequestError."""
        names.check("model.name", self.name)
        require(self.layers is None or self.layers >= 1, f"model.layers={self.layers} must be at least 1, or null")

    def use(self, words: Sequence[str]) -> None:
        """Take the weights that the command line gives in place of the preset's, and call them by their own name.

        `model.hub=` and `model.random=` come before the preset's package.
        """
        given = dict(word.lstrip("+").removeprefix("model.").partition("=")[::2] for word in words if "model." in word)
        own = next((key for key in ("path", "hub", "package") if key in given and getattr(self, key)), None)
        if own is None:
            if "random" in given and self.random and (self.package or self.hub):
                self.package = self.hub = self.revision = self.sha256 = None
                if "name" not in given:
                    self.preset, self.name = self.name, f"{self.name}_random"
            return
        theirs = dataclasses.replace(self, path=None) if own == "path" else None
        if own == "hub":
            self.package = self.random = self.shape = self.sha256 = None
        if "name" in given or (theirs and self.same_as(theirs)):
            return
        name = self.place_name()
        if _letters(name) != _letters(self.name):
            self.preset, self.name = self.name, name

    def place_name(self) -> str:
        """What its weights are called by where they lie: a folder's name, a hub id's last part, or a package's."""
        kind = next((key for key in ("path", "package", "hub") if getattr(self, key)), None)
        return "random" if kind is None else _name(kind, str(getattr(self, kind)))

    def same_as(self, preset: Model) -> bool:
        """Whether the weights are those of the preset, as far as can be told without a network."""
        try:
            here, there = locate("model", self), locate("model", preset)
        except RequestError:
            return False
        if there.kind == "hub":
            return hub_of(self, here) == (there.hub, there.revision)
        return there.kind == "package" and fingerprint(here) == fingerprint(there)


def _name(kind: str, place: str) -> str:
    """What weights are called: the last part of a hub id, the package, or the folder; of the hub's cache, its model."""
    kept = re.search(r"models--[^/]+?--([^/]+)/snapshots/", place)
    last = place.split("/")[0] if kind == "package" else expanded(place).absolute().name
    return names.made_good(kept[1] if kept else last.removesuffix(".gguf"), "model")


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
