"""Full fine-tuning: nothing to set but the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankbench.settings.methods.base import Method


@dataclass
class Full(Method):
    """Every weight trains, and there is no rank."""

    implementation: ClassVar[str] = "rankbench.methods.full:Full"

    @property
    def trains_every_weight(self) -> bool:
        """All of them."""
        return True
