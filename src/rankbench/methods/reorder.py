"""Turn the factors of a LoRA into the order of their singular values while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

# How optimizers name the running means of a gradient and of its square: torch's, bitsandbytes'.
MEAN, SQUARE = ("exp_avg", "state1"), ("exp_avg_sq", "state2")


def reorder(a: nn.Parameter, b: nn.Parameter, state: Mapping[Any, Mapping[str, Any]]) -> None:
    """Replace A (r, in) and B (out, r) by M A and B M^-1, so that each prefix of B A is its truncated SVD.

    The product stays as it was. Rows of A become orthogonal and of one length, the root mean square of what they had,
    so that columns of B carry the singular values, falling: a LoRA's own geometry, in which a step of the optimizer
    means what it meant. `state` is the optimizer's: means of the gradient turn with the factors exactly, means of
    its square as if the rows' gradients were uncorrelated.
    """
    old_a, old_b = a.detach().double(), b.detach().double()
    right, lower = torch.linalg.qr(old_a.T)
    left, upper = torch.linalg.qr(old_b @ lower.T)
    u, values, vt = torch.linalg.svd(upper)
    length = old_a.norm(dim=1).square().mean().sqrt()
    new_a = length * vt @ right.T
    turn = new_a @ torch.linalg.pinv(old_a)  # M
    back = torch.linalg.pinv(turn)
    a.data.copy_(new_a)
    b.data.copy_(left @ u * values / length)
    for moments, before, after in ((state.get(a), back.T, None), (state.get(b), None, turn.T)):
        for names, power in ((MEAN, 1), (SQUARE, 2)):
            for name in names:
                if moments and moments.get(name) is not None:
                    moment = moments[name].to(turn.device, torch.float64)  # paged moments lie on the host
                    moment = moment @ after**power if before is None else before**power @ moment
                    moments[name].copy_(moment)
