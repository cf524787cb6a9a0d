"""The head alone: what a frozen backbone knows by itself, a baseline beside every other method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import require
from rankbench.settings.methods.lora import LowRank

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class Head(LowRank):
    """A classifier's head trains; a LoRA's settings have no effect, so that one sweep may name all methods."""

    implementation: ClassVar[str] = "rankbench.methods.head:Head"

    @property
    def keeps_every_weight(self) -> bool:
        """It saves the backbone with the head."""
        return True

    def check(self, run: Run) -> None:
        """A head that there is. Raises RequestError."""
        super().check(run)
        require(
            run.task.kind != "causal_lm",
            f"adapter={self.name} trains a classifier's head, and task={run.task.name} is for a language model, whose "
            "backbone every LoRA run measures as rank 0; give another adapter",
        )
