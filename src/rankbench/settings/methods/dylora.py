"""DyLoRA (Valipour et al. 2023) and DyLoRA late: one adapter whose every prefix 1..r works."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import added, require
from rankbench.settings.methods.lora import LowRank

if TYPE_CHECKING:
    from rankbench.settings.run import Run


class Update(Enum):
    """Which factors a DyLoRA step at rank b trains (DyLoRA Eq. 9 and 10)."""

    full = "full"
    frozen_grad = "frozen_grad"
    frozen_strict = "frozen_strict"


@dataclass
class Nested(LowRank):
    """A LoRA whose every prefix is trained."""

    update: Update = Update.full
    """What a step at rank b trains: the whole prefix; row and column b by their gradient alone, as the released code
    has it; or nothing but row and column b, moments and decay included."""
    nested: ClassVar[bool] = True
    several: ClassVar[bool] = True

    @property
    def one_rank_a_step(self) -> bool:
        """A frozen update moves a single row and column."""
        return self.update is not Update.full


@dataclass
class DyLora(Nested):
    """DyLoRA, and DyLoRA late, which is the same with rank R alone at first."""

    reorder_at: list[float] = added([])
    """Shares of the steps, in (0, 1], after which the factors are turned into the order of their singular values."""

    implementation: ClassVar[str] = "rankbench.methods.lora:DyLora"
    cuttable: ClassVar[bool] = True

    def check(self, run: Run) -> None:
        """As a LoRA's, and turned factors. Raises RequestError."""
        super().check(run)
        require(
            not (self.one_rank_a_step and self.reorder_at),
            f"adapter.update={self.update.value} trains single rows; leave adapter.reorder_at out",
        )
        require(
            all(0 < share <= 1 for share in self.reorder_at),
            f"adapter.reorder_at={self.reorder_at} must lie in (0, 1], shares of the steps",
        )
