"""What a method's settings are to everybody else: a name, what implements it, and what may go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import MISSING

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class Method:
    """The settings of a method: a subclass for each, with the method's own fields and its own `check`."""

    name: str = MISSING
    """The method, as folders, records and tables call it."""

    implementation: ClassVar[str] = ""
    """Its `methods.base.FineTuning`, as `module:Class`; imported when a run begins."""
    nested: ClassVar[bool] = False
    """Whether it trains every rank 1..r, so that a sampler may draw one."""
    deep: ClassVar[bool] = False
    """Whether it is measured at every exit."""
    several: ClassVar[bool] = False
    """Whether it trains several sub-models, so that a sampler other than `fixed` applies."""
    cuttable: ClassVar[bool] = False
    """Whether it ends with one LoRA of rank r, which `evaluate.cuts` and `rankbench layers` can cut down."""

    @property
    def largest_rank(self) -> int:
        """The maximum rank R that its settings name; 0 where they name none."""
        return 0

    @property
    def trains_every_weight(self) -> bool:
        """Whether the backbone's own weights train."""
        return False

    @property
    def keeps_every_weight(self) -> bool:
        """Whether a run ends with a whole model in floats, so that none of it can be quantized or split."""
        return self.trains_every_weight

    @property
    def one_rank_a_step(self) -> bool:
        """Whether a step must train a single rank."""
        return False

    @property
    def begins_with(self) -> str | None:
        """The finished run whose weights it begins with: its folder, or its id in runs_dir."""
        return None

    def check(self, run: Run) -> None:
        """Refuse settings that contradict each other or the run's. Raises RequestError."""
