"""A backbone: where it comes from, and what of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rankbench.settings.base import added, require


@dataclass
class Model:
    """A backbone: from a local folder or GGUF file, an installed package, the hub, or random weights."""

    name: str = MISSING
    """The backbone, as folders, records and tables call it."""
    path: str | None = None
    """A folder in the hub's format, or a GGUF file; comes before `package` and `hub`."""
    package: str | None = None
    """An installed Python package that carries the model, and the place in it."""
    hub: str | None = None
    """A model of the Hugging Face hub."""
    revision: str | None = None
    """The commit of the hub's model."""
    random: dict[str, Any] | None = None
    """An architecture as in a config.json, to be given random weights."""
    shape: dict[str, Any] | None = None
    """The architecture as in its config.json, so that `plan` can forecast before anything is downloaded."""
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
        require(self.layers is None or self.layers >= 1, f"model.layers={self.layers} must be at least 1, or null")
