"""Storage of the frozen backbone in 4 or 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from rankbench.settings.base import MISSING, added, require

if TYPE_CHECKING:
    from rankbench.settings.run import Run

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
STORED = ("none", "nf4", "fp4", "int8")


class Compute(Enum):
    """Arithmetic of the products with dequantized weights; `auto` is the training step's."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


@dataclass
class Quantization:
    """Storage of the frozen backbone, by bitsandbytes."""

    name: str = MISSING
    """none, nf4, fp4 or int8."""
    double_quant: bool = added(True)
    """Store the scales in 8 bits too (QLoRA section 3)."""
    block_size: int = added(64)
    """Weights that share a scale."""
    compute_dtype: Compute = added(Compute.auto)
    """Arithmetic of the products with dequantized weights."""

    def check(self, run: Run) -> None:
        """What bitsandbytes and a V100 cannot do. Raises RequestError."""
        require(
            self.name in STORED,
            f"quantization.name={self.name} is not known; choose quantization={'|'.join(STORED)}",
        )
        require(
            self.block_size in BLOCK_SIZES,
            f"quantization.block_size={self.block_size}: use {', '.join(map(str, BLOCK_SIZES))}",
        )
        require(
            self.name == "none" or not run.adapter.keeps_every_weight,
            f"adapter={run.adapter.name} ends with a whole model in floats, and quantization={self.name} has none; use "
            "adapter=lora or dylora, or quantization=none",
        )
        compute = self.compute_dtype.value
        require(
            run.train.precision.value != "fp32" or self.compute_dtype not in (Compute.fp16, Compute.bf16),
            f"quantization.compute_dtype={compute} needs train.precision={compute} too; leave one of the two out",
        )
        if run.hardware.value == "v100":
            require(
                self.compute_dtype is not Compute.bf16,
                "hardware=v100 has no bf16; use quantization.compute_dtype=fp32 or fp16",
            )
            require(
                self.name != "int8",
                "hardware=v100: int8 needs compute capability 7.5, a V100 has 7.0; use quantization=nf4",
            )
