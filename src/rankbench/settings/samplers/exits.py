"""A rank is drawn, and all its exits train at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import require
from rankbench.settings.samplers.base import OverExits, OverRanks, PerBatch

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class Exits(OverExits, PerBatch, OverRanks):
    """Every exit of a drawn rank, from one forward through the layers."""

    implementation: ClassVar[str] = "rankbench.training.samplers:exits_of_a_rank"

    def check(self, run: Run) -> None:
        """A method with exits. Raises RequestError."""
        require(
            run.adapter.deep,
            f"sampler=exits trains every exit of a drawn rank, and adapter={run.adapter.name} has no exits; use "
            "adapter=sorted_lora or sorted_ft",
        )
        super().check(run)
