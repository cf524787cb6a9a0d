"""What methods over depth share: the exits of their family (Sorted LLaMA section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankbench.settings.base import added, require
from rankbench.settings.methods.base import Method

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class Exits(Method):
    """The depths at which a model may be left."""

    exits: list[int] | None = added(None)
    """Depths of the family, counted from 1; the whole depth is always one (default: the model's `exits`)."""
    exit_stride: int | None = added(None)
    """Layers between exits, counted from the last, instead of `exits`."""

    def check(self, run: Run) -> None:
        """Depths that can be. Raises RequestError."""
        exits, stride = self.exits, self.exit_stride
        require(
            exits is None or (bool(exits) and len(set(exits)) == len(exits) and min(exits) >= 1),
            f"adapter.exits={exits} must name depths from 1, each once, such as [10,20,30]",
        )
        require(
            exits is None or stride is None,
            "adapter.exits and adapter.exit_stride say the same thing; leave one out",
        )
        require(stride is None or stride >= 1, f"adapter.exit_stride={stride} must be at least 1")
        if self.trains_every_weight:
            refuse_quantized(self, run)


def refuse_quantized(method: Method, run: Run) -> None:
    """Refuse 4 and 8 bits under a method that wants the model's floats. Raises RequestError."""
    require(
        run.quantization.name == "none",
        f"quantization={run.quantization.name} freezes the weights that adapter={method.name} trains or copies; use "
        "adapter.trainable=lora or adapter=sorted_lora, or quantization=none",
    )
