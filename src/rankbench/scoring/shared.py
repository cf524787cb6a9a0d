"""What forwards of several ranks over a batch share is computed once; what no classifier reads, not at all."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from rankbench.methods import FineTuning
from rankbench.methods.lora import DyLora
from rankbench.methods.merged import merged
from rankbench.models import sharding

FIRST_TOKEN = ("bert", "camembert", "electra", "roberta", "xlm-roberta")  # laid out as BERT; the head reads token 0


@contextlib.contextmanager
def shared(adapter: FineTuning, classifies: bool) -> Iterator[None]:
    """While open, forwards without gradients take less work and give what they gave, but for rounding.

    A rank's weights are merged where that pays. A classifier like BERT embeds a batch and multiplies it by the frozen
    weights of its first layer once for all ranks, and its last layer ends with the one token that the head reads.
    """
    if not isinstance(adapter, DyLora) or sharding.sharded(adapter.model):
        yield
        return
    with contextlib.ExitStack() as opened:
        first: list[nn.Module] = []
        # Integers are scaled by all the numbers of a tensor, so no token may be left out.
        # So does bitsandbytes' int8, which looks for outlying columns among them.
        scaled_alone = adapter.arithmetic is None and adapter.run.quantization.name != "int8"
        if classifies and scaled_alone and _reads_first_token(adapter):
            first = opened.enter_context(_encoder(adapter.model))
        opened.enter_context(merged(adapter, first))
        yield


def _reads_first_token(adapter: DyLora) -> bool:
    """Whether it is transformers' own code: one that came with a model may call itself BERT and be another."""
    model: Any = adapter.model
    own = type(model.get_base_model()).__module__.startswith("transformers.models.")
    return own and adapter.kind in FIRST_TOKEN


@contextlib.contextmanager
def _encoder(model: Any) -> Iterator[list[nn.Module]]:
    """BERT's part of `shared`; yields the layers of the first attention."""
    body = model.get_base_model().base_model
    first, last = body.encoder.layer[0], body.encoder.layer[-1]
    projections = [getattr(first.attention.self, name) for name in ("query", "key", "value")]
    frozen = [body.embeddings, *(getattr(layer, "base_layer", layer) for layer in projections)]
    own = [vars(module).get("forward") for module in frozen]  # a quantized layer may have one over its class's
    for module in frozen:
        module.forward = _once(module.forward)
    hook = last.attention.output.register_forward_pre_hook(_first_token)
    try:
        yield projections
    finally:
        hook.remove()
        for module, forward in zip(frozen, own, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def _once(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`forward`, which answers the very tensor that it was asked last with what it answered then."""
    known: list[torch.Tensor] = []

    @functools.wraps(forward)
    def ask(*args: Any, **kwargs: Any) -> torch.Tensor:
        asked = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        if not known or known[0] is not asked:
            known[:] = [asked, forward(*args, **kwargs)]
        return known[1]

    return ask


def _first_token(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(states[:, :1] for states in args)
