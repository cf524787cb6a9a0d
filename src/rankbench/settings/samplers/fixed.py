"""Always the largest sub-model: plain LoRA, full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.samplers.base import Sampler

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class Fixed(Sampler):
    """The largest sub-model in every step."""

    implementation: ClassVar[str] = "rankbench.training.samplers:fixed"
    one_rank: ClassVar[bool] = True

    def trained(self, r: int) -> list[int]:
        """The largest alone."""
        return [r]

    def check(self, run: Run) -> None:
        """It goes with every method."""
