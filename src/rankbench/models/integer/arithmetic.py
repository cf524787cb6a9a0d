"""What the layers of a model share: widths, rounding, scales, and the noise of the step."""

from __future__ import annotations

import torch

from rankbench.models.integer.fixed_point import mapped
from rankbench.models.integer.noise import Noise
from rankbench.settings import arithmetic as settings
from rankbench.system import processes


class Arithmetic:
    """Maps weights, activations and gradients as the settings have it."""

    def __init__(self, asked: settings.Arithmetic, seed: int) -> None:
        self.asked, self.noise = asked, Noise(seed)
        self.one_scale = asked.scale is settings.Scale.tensor

    def __deepcopy__(self, memo: dict[int, object]) -> Arithmetic:
        """A copied layer, as the head of an exit is, draws with the others."""
        return self

    def bits(self, *roles: str) -> tuple[int, ...]:
        """The widths of `weight`, `activation` or `gradient`."""
        return tuple(self.asked.bits[role] for role in roles)

    def map(
        self, x: torch.Tensor, role: str, layer: str, training: bool, whole: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers and scales of `x` in its role, by row unless `whole`; stochastic in training alone."""
        noise = None
        if training and self.asked.rounding[role] == "stochastic":
            noise = self.noise.of(f"{role} {layer}", x.shape, x.device)
        top = None
        if whole and role != "weight" and training and processes.count() > 1:
            top = x.abs().amax().float()
            top = processes.most(torch.where(torch.isfinite(top), top, torch.inf))  # a maximum drops NaN
        return mapped(x, self.bits(role)[0], not whole, noise, top)
