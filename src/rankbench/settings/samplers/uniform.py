"""One sub-model a step, every one alike (DyLoRA's default; SortedNet over exits)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankbench.settings.samplers.base import OverExits, PerRow


@dataclass
class Uniform(OverExits, PerRow):
    """Every sub-model alike."""

    implementation: ClassVar[str] = "rankbench.training.samplers:one"
    one_rank: ClassVar[bool] = True
