"""Weights as two factors with a gate on each component between them: hard concrete gates, the SVD, and the way back."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankbench.models import float32

FACTORS = "factors.safetensors"  # no name that transformers reads: it would draw the factorised layers at random
GAMMA, ZETA = -0.1, 1.1  # how far a gate is stretched beyond [0, 1] before it is clamped (Louizos et al. 2018)
BETA = 1.0  # as FLOP's code has it; Louizos et al. take 2/3
START = math.log(0.95 / 0.05)  # log alpha of a gate at first; with FLOP's 0.5 pretrained weights would begin halved
_POINTS = (torch.arange(64) + 0.5) / 64  # where P(z > x) is taken for the mean of z


def above(log_alpha: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """P(z > x) of hard concrete gates, 0 <= x < 1; at 0 the probability that a gate is open (Louizos et al. 2018)."""
    return torch.sigmoid(log_alpha - BETA * torch.log((x - GAMMA) / (ZETA - x)))


class Gated(float32.Linear):
    """The first of two factors, x -> diag(z) Q x, with a hard concrete gate z in [0, 1] on each row of Q.

    In training every forward draws z; in eval mode z is `mask()`.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(*weight.shape[::-1], bias=False, device="meta")
        self.weight = nn.Parameter(weight.detach().contiguous())  # the fused optimizer reads memory in order
        self.log_alpha = nn.Parameter(torch.full((len(weight),), START, device=weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., rows)."""
        z = self.draw() if self.training else self.mask()
        low = super().forward(x)
        return low * z.to(low.dtype)

    def draw(self) -> torch.Tensor:
        """A sample of z (rows,), differentiable in log alpha, by torch's generator."""
        concrete = torch.sigmoid((torch.rand_like(self.log_alpha).logit() + self.log_alpha) / BETA)
        return (concrete * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def expected(self) -> torch.Tensor:
        """E||z||_0, the expected number of open gates."""
        return above(self.log_alpha, self.log_alpha.new_zeros(())).sum()

    def mean(self) -> torch.Tensor:
        """E[z] (rows,), so that a layer without noise gives the mean of its outputs with noise."""
        return above(self.log_alpha[:, None], _POINTS.to(self.log_alpha.device)).mean(1)

    def kept(self, count: int | None = None) -> torch.Tensor:
        """The `count` rows most likely open, in order; by default E||z||_0 of them, rounded."""
        count = round(self.expected().item()) if count is None else count
        return self.log_alpha.topk(count).indices.sort().values

    def mask(self) -> torch.Tensor:
        """What z becomes when training ends (rows,): the mean of the gates that are kept, 0 for the others."""
        kept = self.kept()
        return torch.zeros_like(self.log_alpha).index_copy(0, kept, self.mean()[kept])


class Factorised(nn.Module):
    """A linear layer as two, x -> P (Q x) + bias; `conv` says whether it was GPT-2's Conv1D."""

    def __init__(self, q: nn.Linear, p: nn.Linear, conv: bool) -> None:
        super().__init__()
        self.q, self.p, self.conv = q, p, conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return self.p(self.q(x))

    def multiplied(self) -> nn.Module:
        """The layer that it stands for, its weight P Q."""
        weight = (self.p.weight @ self.q.weight).detach()
        if not self.conv:
            return linear(weight, self.p.bias)
        made = Conv1D(*weight.shape)
        made.weight, made.bias = nn.Parameter(weight.T.contiguous()), self.p.bias
        return made


def factorise(layer: nn.Module, k: int) -> tuple[Factorised, float]:
    """The layer with its best approximation of rank k as U sqrt(S) and sqrt(S) V^T, gated; and its relative error.

    The error is ||W - P Q|| / ||W|| in the Frobenius norm (Eckart-Young).
    """
    conv = isinstance(layer, Conv1D)
    weight = layer.weight.detach().float()
    u, s, vt = torch.linalg.svd(weight.T if conv else weight, full_matrices=False)
    root = s[:k].sqrt()
    made = Factorised(Gated(root[:, None] * vt[:k]), linear(u[:, :k] * root, layer.bias), conv)
    return made, 0.0 if s.is_meta else (s[k:].norm() / s.norm().clamp_min(1e-30)).item()


def multiply_out(model: nn.Module) -> nn.Module:
    """Put whole weights in the place of factors, so that `model` is one that transformers knows."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Factorised):
            model.set_submodule(name, module.multiplied())
    return model


def read_factors(model: nn.Module, ranks: dict[str, int], folder: Path) -> None:
    """Give a fresh model of the same architecture the factors and weights that `Flop.save` left in a folder.

    Raises RuntimeError or SafetensorError where they do not fit, OSError where they are not there.
    """

    def empty(layer: nn.Module, k: int) -> Factorised:
        outputs, inputs = layer.weight.shape[::-1] if isinstance(layer, Conv1D) else layer.weight.shape
        return Factorised(
            linear(torch.empty(k, inputs)), linear(torch.empty(outputs, k), layer.bias), isinstance(layer, Conv1D)
        )

    for name, k in ranks.items():
        model.set_submodule(name, empty(model.get_submodule(name), k))
    load_model(model, str(folder / FACTORS))


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    """A layer of this weight (out, in), trainable, of no rows or columns too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is drawn for an empty weight
        made = float32.Linear(*weight.shape[::-1], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made
