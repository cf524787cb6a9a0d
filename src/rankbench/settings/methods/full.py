"""Full fine-tuning: nothing counts but the training's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankbench.settings.methods.lora import LowRank


@dataclass
class Full(LowRank):
    """Every weight trains; a LoRA's settings are taken without effect, so that one sweep may name all methods."""

    implementation: ClassVar[str] = "rankbench.methods.full:Full"

    @property
    def trains_every_weight(self) -> bool:
        """All of them."""
        return True
