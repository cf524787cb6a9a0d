"""One rank a step, low ones more often (DyLoRA section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import require
from rankbench.settings.samplers.base import PerRow

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class Geometric(PerRow):
    """p(b) proportional to (1 - p)^(b - 1) p, the tail renormalised."""

    p: float = 0.15
    """The success probability, in (0, 1)."""

    implementation: ClassVar[str] = "rankbench.training.samplers:one"
    one_rank: ClassVar[bool] = True

    def check(self, run: Run) -> None:
        """A probability, and ranks to draw. Raises RequestError."""
        super().check(run)
        require(0 < self.p < 1, f"sampler.p={self.p} must lie between 0 and 1")
        require(
            run.adapter.nested,
            f"sampler=geometric draws ranks, and adapter={run.adapter.name} has none to draw; use sampler=all or "
            "uniform",
        )
