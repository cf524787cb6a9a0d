"""Dynamic fixed point: a tensor as integers times one power of two, or one for each row (Ghaffari et al. 2022).

`x ~ q 2^s` with `q` of b bits, `s = e - (b - 2)` and `e` the exponent of the largest magnitude, which so gets all of
its bits. Rounding that reaches 2^(b-1) is clamped.
"""

from __future__ import annotations

import torch

from rankbench.models.integer.products import largest

SMALLEST = -120  # exponents of scales stay above it, so that 2^-s is a float: below, small numbers have fewer bits


def mapped(
    x: torch.Tensor, bits: int, by_row: bool = False, noise: torch.Tensor | None = None, top: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers `q` of `bits` (8: int8, else int16) for `x` (..., k), and float32 scales 2^s: (), or (..., 1) by row.

    They are the nearest ones, ties to even; with `noise` in [0, 1), which broadcasts, floor(x 2^-s + noise). `top` is
    the largest magnitude where it is known. Raises FloatingPointError where `x` is not finite; on a GPU, which would
    have to wait for that, the scale is NaN then, and so is what comes of it.
    """
    x = x.float()
    if top is None:
        top = x.abs().amax(-1, keepdim=True) if by_row else x.abs().amax() if x.numel() else x.new_zeros(())
    if top.device.type == "cpu" and not torch.isfinite(top).all():
        raise FloatingPointError("integer arithmetic: a number is not finite; lower train.learning_rate")
    exponent = torch.frexp(top).exponent - 1 - (bits - 2)
    scale = torch.ldexp(torch.ones_like(top), exponent.clamp(min=SMALLEST))
    scale = torch.where(top == 0, torch.ones_like(scale), scale)
    y = x * scale.reciprocal()
    y = y.round_() if noise is None else y.add_(noise).floor_()
    most = largest(bits)
    q = y.clamp_(-most, most).to(torch.int8 if bits <= 8 else torch.int16)
    return q, torch.where(torch.isfinite(top), scale, torch.nan)
