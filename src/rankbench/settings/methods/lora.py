"""LoRA (Hu et al. 2022): one rank, and the settings that every low-rank method shares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from rankbench.settings.base import finite, require
from rankbench.settings.methods.base import Method

if TYPE_CHECKING:
    from rankbench.settings.run import Run


class Scale(Enum):
    """The factor before B[:, :b] A[:b] at rank b."""

    alpha_over_b = "alpha_over_b"
    alpha_over_r = "alpha_over_r"
    alpha_over_sqrt_b = "alpha_over_sqrt_b"


@dataclass
class LowRank(Method):
    """What a LoRA of rank r is made of, in PEFT's spelling."""

    r: int = 8
    """Maximum rank R."""
    lora_alpha: float = 16
    """Alpha: the update is scaled by alpha over the rank."""
    lora_dropout: float = 0.0
    """Dropout of what enters A, in [0, 1)."""
    target_modules: Any = None
    """Layers that hold the adapter: a list of names, a regular expression, or `all-linear`."""
    scale: Scale = Scale.alpha_over_b
    """The scale at rank b: alpha/b (DyLoRA Eq. 7), alpha/r (LoRA's prefix), or alpha/sqrt(b) (rsLoRA)."""

    def __post_init__(self) -> None:
        if self.target_modules == ["all-linear"]:  # in a list, as a model has its default
            self.target_modules = "all-linear"

    @property
    def largest_rank(self) -> int:
        """R."""
        return self.r

    def check(self, run: Run) -> None:
        """Ranks, scale and names of layers. Raises RequestError."""
        require(self.r >= 1, f"adapter.r={self.r}: a rank is at least 1; give adapter.r=8, say")
        self.check_lora()

    def check_lora(self) -> None:
        """Scale, dropout and the names of layers. Raises RequestError."""
        require(
            finite(self.lora_alpha),
            f"adapter.lora_alpha={self.lora_alpha:g} must be above 0 and finite; 2 x r is usual",
        )
        require(0 <= self.lora_dropout < 1, f"adapter.lora_dropout={self.lora_dropout} must lie in [0, 1)")
        targets = self.target_modules
        require(
            isinstance(targets, str)
            or (isinstance(targets, list) and bool(targets) and all(isinstance(t, str) for t in targets)),
            "adapter.target_modules must name layers: a list such as [query,value], or all-linear",
        )


@dataclass
class Lora(LowRank):
    """LoRA at rank r; its prefixes are measured too."""

    implementation: ClassVar[str] = "rankbench.methods.lora:Lora"
    cuttable: ClassVar[bool] = True
