"""What the layers of a model share: widths, rounding, scales, and the noise of the step."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from rankbench.models.integer import products
from rankbench.models.integer.fixed_point import magnitude, mapped, storage
from rankbench.models.integer.noise import Noise
from rankbench.settings import arithmetic as settings
from rankbench.system import processes

Scaled = tuple[torch.Tensor, torch.Tensor]  # integers and their scales


class Arithmetic:
    """Maps weights, activations and gradients as the settings have it, and multiplies."""

    def __init__(self, asked: settings.Arithmetic, seed: int) -> None:
        self.asked, self.noise = asked, Noise(seed)
        self.one_scale = asked.scale is settings.Scale.tensor
        self._last: tuple[Any, ...] | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> Arithmetic:
        """A copied layer, as the head of an exit is, draws with the others."""
        return self

    def bits(self, role: str) -> int:
        """The width of `weight`, `activation` or `gradient`."""
        return self.asked.bits[role]

    def product(self, a: torch.Tensor, b: torch.Tensor, *roles: str) -> torch.Tensor:
        """The exact product of integers in two roles: whole numbers in the dtype that was fastest."""
        return products.product(a, b, (self.bits(roles[0]), self.bits(roles[1])))

    def draws(self, role: str, training: bool) -> bool:
        """Whether integers of a role are rounded by chance."""
        return training and self.asked.rounding[role] == "stochastic"

    def activation(self, x: torch.Tensor, layer: str, training: bool, whole: bool, dtype: torch.dtype) -> Scaled:
        """Integers of an activation; those of the layer before where it read the same, as query, key and value do."""
        if x.is_inference() or self.draws("activation", training):
            return self.map(x, "activation", layer, training, whole, dtype)
        key, last = (x._version, training, whole, dtype), self._last  # another thread may put another's here
        if last is not None and last[0]() is x and last[1] == key:
            return last[2]
        self._last = None
        made = self.map(x, "activation", layer, training, whole, dtype)
        self._last = (weakref.ref(x, self._forget), key, made)
        return made

    def _forget(self, gone: Any) -> None:
        last = self._last
        if last is not None and last[0] is gone:
            self._last = None

    def stored(self, q: torch.Tensor) -> torch.Tensor:
        """An activation's integers as the backward keeps them, in one or two bytes."""
        return q.to(storage(self.bits("activation")))

    def state(self, weight: torch.Tensor) -> tuple[Any, ...]:
        """What changes with a weight, as far as its tensor tells."""
        return weight.data_ptr(), weight._version, weight.device

    def form(self, role: str, device: torch.device) -> torch.dtype:
        """The dtype in which integers of a role go into products."""
        return products.form(self.bits(role), device.type)

    def map(
        self,
        x: torch.Tensor,
        role: str,
        layer: str,
        training: bool,
        whole: bool = True,
        dtype: torch.dtype | None = None,
        top: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> Scaled:
        """Integers and scales of `x` in its role, by row unless `whole`; stochastic in training alone.

        A weight's noise is by its `places` (default: its rows).
        """
        noise = None
        if self.draws(role, training):
            if role == "weight" and places is None:
                places = torch.arange(x.shape[:-1].numel(), device=x.device).view(x.shape[:-1])
            noise = self.noise.of(f"{role} {layer}", x.shape, x.device, places)
        if whole and role != "weight" and training and processes.count() > 1:
            top = magnitude(x)
            top = processes.most(torch.where(torch.isfinite(top), top, torch.inf))  # a maximum drops NaN
        return mapped(x, self.bits(role), not whole, noise, top, dtype)
