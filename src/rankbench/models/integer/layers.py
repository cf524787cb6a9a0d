"""The layers: stock ones whose forward and backward go through integers, with weights and names as they were."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankbench.models.integer.arithmetic import Arithmetic
from rankbench.models.integer.products import product

SAMPLED = 1024  # of a frozen weight's numbers, by which a merge is noticed
Scaled = tuple[torch.Tensor, torch.Tensor]  # integers and their scales


class Integer:
    """What the layers share: the arithmetic, the layer's name, and a frozen weight's integers, mapped once."""

    arithmetic: Arithmetic
    name: str
    weight: Any
    training: bool
    _kept: tuple[Any, Scaled] | None

    def map(self, x: torch.Tensor, role: str, whole: bool = True) -> Scaled:
        """Integers of `x` as this layer's weight, activation or gradient."""
        return self.arithmetic.map(x, role, self.name, self.training, whole)

    def integers(self) -> Scaled:
        """The weight's integers: the nearest ones, and kept, while it is frozen and unchanged.

        What changes `weight.data`, as PEFT's merge does, leaves its version as it was, so outside of training some of
        its numbers are compared too.
        """
        weight = self.weight
        if weight.requires_grad:
            return self.map(weight.detach(), "weight")
        state: tuple[Any, ...] = (weight.data_ptr(), weight._version, weight.device)
        if not self.training:
            some = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)]
            state = (*state, tuple(some.tolist()))
        elif self._kept is not None and self._kept[0][:3] == state:
            return self._kept[1]
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.arithmetic.map(weight.detach(), "weight", self.name, training=False))
        return self._kept[1]

    def whole(self) -> bool:
        """Whether activations and gradients have one scale: in training where asked for, and for a weight's gradient.

        In evaluation rows never share one, so no row's result depends on another.
        """
        wanted = self.arithmetic.one_scale and self.training
        return wanted or (self.weight.requires_grad and torch.is_grad_enabled())


class IntegerLinear(nn.Linear, Integer):
    """Y = X W^T + c."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return _Product.apply(input, self.weight, self.bias, self, self.whole(), True)


class IntegerConv1D(Conv1D, Integer):
    """Y = X W + c, GPT-2's linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return _Product.apply(x, self.weight, self.bias, self, self.whole(), False)


class IntegerEmbedding(nn.Embedding, Integer):
    """Rows of the table's integers; the backward adds integers, in any order."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(...) -> (..., width)."""
        return _Lookup.apply(input, self.weight, self)


class IntegerLayerNorm(nn.LayerNorm, Integer):
    """The layer norm of an activation's integers, in which its scale cancels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., width)."""
        return _Normalized.apply(input, self.weight, self.bias, self)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Any, bias: Any, layer: Any, whole: bool, turned: bool) -> Any:
        arithmetic = layer.arithmetic
        qx, sx = layer.map(x, "activation", whole)
        qw, sw = layer.integers()
        ctx.layer, ctx.turned, ctx.whole, ctx.shape, ctx.dtype = layer, turned, whole, x.shape, x.dtype
        ctx.save_for_backward(qx if weight.requires_grad else None, sx, qw, sw)
        flat = qx.flatten(0, -2)
        bits = arithmetic.bits("activation", "weight")
        y = product(flat, qw.t() if turned else qw, bits).mul_(sx if whole else sx.view(-1, 1)).mul_(sw)
        if bias is not None:
            y += bias
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        layer, arithmetic = ctx.layer, ctx.layer.arithmetic
        qx, sx, qw, sw = ctx.saved_tensors
        qg, sg = layer.map(grads[0], "gradient", ctx.whole)
        g, scale = qg.flatten(0, -2), sg if ctx.whole else sg.view(-1, 1)
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = product(g, qw if ctx.turned else qw.t(), arithmetic.bits("gradient", "weight"))
            dx = dx.mul_(scale).mul_(sw).view(ctx.shape).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            x = qx.flatten(0, -2)
            left, right = (g, x) if ctx.turned else (x, g)
            dw = product(left.t().contiguous(), right, arithmetic.bits("gradient", "activation")).mul_(sg).mul_(sx)
        if ctx.needs_input_grad[2]:
            db = (g * scale).sum(0) if not ctx.whole else g.sum(0, dtype=torch.int64).float() * sg
        return dx, dw, db, None, None, None


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: Any, layer: Any) -> torch.Tensor:
        q, scale = layer.integers()
        ctx.layer, ctx.count = layer, weight.shape[0]
        ctx.save_for_backward(ids)
        return q[ids].float().mul_(scale).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (ids,) = ctx.saved_tensors
        q, scale = ctx.layer.map(grads[0], "gradient")
        sums = q.new_zeros(ctx.count, q.shape[-1], dtype=torch.int64)
        sums.index_add_(0, ids.flatten(), q.flatten(0, -2).long())
        if ctx.layer.padding_idx is not None:
            sums[ctx.layer.padding_idx] = 0
        return None, sums.float().mul_(scale), None


class _Normalized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: Any, bias: Any, layer: Any) -> torch.Tensor:
        whole = layer.arithmetic.one_scale and layer.training
        q, scale = layer.map(x, "activation", whole)
        n = q.shape[-1]
        q, scale = q.double(), scale.double()  # exact: n q^2 summed stays below 2^53
        total = q.sum(-1, keepdim=True)
        spread = n * q.square().sum(-1, keepdim=True) - total.square()
        root = (spread + layer.eps * n**2 / scale.square()).sqrt_()
        xhat = ((n * q - total) / root).float()
        ctx.layer, ctx.whole, ctx.dtype = layer, whole, x.dtype
        ctx.save_for_backward(xhat, (n / (root * scale)).float(), gain)
        y = xhat if gain is None else xhat * gain
        return (y if bias is None else y + bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        xhat, inverse, gain = ctx.saved_tensors
        q, scale = ctx.layer.map(grads[0], "gradient", ctx.whole)
        g = q * scale
        inner = g if gain is None else g * gain
        dx = inner - inner.mean(-1, keepdim=True) - xhat * (inner * xhat).mean(-1, keepdim=True)
        over = tuple(range(g.dim() - 1))
        dgain = (g * xhat).sum(over) if ctx.needs_input_grad[1] else None
        dbias = g.sum(over) if ctx.needs_input_grad[2] else None
        return dx.mul_(inverse).to(ctx.dtype), dgain, dbias, None


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: IntegerLinear,
    Conv1D: IntegerConv1D,
    nn.Embedding: IntegerEmbedding,
    nn.LayerNorm: IntegerLayerNorm,
}
FLOATS = {integer: kind for kind, integer in KINDS.items()}
