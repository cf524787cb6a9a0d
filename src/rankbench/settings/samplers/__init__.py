"""The settings of each sampler, torch-free: what enters is YAML, what leaves is a checked `Sampler`.

A sampler of another package comes by an entry point of the group `rankbench.samplers`.
"""

from __future__ import annotations

from rankbench.settings.outside import installed
from rankbench.settings.samplers.all import All
from rankbench.settings.samplers.base import Sampler
from rankbench.settings.samplers.exits import Exits
from rankbench.settings.samplers.fixed import Fixed
from rankbench.settings.samplers.geometric import Geometric
from rankbench.settings.samplers.sandwich import Sandwich
from rankbench.settings.samplers.uniform import Uniform

__all__ = ["SAMPLERS", "Sampler"]

SAMPLERS: dict[str, type[Sampler]] = {
    "fixed": Fixed,
    "uniform": Uniform,
    "geometric": Geometric,
    "all": All,
    "exits": Exits,
    "sandwich": Sandwich,
}
SAMPLERS |= installed("rankbench.samplers", Sampler, SAMPLERS)
