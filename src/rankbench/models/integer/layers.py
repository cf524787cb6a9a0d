"""The layers: stock ones whose forward and backward go through integers, with weights and names as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from rankbench.models.integer import kernels
from rankbench.models.integer.arithmetic import Arithmetic, Scaled
from rankbench.models.integer.fixed_point import check, magnitude, storage
from rankbench.models.integer.products import FP32, column_sums, largest

SAMPLED = 1024  # of a weight's numbers, by which a merge is noticed


class Integer:
    """What the layers share: the arithmetic, the layer's name, and what is kept of a weight that does not change."""

    arithmetic: Arithmetic
    name: str
    weight: Any
    training: bool
    _kept: tuple[Any, Any] | None

    @property
    def learns(self) -> bool:
        """Whether the weight changes with every step."""
        return self.training and bool(self.weight.requires_grad)

    def activation(self, x: torch.Tensor, whole: bool, dtype: torch.dtype) -> Scaled:
        """Integers of this layer's input."""
        return self.arithmetic.activation(x, self.name, self.training, whole, dtype)

    def gradient(self, x: torch.Tensor, whole: bool, dtype: torch.dtype = torch.float32) -> Scaled:
        """Integers of the gradient of this layer's output."""
        return self.arithmetic.map(x, "gradient", self.name, self.training, whole, dtype)

    def integers(self) -> Scaled:
        """The weight's integers; the nearest ones, and kept, unless it learns."""
        return self.kept(lambda weight: self.arithmetic.map(weight, "weight", self.name, self.learns))

    def kept(self, made: Callable[[torch.Tensor], Any]) -> Any:
        """What is `made` of the weight; kept while it is the same, unless it learns.

        What changes `weight.data`, as PEFT's merge does, leaves its version as it was, so outside of training some of
        its numbers are compared too.
        """
        weight = self.weight.detach()
        if self.learns:
            self._kept = None
            return made(weight)
        state = self.arithmetic.state(self.weight)
        if not self.training:
            state = (*state, tuple(weight.flatten()[:: max(1, weight.numel() // SAMPLED)].tolist()))
        elif self._kept is not None and self._kept[0][: len(state)] == state:
            return self._kept[1]
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False):  # or no training could read it later
                self._kept = (state, made(weight))
        return self._kept[1]

    def grows(self) -> bool:
        """Whether the weight will have a gradient of what is computed now."""
        return bool(self.weight.requires_grad) and torch.is_grad_enabled()

    def whole(self) -> bool:
        """Whether activations and gradients have one scale: in training where asked for, and for a weight's gradient.

        In evaluation rows never share one, so no row's result depends on another.
        """
        return (self.arithmetic.one_scale and self.training) or self.grows()


class IntegerLinear(nn.Linear, Integer):
    """Y = X W^T + c."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return _Product.apply(input, self.weight, self.bias, self, self.whole(), self.grows(), True)


class IntegerConv1D(Conv1D, Integer):
    """Y = X W + c, GPT-2's linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return _Product.apply(x, self.weight, self.bias, self, self.whole(), self.grows(), False)


class IntegerEmbedding(nn.Embedding, Integer):
    """Rows of the table's integers, mapped as they are read; the backward adds integers, in any order."""

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
    def forward(
        ctx: Any, x: torch.Tensor, weight: Any, bias: Any, layer: Any, whole: bool, grows: bool, turned: bool
    ) -> Any:
        arithmetic = layer.arithmetic
        qx, sx = layer.activation(x, whole, arithmetic.form("activation", x.device))
        qw, sw = layer.integers()
        ctx.layer, ctx.turned, ctx.whole, ctx.shape, ctx.dtype = layer, turned, whole, x.shape, x.dtype
        ctx.save_for_backward(arithmetic.stored(qx) if grows else None, sx, qw, sw)
        y = arithmetic.product(_rows(qx), qw.t() if turned else qw, "activation", "weight")
        y = _scaled(y, sx if whole else sx.view(-1, 1), sw, bias)
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        layer, arithmetic = ctx.layer, ctx.layer.arithmetic
        qx, sx, qw, sw = ctx.saved_tensors
        qg, sg = layer.gradient(grads[0], ctx.whole, arithmetic.form("gradient", grads[0].device))
        g, scale = _rows(qg), sg if ctx.whole else sg.view(-1, 1)
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = arithmetic.product(g, qw if ctx.turned else qw.t(), "gradient", "weight")
            dx = _scaled(dx, scale, sw).view(ctx.shape).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            x = _rows(qx)
            pairs = ((g, "gradient"), (x, "activation"))
            (left, one), (right, other) = pairs if ctx.turned else pairs[::-1]
            dw = _scaled(arithmetic.product(left.t(), right, one, other), sg, sx)
        if ctx.needs_input_grad[2]:
            db = column_sums(g, arithmetic.bits("gradient")).float() * sg if ctx.whole else (g * scale).sum(0)
        return dx, dw, db, None, None, None, None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """(..., k) -> (m, k)."""
    return x.reshape(-1, x.shape[-1])


def _scaled(
    product: torch.Tensor, rows: torch.Tensor, other: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The float32 result of a product of integers, from their scales: () or (m, 1), and ()."""
    made = kernels.scaled(product, rows, other, bias)
    if made is None:
        made = product.float().mul_(rows).mul_(other)
        if bias is not None:
            made += bias
    return made


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: Any, layer: Any) -> torch.Tensor:
        ctx.layer, ctx.count = layer, weight.shape[0]
        ctx.save_for_backward(ids)
        q, scale = layer.arithmetic.map(
            weight.detach()[ids], "weight", layer.name, layer.learns, True, torch.float32, layer.kept(magnitude), ids
        )
        return q.mul_(scale).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """The gradient of each word that was read: its sums in float64 are exact for 2^38 tokens of 16 bits."""
        (ids,) = ctx.saved_tensors
        q, scale = ctx.layer.gradient(grads[0], True)
        read, place = ids.unique(return_inverse=True)
        sums = q.new_zeros(len(read), q.shape[-1], dtype=torch.float64)
        sums.index_add_(0, place.flatten(), _rows(q).double())
        if ctx.layer.padding_idx is not None:
            sums[read == ctx.layer.padding_idx] = 0
        dense = q.new_zeros(ctx.count, q.shape[-1])
        dense[read] = sums.float().mul_(scale)
        return None, dense, None


class _Normalized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: Any, bias: Any, layer: Any) -> torch.Tensor:
        arithmetic = layer.arithmetic
        bits, whole = arithmetic.bits("activation"), arithmetic.one_scale and layer.training
        ctx.layer, ctx.whole, ctx.dtype = layer, whole, x.dtype
        if not whole and not arithmetic.draws("activation", layer.training):
            made = kernels.normalized(x, bits, storage(bits), layer.eps, gain, bias)
            if made is not None:
                q, y, total, inverse, steep, finite = made
                check(finite)
                ctx.save_for_backward(q, total, inverse, steep, gain)
                return y
        q, scale = layer.activation(x, whole, torch.float32)
        n = q.shape[-1]
        wide = q if n * largest(bits) ** 2 < FP32 else q.double()  # sums without rounding
        total = wide.sum(-1, keepdim=True)
        squares = (wide * wide).sum(-1, keepdim=True).double()
        spread = n * squares - total.double().square()
        root = (spread + layer.eps * n**2 / scale.double().square()).sqrt_()
        inverse, steep = root.reciprocal(), n / (root * scale)
        kept = total.double() if x.device.type == "cpu" else total  # as `kernels` reads it; a GPU is slow in float64
        ctx.save_for_backward(arithmetic.stored(q), kept, inverse, steep, gain)
        y = _centred(wide, total, inverse)
        if gain is not None:
            y *= gain
        if bias is not None:
            y += bias
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, total, inverse, steep, gain = ctx.saved_tensors
        g, scale = ctx.layer.gradient(grads[0], ctx.whole)
        dgain = dbias = None
        trains = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        inner = kernels.inner(g, scale, q, total, inverse, None if trains else gain)
        if inner is None:
            inner = g.mul_(scale) * _centred(q.to(total.dtype), total, inverse)
        elif not trains:
            gain = None  # it is in already
        if trains:
            dgain = _rows(inner).sum(0) if ctx.needs_input_grad[1] else None
            dbias = _rows(g).sum(0) if ctx.needs_input_grad[2] else None
        if gain is not None:
            inner *= gain
            g *= gain
        mean, slope = g.mean(-1, keepdim=True), inner.mean(-1, keepdim=True)
        dx = kernels.descended(g, q, (total, inverse, steep), mean, slope)
        if dx is None:
            xhat = _centred(q.to(total.dtype), total, inverse).mul_(slope)
            dx = g.sub_(mean).sub_(xhat).mul_(steep.float())
        return dx.to(ctx.dtype), dgain, dbias, None


def _centred(q: torch.Tensor, total: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """(n q - total) / root in float32; the difference is exact."""
    return (q * q.shape[-1]).sub_(total).add_(0.0).float().mul_(inverse.float())  # -0 as 0


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: IntegerLinear,
    Conv1D: IntegerConv1D,
    nn.Embedding: IntegerEmbedding,
    nn.LayerNorm: IntegerLayerNorm,
}
FLOATS = {integer: kind for kind, integer in KINDS.items()}
