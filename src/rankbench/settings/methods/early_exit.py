"""Early exit: a frozen body with a head of its own for each exit (SFT+ICT in Sorted LLaMA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import added
from rankbench.settings.methods.exits import Exits, refuse_quantized
from rankbench.settings.methods.lora import LowRank

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class EarlyExit(Exits, LowRank):
    """Heads over a frozen body; a LoRA's settings are taken without effect, so that one sweep may name all methods."""

    start_from: str | None = added(None)
    """The run whose weights the body has: its folder, or its id in runs_dir (default: the model as it comes)."""

    implementation: ClassVar[str] = "rankbench.methods.early_exit:EarlyExit"
    deep: ClassVar[bool] = True
    several: ClassVar[bool] = True

    @property
    def begins_with(self) -> str | None:
        """The body's run."""
        return self.start_from

    def check(self, run: Run) -> None:
        """The exits, and floats to copy heads from. Raises RequestError."""
        LowRank.check(self, run)
        Exits.check(self, run)
        refuse_quantized(self, run)
