"""Rank and depth at once: a DyLoRA adapter whose sub-models are pairs of a rank and an exit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.methods.dylora import Nested
from rankbench.settings.methods.exits import Exits

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class SortedLora(Exits, Nested):
    """Pairs of a rank and an exit."""

    implementation: ClassVar[str] = "rankbench.methods.sorted_ft:Sorted"
    deep: ClassVar[bool] = True

    def check(self, run: Run) -> None:
        """Both families'. Raises RequestError."""
        Nested.check(self, run)
        Exits.check(self, run)
