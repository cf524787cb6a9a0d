"""The arithmetic of linear, layer-norm and embedding layers: floats, or integers of 8 to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from rankbench.settings.base import added, of_group, require

if TYPE_CHECKING:
    from rankbench.settings.run import Run

WIDTHS = range(4, 17)


class Rounding(Enum):
    """To the nearest integer, or up with the probability of the rest, which has the right mean."""

    nearest = "nearest"
    stochastic = "stochastic"


class Scale(Enum):
    """What shares a power of two: each row (token), or the whole tensor."""

    row = "row"
    tensor = "tensor"


@dataclass
class Bits:
    """How many bits the integers have, sign included."""

    weight: int = 8
    """Of weights."""
    activation: int = 8
    """Of a layer's input."""
    gradient: int = 8
    """Of the gradient of a layer's output."""


@dataclass
class Roundings:
    """How numbers become integers in training; in evaluation always the nearest."""

    weight: Rounding = Rounding.nearest
    """Of weights."""
    activation: Rounding = Rounding.nearest
    """Of a layer's input."""
    gradient: Rounding = Rounding.stochastic
    """Of the gradient of a layer's output."""


@dataclass
class Arithmetic:
    """The arithmetic of the backbone's linear, layer-norm and embedding layers, forward and backward."""

    name: str = added("float")
    """`float`, or int8, int10, int12, int16: integers that share a power of two (dynamic fixed point)."""
    bits: Bits = of_group(Bits)
    """Widths."""
    rounding: Roundings = of_group(Roundings)
    """Rounding."""
    scale: Scale = added(Scale.row)
    """What shares a power of two among activations and gradients; training a weight takes the tensor."""

    @property
    def integer(self) -> bool:
        """Whether layers compute in integers."""
        return self.name != "float"

    @property
    def words(self) -> str:
        """The widths and the scale, for people."""
        bits = self.bits
        each = f"{bits.weight}-bit weights, {bits.activation}-bit activations, {bits.gradient}-bit gradients"
        return f"{self.name}: {each}, a scale a {self.scale.value}"

    def check(self, run: Run) -> None:
        """Raises RequestError."""
        if not self.integer:
            require(self == Arithmetic(), "arithmetic=float has no bits, rounding or scale; give arithmetic=int8")
            return
        for role in ("weight", "activation", "gradient"):
            bits = getattr(self.bits, role)
            require(bits in WIDTHS, f"arithmetic.bits.{role}={bits} must be 4 to 16")
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
