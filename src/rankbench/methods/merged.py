"""A rank's weight W + s B A, made in the forward that reads it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankbench.methods.lora import ADAPTER, DyLora, Prefix
from rankbench.models import float32


@contextlib.contextmanager
def merged(adapter: DyLora, apart: Collection[nn.Module] = ()) -> Iterator[None]:
    """While open, each layer of float32 but those `apart` multiplies once, by W + s B A, where that is less work.

    For a forward without gradients. The weight is made anew in each, so it takes no memory and is never stale.
    """
    layers = [layer for layer in adapter.layers if layer not in apart and _is_plain(layer)]
    for layer in layers:
        layer.forward = functools.partial(_forward, adapter.prefix, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # an instance's, over its class's


def _is_plain(layer: Any) -> bool:
    base = layer.get_base_layer()
    weights = (base.weight, layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
    return type(base) in float32.LAYERS and all(w.dtype == torch.float32 for w in weights)


def _forward(prefix: Prefix, layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    rank = prefix.ranks.get(layer, prefix.rank)
    base = layer.get_base_layer()
    a, b = layer.lora_A[ADAPTER].weight[:rank], layer.lora_B[ADAPTER].weight[:, :rank]
    # The two products of a rank take tokens (in + out) rank multiplications, the sum of the weights in out rank.
    few = x.shape[:-1].numel() * (a.shape[1] + b.shape[0]) < a.shape[1] * b.shape[0]
    if few or prefix.gates is not None or torch.is_autocast_enabled(x.device.type):
        return type(layer).forward(layer, x, *args, **kwargs)
    scale = prefix.scales.get(layer, prefix.scale)
    if isinstance(base, Conv1D):
        return float32.linear(x, torch.addmm(base.weight, a.T, b.T, alpha=scale).T, base.bias)
    return float32.linear(x, torch.addmm(base.weight, b, a, alpha=scale), base.bias)
