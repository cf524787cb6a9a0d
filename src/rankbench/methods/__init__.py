"""The methods: what enters is a backbone and a run's settings, what leaves is its nested family of sub-models."""

from __future__ import annotations

from torch import nn

from rankbench.methods.base import FineTuning, Parameters
from rankbench.settings.outside import load
from rankbench.settings.run import Run

__all__ = ["FineTuning", "Parameters", "attach"]


def attach(run: Run, model: nn.Module) -> FineTuning:
    """Change `model` as the run's method asks; raises RequestError where the two do not fit."""
    tuning: FineTuning = load(run.adapter.implementation)(run, model)
    return tuning
