"""The arithmetic of linear, layer-norm and embedding layers: floats, or integers of 8 to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from rankbench.settings.base import added, require

if TYPE_CHECKING:
    from rankbench.settings.run import Run

NAMES = ("float", "int8", "int10", "int12", "int16")
WIDTHS = range(4, 17)
ROLES = ("weight", "activation", "gradient")
ROUNDINGS = ("nearest", "stochastic")


class Scale(Enum):
    """What shares a power of two: each row (token), or the whole tensor."""

    row = "row"
    tensor = "tensor"


@dataclass
class Arithmetic:
    """The arithmetic of the backbone's linear, layer-norm and embedding layers, forward and backward."""

    name: str = added("float")
    """`float`, or int8, int10, int12, int16: integers that share a power of two (dynamic fixed point)."""
    bits: dict[str, int] = added({"weight": 8, "activation": 8, "gradient": 8})
    """How many bits the integers have, sign included: of weights, of a layer's input, of its output's gradient."""
    rounding: dict[str, str] = added({"weight": "nearest", "activation": "nearest", "gradient": "stochastic"})
    """How numbers become integers in training: `nearest`, or `stochastic`, which keeps their mean. In evaluation the
    nearest."""
    scale: Scale = added(Scale.row)
    """What shares a power of two among activations and gradients; training a weight takes the tensor."""

    @property
    def integer(self) -> bool:
        """Whether layers compute in integers."""
        return self.name != "float"

    @property
    def words(self) -> str:
        """The widths and the scale, for people."""
        each = ", ".join(f"{self.bits[role]}-bit {role}s" for role in ROLES)
        return f"{self.name}: {each}, a scale a {self.scale.value}"

    def check(self, run: Run) -> None:
        """Raises RequestError."""
        if not self.integer:
            require(self == Arithmetic(), "arithmetic=float has no bits, rounding or scale; give arithmetic=int8")
            return
        require(self.name in NAMES, f"arithmetic.name={self.name} is not known; choose arithmetic={'|'.join(NAMES)}")
        for name, given in (("bits", self.bits), ("rounding", self.rounding)):
            other = sorted({*given} ^ {*ROLES})
            require(
                not other, f"arithmetic.{name} is of {', '.join(ROLES)}, and not {', '.join(other)}; give these alone"
            )
        for role in ROLES:
            require(self.bits[role] in WIDTHS, f"arithmetic.bits.{role}={self.bits[role]} must be 4 to 16")
            require(
                self.rounding[role] in ROUNDINGS,
                f"arithmetic.rounding.{role}={self.rounding[role]} must be {' or '.join(ROUNDINGS)}",
            )
        require(
            run.quantization.name == "none",
            f"quantization={run.quantization.name} stores weights that bitsandbytes multiplies in floats, so "
            f"arithmetic={self.name} has nothing to do; leave one of the two out",
        )
        require(
            run.adapter.name != "flop",
            f"adapter=flop replaces the layers by factors, which compute in floats, so arithmetic={self.name} would "
            "have little to do; give adapter=lora_gated, which prunes over an integer backbone, or arithmetic=float",
        )
        require(
            run.train.precision.value in ("auto", "fp32"),
            f"arithmetic={self.name} keeps everything between its layers in float32; leave out "
            f"train.precision={run.train.precision.value}",
        )
