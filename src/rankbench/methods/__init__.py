"""The methods: each changes a backbone once and offers its nested family of sub-models."""

from __future__ import annotations

from torch import nn

from rankbench.methods.base import FineTuning, Parameters
from rankbench.methods.flop import Flop, GatedLora
from rankbench.methods.full import Full
from rankbench.methods.lora import DyLora, Lora
from rankbench.methods.sorted_ft import EarlyExit, Sorted
from rankbench.settings.run import Run

__all__ = ["ADAPTERS", "FineTuning", "Parameters", "attach"]

ADAPTERS: dict[str, type[FineTuning]] = {"lora": Lora, "dylora": DyLora, "qdylora": DyLora, "full": Full}
ADAPTERS |= {"dylora_late": DyLora}
ADAPTERS |= {"sft": Sorted, "sorted_ft": Sorted, "sorted_lora": Sorted, "early_exit": EarlyExit}
ADAPTERS |= {"flop": Flop, "lora_gated": GatedLora}


def attach(run: Run, model: nn.Module) -> FineTuning:
    """Change `model` as the run's adapter asks; raises RequestError where the two do not fit."""
    return ADAPTERS[run.adapter.name](run, model)
