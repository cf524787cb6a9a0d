"""QDyLoRA (Rajabzadeh et al. 2024): DyLoRA over a quantized backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankbench.settings.base import require
from rankbench.settings.methods.dylora import DyLora

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class QDyLora(DyLora):
    """DyLoRA's settings, over 4 or 8 bits."""

    def check(self, run: Run) -> None:
        """As DyLoRA's, and a quantized backbone. Raises RequestError."""
        super().check(run)
        require(
            run.quantization.name != "none",
            "adapter=qdylora is DyLoRA over a quantized backbone; use quantization=nf4, or adapter=dylora",
        )
