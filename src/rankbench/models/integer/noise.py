"""Stochastic rounding's noise as a pure function of seed, step, layer, and the place in the data."""

from __future__ import annotations

from typing import Any

import torch

from rankbench.models.integer import kernels
from rankbench.system import seeds

ONES = 2**64 - 1  # the words of 64 bits that a key is taken from


class Noise:
    """What a step's draws depend on: `step`, and `rows`, the numbers in the data of the rows of the batch.

    The noise of element k of token t of row i is frac(u[i, t] + v[k]), u and v uniform and independent: uniform, and
    independent of any other element's. So a sum has the mean and the variance that a draw for each element gives it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.rows: torch.Tensor | None = None
        self._known: tuple[tuple[Any, ...], torch.Tensor] | None = None

    def at(self, step: int, rows: torch.Tensor) -> None:
        """The next forward and backward are of this optimizer step and of these rows of the data, on their device."""
        self.step, self.rows, self._known = step, rows, None

    def of(
        self, layer: str, shape: torch.Size, device: torch.device, places: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """u (..., 1) and v (k,) of a tensor (..., k).

        Row i of the batch draws by its number, wherever it is read; what is no batch has numbers of its own as
        `places` (...).
        """
        key = seeds.integer(self.seed, f"rounding {layer}", self.step) & ONES
        places = self._places(shape[:-1], device) if places is None else places
        tokens = _uniform(places.reshape(-1).long(), key)
        return tokens.view(*shape[:-1], 1), _uniform(shape[-1], ~key & ONES, device)

    def _places(self, shape: torch.Size, device: torch.device) -> torch.Tensor:
        """A number for each token; a tensor that has not the batch's rows first counts its own places."""
        if self._known is None or self._known[0] != (shape, device):
            self._known = (shape, device), self._counted(shape, device)
        return self._known[1]

    def _counted(self, shape: torch.Size, device: torch.device) -> torch.Tensor:
        places = torch.arange(shape.numel(), device=device).view(shape)
        if self.rows is None or not shape or shape[0] != len(self.rows):
            return places
        within = torch.arange(shape[1:].numel(), device=device).view(1, *shape[1:])
        return (self.rows << 24).view(-1, *(1,) * (len(shape) - 1)) + within


def _uniform(counters: torch.Tensor | int, key: int, device: torch.device | None = None) -> torch.Tensor:
    """A uniform number in [0, 1) of 24 bits for each counter, or of 0 to n - 1: splitmix64's mix of it and the key."""
    if device is None or device.type == "cpu":
        made = kernels.uniform(counters, key)
        if made is not None:
            return made
    z = torch.arange(counters, device=device) if isinstance(counters, int) else counters
    z = z * _signed(0x9E3779B97F4A7C15) + _signed(key)
    z ^= _right(z, 30)
    z *= _signed(0xBF58476D1CE4E5B9)
    z ^= _right(z, 27)
    z *= _signed(0x94D049BB133111EB)
    z ^= _right(z, 31)
    return _right(z, 40).float().mul_(2.0**-24)


def _right(z: torch.Tensor, by: int) -> torch.Tensor:
    """A logical shift to the right, which torch has for no signed number."""
    return (z >> by).bitwise_and_((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
