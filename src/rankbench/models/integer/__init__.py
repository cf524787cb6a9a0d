"""Linear, layer-norm and embedding layers in integer arithmetic, forward and backward (Tayaranian et al. 2023)."""

from __future__ import annotations

from typing import Any

from torch import nn

from rankbench.models.integer.arithmetic import Arithmetic
from rankbench.models.integer.layers import FLOATS, KINDS
from rankbench.settings import arithmetic as settings

__all__ = ["Arithmetic", "put"]


def put(
    model: nn.Module, asked: settings.Arithmetic, seed: int, kind: type[Arithmetic] = Arithmetic
) -> Arithmetic | None:
    """Have the model's linear, layer-norm and embedding layers compute as asked; None where that is in floats.

    Weights, names and saved files stay as they were. What a subclass of these layers computes, and the output layer of
    a language model, stays in floats. Returns what the layers share.
    """
    arithmetic = kind(asked, seed) if asked.integer else None
    output = getattr(model, "get_output_embeddings", lambda: None)()
    found: list[tuple[str, Any]] = list(model.named_modules())
    for name, module in found:
        if type(module) in FLOATS:  # of an earlier run, which this one begins with
            module.__class__ = FLOATS[type(module)]
        if arithmetic is not None and type(module) in KINDS and module is not output:
            module.__class__ = KINDS[type(module)]
            module.arithmetic, module.name, module._kept = arithmetic, name, None
    return arithmetic
