"""Sorted fine-tuning (SoFT, Kavehzadeh et al. 2024) and SFT, which trains the whole depth alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import added
from rankbench.settings.methods.exits import Exits
from rankbench.settings.methods.lora import LowRank

if TYPE_CHECKING:
    from rankbench.settings.run import Run


class Trainable(Enum):
    """What sorted fine-tuning trains: every weight, or a LoRA of rank r."""

    all = "all"
    lora = "lora"


@dataclass
class Sft(Exits, LowRank):
    """The whole depth trains alone, and every exit is measured; a LoRA's settings count with trainable=lora."""

    trainable: Trainable = added(Trainable.all)
    """What trains: `all` weights, or a `lora` of rank r."""

    implementation: ClassVar[str] = "rankbench.methods.sorted_ft:Sorted"
    deep: ClassVar[bool] = True

    @property
    def trains_every_weight(self) -> bool:
        """Unless a LoRA does."""
        return self.trainable is Trainable.all

    def check(self, run: Run) -> None:
        """The exits, and the LoRA's. Raises RequestError."""
        LowRank.check(self, run)
        Exits.check(self, run)


@dataclass
class SortedFt(Sft):
    """Every exit trains, through the shared norm and head."""

    several: ClassVar[bool] = True
