"""Every sub-model in every step, losses averaged (nested dropout, DyLoRA Table 7; SoFT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankbench.settings.samplers.base import OverExits, OverRanks


@dataclass
class All(OverExits, OverRanks):
    """All of them: one pass each, or one for all exits."""

    implementation: ClassVar[str] = "rankbench.training.samplers:every"
