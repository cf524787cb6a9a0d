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
        return linear(x, self.weight.T, self.bias)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, transformers.pytorch_utils.Conv1D: Conv1D}
STOCK = {own: stock for stock, own in KINDS.items()}
LAYERS = (*KINDS, *STOCK)  # that compute in floats


@cache
def pays() -> bool:
    """Whether this processor is one of those. It depends on the processor alone, so a resumed run rounds as before."""
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
    """What multiplies large float32 matrices in a linear layer on this CPU, for a record."""
    return "oneDNN" if pays() and torch.backends.mkldnn.enabled else "torch"


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`: x (..., in), weight (out, in), bias (out,) -> (..., out), by oneDNN where that is faster."""
    operands = (x, weight) if bias is None else (x, weight, bias)
    if not _serves(operands) or x.numel() * len(weight) < LEAST:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(operand.requires_grad for operand in operands):
        product: torch.Tensor = _Linear.apply(x, weight, bias)
        return product
    return _product(x, weight, bias)


def _serves(operands: tuple[torch.Tensor, ...]) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: a compiler would break its graph at the rest
        and pays()
        and all(
            type(one) in (torch.Tensor, nn.Parameter) and one.dtype == torch.float32 and one.device.type == "cpu"
            for one in operands
        )
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
        and not torch._C._are_functorch_transforms_active()
    )


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
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
