"""The largest rank and one drawn from the others, losses averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankbench.settings.samplers.base import PerRow


@dataclass
class Sandwich(PerRow):
    """Two passes a step, or half the rows of a batch each."""

    implementation: ClassVar[str] = "rankbench.training.samplers:sandwich"
