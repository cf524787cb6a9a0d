"""Linear layers in float32 by oneDNN, on the processors where torch's own products leave the wide instructions idle.

torch multiplies float32 matrices by Intel's MKL, which takes AVX2 on an AMD processor that has AVX-512; oneDNN, which
torch brings too, takes AVX-512 there. The sums are the same but for their order. `benchmarks/float32.py` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import transformers.pytorch_utils
from torch import nn
from torch.autograd import forward_ad

LEAST = 2**21  # multiplications of a product that is worth the longer call


class Linear(nn.Linear):
    """Y = X W^T + c."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


class Conv1D(transformers.pytorch_utils.Conv1D):
    """GPT-2's, Y = X W + c."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        operands = x, self.weight.T, self.bias
        return _by_onednn(*operands) if _serves(*operands) else super().forward(x)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, transformers.pytorch_utils.Conv1D: Conv1D}
STOCK = {own: stock for stock, own in KINDS.items()}
LAYERS = (*KINDS, *STOCK)  # that compute in floats


@cache
def pays() -> bool:
    """Whether this processor is one of those, by a torch that can tell; a resumed run on both rounds as before."""
    return (
        left_idle(getattr(torch.cpu, "get_capabilities", dict)())
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def left_idle(has: Mapping[str, Any]) -> bool:
    """Whether MKL leaves AVX-512 idle on a processor of these capabilities, as `torch.cpu` tells them."""
    return bool(has.get("avx512_f")) and "AMD" in has.get("cpu_name", "")


def library() -> str:
    """What multiplies large float32 matrices in linear layers on the device that runs use here, for a record."""
    return "oneDNN" if pays() and torch.backends.mkldnn.enabled and not torch.cuda.is_available() else "torch"


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`: x (..., in), weight (out, in), bias (out,) -> (..., out), by oneDNN where that is faster."""
    return _by_onednn(x, weight, bias) if _serves(x, weight, bias) else F.linear(x, weight, bias)


def _by_onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    trained = any(one is not None and one.requires_grad for one in (x, weight, bias))
    product: torch.Tensor = (_Linear.apply if torch.is_grad_enabled() and trained else _product)(x, weight, bias)
    return product


def _serves(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether the product is large, of plain float32 tensors on the CPU, and nobody else has to see its parts."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not pays():  # a compiler breaks its graph at the rest
        return False
    return (
        all(_plain(one) for one in (x, weight, bias) if one is not None)
        and x.numel() * len(weight) >= LEAST
        and x.shape[-1:] == weight.shape[1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _plain(one: torch.Tensor) -> bool:
    kind = type(one) in (torch.Tensor, nn.Parameter) and one.layout == torch.strided
    return kind and one.dtype == torch.float32 and one.device.type == "cpu"


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    bias = None if bias is None else bias.contiguous()  # oneDNN reads it as such
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")
    return product


def _dense(operand: torch.Tensor) -> torch.Tensor:
    """The operand with its rows or its columns in one piece; others, oneDNN would copy a number at a time."""
    turned = operand.dim() > 1 and operand.mT.is_contiguous()
    return operand if turned else operand.contiguous()


class _Linear(torch.autograd.Function):
    """The product and its gradients, which are products too, and differentiable."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight if x.requires_grad else None)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = linear(g, weight.T) if ctx.needs_input_grad[0] else None
        rows = g.reshape(-1, g.shape[-1])
        dweight = linear(rows.T, x.reshape(-1, x.shape[-1]).T) if ctx.needs_input_grad[1] else None
        return dx, dweight, rows.sum(0) if ctx.needs_input_grad[2] else None
