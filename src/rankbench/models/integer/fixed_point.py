"""Dynamic fixed point: a tensor as integers times one power of two, or one for each row (Ghaffari et al. 2022).

`x ~ q 2^s` with `q` of b bits, `s = e - (b - 2)` and `e` the exponent of the largest magnitude, which so gets all of
its bits. Rounding that reaches 2^(b-1) is clamped.
"""

from __future__ import annotations

import math

import torch

from rankbench.models.integer import kernels
from rankbench.models.integer.kernels import Draws
from rankbench.models.integer.products import largest

SMALLEST = -120  # exponents of scales stay above it, so that 2^-s is a float: below, small numbers have fewer bits
BLOCK = 2**18  # numbers that a CPU maps at a time: they stay in its cache


def storage(bits: int) -> torch.dtype:
    """The smallest dtype of integers of so many bits."""
    return torch.int8 if bits <= 8 else torch.int16


def magnitude(x: torch.Tensor, by_row: bool = False) -> torch.Tensor:
    """The largest |x|, in float32: (), or (..., 1) by row. It is NaN where one of the numbers is."""
    if not x.numel() and not by_row:
        return x.new_zeros((), dtype=torch.float32)
    low, high = (x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)) if by_row else torch.aminmax(x)
    return torch.maximum(high, -low).float()


def mapped(
    x: torch.Tensor,
    bits: int,
    by_row: bool = False,
    noise: Draws | None = None,
    top: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers `q` of `bits` for `x` (..., k), and float32 scales 2^s: (), or (..., 1) by row.

    They are the nearest ones, ties to even; with `noise` u in [0, 1), floor(x 2^-s + u). `top` is the largest magnitude
    where it is known, `dtype` that of `q` (default: `storage(bits)`; float32 holds them too). Raises FloatingPointError
    where `x` is not finite; on a GPU, which would have to wait for that, the scale is NaN then, and so is what comes of
    it.
    """
    x = x.float()
    made = kernels.mapped(x, bits, by_row, noise, top, dtype or storage(bits))
    if made is not None:
        check(made[2])
        return made[:2]
    q = torch.empty(x.shape, dtype=dtype or storage(bits), device=x.device)
    top = magnitude(x, by_row) if top is None else top
    on_cpu = x.device.type == "cpu"
    check(not on_cpu or not top.numel() or math.isfinite(float(top.max())))
    scale = _scale(top, bits)
    if x.numel():
        inverse = scale.reciprocal().view(-1, 1) if by_row else 1 / float(scale) if on_cpu else scale.reciprocal()
        _fill(q, x, inverse, largest(bits), noise, BLOCK if on_cpu else x.numel())
    return q, scale if on_cpu else torch.where(torch.isfinite(top), scale, torch.nan)


def check(finite: bool) -> None:
    """Raises FloatingPointError."""
    if not finite:
        raise FloatingPointError("integer arithmetic: a number is not finite; lower train.learning_rate")


def _scale(top: torch.Tensor, bits: int) -> torch.Tensor:
    """2^s by the exponent of the largest magnitude; 1 for zeros."""
    if not top.dim() and top.device.type == "cpu":
        value = float(top)
        return torch.tensor(2.0 ** max(math.frexp(value)[1] + 1 - bits, SMALLEST) if value else 1.0)
    exponent = torch.frexp(top).exponent.add_(1 - bits).clamp_(min=SMALLEST)
    return torch.where(top > 0, torch.ldexp(torch.ones_like(top), exponent), 1.0)


def _fill(
    q: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor | float, most: int, noise: Draws | None, together: int
) -> None:
    """Put the integers of `x` into `q`, about so many `together`, in one buffer."""
    width = x.shape[-1]
    flat, out = x.reshape(-1, width), q.view(-1, width)
    step = max(1, together // width)
    block = min(step, len(flat)), width
    buffer = None if q.dtype is torch.float32 else x.new_empty(block)
    drawn = None if noise is None else x.new_empty(block)
    for start in range(0, len(flat), step):
        rows = slice(start, start + step) if len(flat) > step else ...
        target = out[rows]
        y = target if buffer is None else buffer[: len(target)]
        torch.mul(flat[rows], inverse[rows] if isinstance(inverse, torch.Tensor) and inverse.dim() else inverse, out=y)
        if noise is None or drawn is None:
            y.round_()
        else:
            u = torch.add(noise[0].view(-1, 1)[rows], noise[1], out=drawn[: len(target)])
            y.add_(u.frac_()).floor_()
        y.clamp_(-most, most)
        if buffer is not None:
            target.copy_(y)
