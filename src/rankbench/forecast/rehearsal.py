"""A forward on fake tensors: what it keeps for its backward, with stand-ins for what only a GPU or a library has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from rankbench.models import quantization
from rankbench.models.integer import Arithmetic, fixed_point
from rankbench.models.integer.arithmetic import Scaled
from rankbench.settings import arithmetic as settings
from rankbench.settings.hardware import Hardware
from rankbench.settings.quantization import Quantization
from rankbench.settings.run import Run

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Saved:
    """Bytes that a forward keeps for its backward: inside the layers, outside them, and the layers' inputs.

    `last` is what the last layer keeps and `widest` its largest tensor, `held` the part of `inside` that checkpointing
    does not free, and `stem` what it adds before the layers, since it wants a gradient of the embeddings.
    """

    inside: int
    outside: int
    inputs: int
    last: int
    held: int
    widest: int
    stem: int = 0


def saved(
    forward: Callable[[], Any],
    model: nn.Module,
    blocks: Iterable[nn.Module],
    owned: set[int],
    integers: Unread | None = None,
) -> Saved:
    """What `forward()`, a call of `model` with layers `blocks`, keeps for its backward.

    Storages count once, where they are kept first; those in `owned` (their `_cdata`), and what `integers` has of frozen
    weights, are there anyway.
    """
    kept: dict[int, tuple[torch.UntypedStorage, int | None]] = {}  # holding the storage, so that no number returns
    held: set[int] = set()
    inputs: list[int] = []
    place: list[int | None] = [None]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned:
            kept.setdefault(storage._cdata, (storage, place[0]))
        return tensor

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        place[0] = len(inputs)
        inputs.append(size([args[0] if args else kwargs["hidden_states"]]))

    def leave(*_: Any) -> None:
        place[0] = None

    def hold(_: nn.Module, args: tuple[torch.Tensor]) -> None:
        held.add(keep(args[0]).untyped_storage()._cdata)

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        for module in model.modules():
            if getattr(module, "holds_input", False):
                stack.callback(module.register_forward_pre_hook(hold).remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        forward()
    there = {q.untyped_storage()._cdata for q in integers.owned} if integers else set()
    sizes = [(storage.nbytes(), where, key in held) for key, (storage, where) in kept.items() if key not in there]
    return Saved(
        inside=sum(size for size, where, _ in sizes if where is not None),
        outside=sum(size for size, where, _ in sizes if where is None),
        inputs=sum(inputs),
        last=sum(size for size, where, _ in sizes if where == len(inputs) - 1),
        held=sum(size for size, where, stays in sizes if stays and where is not None),
        widest=max((size for size, where, _ in sizes if where == len(inputs) - 1), default=0),
    )


class _Product(torch.autograd.Function):
    """The product with a quantized weight, which keeps nothing but that weight for its backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x.new_empty(*x.shape[:-1], weight.shape[0])


class _Quantized(nn.Linear):
    """Stands for a quantized layer on the meta device, with its dtypes and without its numbers."""

    __module__ = "bitsandbytes.nn"  # by which quantization.layers tells what is quantized already

    def __init__(self, layer: nn.Module, storage: quantization.Storage) -> None:
        outputs, inputs = layer.weight.shape[::-1] if isinstance(layer, Conv1D) else layer.weight.shape
        super().__init__(inputs, outputs, layer.bias is not None, device="meta", dtype=storage.compute)
        # bitsandbytes' int8 layer keeps its input past autograd, where no checkpointing reaches it.
        self.holds_input = storage.settings.name == "int8"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        computed = x if self.holds_input else x.to(self.weight.dtype)
        return _Product.apply(computed, self.weight).to(x.dtype)

    def stored(self, settings: Quantization) -> int:
        """Bytes of the weight with its scales."""
        rows = FLOAT * self.out_features if self.holds_input else 0
        return round(self.weight.numel() * quantization.bits(settings) / 8) + rows


class Unread(Arithmetic):
    """Integers without their numbers; `frozen` are the bytes of those that stay beside a frozen weight, by layer."""

    def __init__(self, asked: settings.Arithmetic, seed: int) -> None:
        super().__init__(asked, seed)
        self.frozen: dict[str, int] = {}
        self.owned: list[torch.Tensor] = []

    def map(self, x: torch.Tensor, role: str, layer: str, training: bool, whole: bool = True, *given: Any) -> Scaled:
        """Room for the integers and scales of `x`."""
        q = x.new_empty(x.shape, dtype=(given[0] if given else None) or fixed_point.storage(self.bits(role)))
        if role == "weight" and not training and not given:
            self.frozen[layer] = size([q])
            self.owned.append(q)
        return q, x.new_empty(() if whole else (*x.shape[:-1], 1))

    def product(self, a: torch.Tensor, b: torch.Tensor, *roles: str) -> torch.Tensor:
        """Room for a product."""
        return a.new_empty(a.shape[0], b.shape[1], dtype=torch.float32)

    def state(self, weight: torch.Tensor) -> tuple[Any, ...]:
        """Nothing is kept from one rehearsal for the next."""
        return (object(),)


class _Gpu(TorchFunctionMode):
    """A GPU's kernels where they keep other bytes than a CPU's: attention, dropout, and norms under autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0  # fused, it keeps no mask; on a CPU any dropout makes it unfused
        elif func is F.dropout:
            x, p, training = (*args, *kwargs.values())[:3]
            return torch.native_dropout(x, p, True)[0] if p and training else x
        elif func is F.layer_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def stand_in(model: nn.Module, storage: quantization.Storage) -> list[_Quantized]:
    """Put a stand-in for each layer that would be quantized."""
    made = {
        name: _Quantized(layer, storage) for name, layer in quantization.layers(model, quantization.kept_out(model))
    }
    for name, layer in made.items():
        model.set_submodule(name, layer)
    quantization.settle(model, storage)
    return list(made.values())


def rehearse(
    model: nn.Module,
    blocks: nn.ModuleList,
    run: Run,
    arithmetic: str,
    rows: int,
    length: int,
    integers: Unread | None = None,
) -> Saved:
    """What a forward of `rows` rows keeps, in this arithmetic and by the kernels of the run's device."""
    half, gpu = arithmetic != "fp32", torch.cuda.is_available() or run.hardware is Hardware.v100
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        stack.enter_context(torch.autocast("cpu", quantization.DTYPES[arithmetic], enabled=half))
        if gpu:
            stack.enter_context(_Gpu())
            # PEFT casts the input of its layer over nn.Linear, and leaves bitsandbytes' to CUDA's autocast.
            stack.enter_context(disable_input_dtype_casting(model, active=half and run.quantization.name != "none"))
        tensors = {
            name: torch.empty(t.shape, dtype=t.dtype, requires_grad=t.requires_grad)
            for name, t in chain(model.named_parameters(), model.named_buffers())
        }
        inputs = {key: torch.ones(rows, length, dtype=torch.long) for key in ("input_ids", "attention_mask")}
        options: dict[str, Any] = {"use_cache": False} if run.task.kind == "causal_lm" else {}
        owned = {t.untyped_storage()._cdata for t in tensors.values()}

        def keeps() -> Saved:
            def forward() -> Any:
                return torch.func.functional_call(model, tensors, (), inputs | options)

            return saved(forward, model, blocks, owned, integers)

        plain = keeps()
        hook = model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_())
        stack.callback(hook.remove)
        return replace(plain, stem=keeps().outside - plain.outside)


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes."""
    return sum(t.numel() * t.element_size() for t in tensors)
