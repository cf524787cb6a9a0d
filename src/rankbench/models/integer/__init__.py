"""Linear, layer-norm and embedding layers in integer arithmetic, forward and backward (Tayaranian et al. 2023)."""

from __future__ import annotations

from typing import Any

from torch import nn

from rankbench.models import float32
from rankbench.models.integer import kernels, products
from rankbench.models.integer.arithmetic import Arithmetic
from rankbench.models.integer.layers import FLOATS, KINDS
from rankbench.settings import arithmetic as settings

__all__ = ["Arithmetic", "put", "slower"]


def put(
    model: nn.Module, asked: settings.Arithmetic, seed: int, kind: type[Arithmetic] = Arithmetic
) -> Arithmetic | None:
    """Have the model's linear, layer-norm and embedding layers compute as asked; None where that is in floats.

    Weights, names and saved files stay as they were. What a subclass of these layers computes, and the output layer of
    a language model, stays in floats; float32 by the library that is faster here. Returns what the layers share.
    """
    arithmetic = kind(asked, seed) if asked.integer else None
    output = getattr(model, "get_output_embeddings", lambda: None)()
    found: list[tuple[str, Any]] = list(model.named_modules())
    stock = FLOATS | float32.STOCK
    for name, module in found:
        if type(module) in stock:  # of an earlier run, which this one begins with
            module.__class__ = stock[type(module)]
        if arithmetic is not None and type(module) in KINDS and module is not output:
            module.__class__ = KINDS[type(module)]
            module.arithmetic, module.name, module._kept = arithmetic, name, None
        elif float32.pays() and type(module) in float32.KINDS:
            module.__class__ = float32.KINDS[type(module)]
    return arithmetic


def slower(device: str) -> str | None:
    """Why integers are slower here than they could be, for people; None where they are not."""
    if not products.has_int8(device):
        return "integers: multiplied as floats, since this processor has no products of bytes (VNNI on a CPU)"
    if device == "cpu" and kernels.library() is None:
        return (
            "integers: mapped by torch's operations, since no C compiler (cc or CC) is here; the same numbers, slower"
        )
    return None
