"""A model's layers compiled while it trains (torch.compile): its layers and all ranks share graphs."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from rankbench.errors import RequestError
from rankbench.methods import FineTuning
from rankbench.models import sharding

LIMIT = 64  # graphs of one layer's code: torch's own 8 are soon reached, and what is beyond runs uncompiled
COMPILERS = {"cpu": ("CXX", "g++", "clang++"), "cuda": ("CC", "gcc", "clang")}  # what the generated code is built with


class Layers:
    """The layers of a fine-tuning's model, compiled from `start` to `stop`; of none where it is not `on`.

    Each layer is compiled alone, so that its graph serves the others too, whatever the depth; and ranks are held in
    tensors, so that it serves every rank. Sizes of batches are symbols in it. What takes another graph is a first layer
    whose input has no gradient, a batch without padding, and a batch of one row. Raises RequestError.
    """

    def __init__(self, adapter: FineTuning, on: bool, backend: Any = "inductor") -> None:
        self._adapter = adapter
        self._layers = layers_of(adapter) if on else []
        if on and backend == "inductor":
            _refuse_without_compiler(next(adapter.model.parameters()).device.type)
        # Draws of inductor's own would be another dropout than that of an uncompiled step.
        options: dict[str, Any] | None = {"fallback_random": True} if backend == "inductor" else None
        self._compiled = [
            torch.compile(layer.forward, dynamic=True, backend=backend, options=options) for layer in self._layers
        ]

    def start(self) -> None:
        """Put the compiled layers in place."""
        if self._layers:
            self._held = torch._dynamo.config.patch(recompile_limit=LIMIT)
            self._held.__enter__()
        for layer, forward in zip(self._layers, self._compiled, strict=True):
            layer.forward = forward  # in a call, hooks and checkpointed activations stay outside
        self._adapter.hold_ranks_in_tensors(bool(self._layers))

    def stop(self) -> None:
        """Put back what was there."""
        for layer in self._layers:
            del layer.forward
        if self._layers:
            self._held.__exit__(None, None, None)
        self._adapter.hold_ranks_in_tensors(False)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While open, the layers are as they were: an evaluation would need graphs of its own."""
        self.stop()
        try:
            yield
        finally:
            self.start()


def layers_of(adapter: FineTuning) -> list[Any]:
    """The transformer layers of a model, in order. Raises RequestError where they cannot be compiled one by one."""
    layers = [module for module in adapter.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        kind = getattr(getattr(adapter.model, "config", None), "model_type", "")
        raise RequestError(f"train.compile: a {kind} model has no layers that can be compiled; leave it out")
    if sharding.sharded(adapter.model):
        raise RequestError("train.compile: a model that is split over processes is not compiled; leave it out")
    return layers


def _refuse_without_compiler(device: str) -> None:
    if device not in COMPILERS:
        raise RequestError(f"train.compile=true is for CPUs and NVIDIA's GPUs, and this is {device}; leave it out")
    variable, *names = COMPILERS[device]
    found = [name for name in (os.environ.get(variable), *names) if name and shutil.which(name)]
    if not found:
        needed = " or ".join(names)
        raise RequestError(f"train.compile=true needs a compiler ({needed}); install one, or leave it out")
