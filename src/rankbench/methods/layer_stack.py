"""A model's layers, of which the first d may stand for all: a depth is really cut, so fewer layers run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rankbench.errors import RequestError
from rankbench.models.quantization import kept_out

# Where the layers lie below the base model; any other family is refused rather than cut in the wrong place.
PLACES = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), "layers") | {
    "gpt2": "h",
    "falcon": "h",
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
}


class Stack:
    """The layers of a transformer: after `cut(d)` the model is the one that has the first d of them.

    They run and keep a cache, then come the final norm and the head (Sorted LLaMA section 3): the model's own, or that
    of the depth in `heads`. Raises RequestError for a family that is not in PLACES.
    """

    def __init__(self, model: nn.Module) -> None:
        self.config = model.config
        kind = self.config.model_type
        if kind not in PLACES:
            raise RequestError(
                f"a {kind} model cannot be cut at a depth; exits work for {', '.join(PLACES)}. Use adapter=dylora, or "
                "another model"
            )
        *above, self._name = f"{model.base_model_prefix}.{PLACES[kind]}".split(".")
        self._parent = model.get_submodule(".".join(above))
        self.layers: list[nn.Module] = list(getattr(self._parent, self._name))
        self.depth = len(self.layers)
        self.model, self._head = model, kept_out(model)[-1]
        self._own: nn.Module = getattr(model, self._head)
        self.heads: dict[int, nn.Module] = {}

    def cut(self, depth: int) -> None:
        """Leave the first `depth` layers, counted from 1."""
        if not 1 <= depth <= len(self.layers):
            raise ValueError(f"depth {depth} is outside 1..{len(self.layers)}")
        if depth != self.depth:
            self.depth = depth
            self._put(self.layers[:depth], depth)

    def head(self, depth: int) -> nn.Module:
        """What reads the residual stream at a depth, after the final norm, in the model's mode.

        Only the active head is part of the model, so only that one hears of `train()` and `eval()`.
        """
        return self.heads.get(depth, self._own).train(self.model.training)

    def _put(self, layers: list[nn.Module], depth: int) -> None:
        setattr(self._parent, self._name, nn.ModuleList(layers))
        if self.heads:
            setattr(self.model, self._head, self.head(depth))
        self.config.num_hidden_layers = len(layers)  # caches and some forwards count by it

    @contextlib.contextmanager
    def tapped(self, depths: list[int]) -> Iterator[dict[int, torch.Tensor]]:
        """While open, a forward leaves the residual stream after each of `depths` in the yielded dict.

        It is taken at the layer, before any final norm: transformers' last hidden state is normed, the others are not.
        """
        streams: dict[int, torch.Tensor] = {}

        def keep(depth: int) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                streams[depth] = output[0] if isinstance(output, tuple) else output

            return hook

        hooks = [self.layers[depth - 1].register_forward_hook(keep(depth)) for depth in depths]
        try:
            yield streams
        finally:
            for hook in hooks:
                hook.remove()

    @contextlib.contextmanager
    def between(self, below: int, above: int, stream: torch.Tensor | None) -> Iterator[None]:
        """While open, the model is the layers after `below` up to `above`, the final norm and the head, fed `stream`.

        With below = above it is norm and head alone; without a stream it begins at the embedding.
        """
        given: list[nn.Module] = [] if stream is None else [_Given(stream, self.config.model_type)]
        self._put([*given, *self.layers[below:above]], above)
        try:
            yield
        finally:
            self._put(self.layers[: self.depth], self.depth)


class _Given(nn.Module):
    """A layer that gives what it was given beforehand."""

    def __init__(self, stream: torch.Tensor, kind: str) -> None:
        super().__init__()
        self._stream = [stream]  # not a parameter
        self._kind = kind

    def forward(self, *_: Any, **__: Any) -> Any:
        return (self._stream[0],) if self._kind == "falcon" else self._stream[0]
