"""Full fine-tuning: every weight trains, and the family is the whole model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from rankbench.methods.base import FineTuning, Parameters
from rankbench.methods.submodel import Submodel
from rankbench.settings.run import Run

WHOLE = Submodel()


class Full(FineTuning):
    """The backbone itself, all weights trained."""

    family = (WHOLE,)

    def __init__(self, run: Run, model: nn.Module) -> None:
        self.model = model.requires_grad_(True)

    def activate(self, submodel: Submodel) -> None:
        """Nothing to choose."""
        if submodel != WHOLE:
            raise ValueError(f"full fine-tuning has no sub-model '{submodel}'")

    def active(self) -> Submodel:
        """Always the whole model."""
        return WHOLE

    def count(self, submodel: Submodel) -> Parameters:
        """No adapter; the head is what stands outside the base model."""
        return count_all(self.model)

    def save(self, folder: Path) -> None:
        """The whole model in the hub's format."""
        self.model.save_pretrained(folder)
        self.write_note(folder, {"method": "full"})


def count_all(model: nn.Module) -> Parameters:
    """The parameters of a model of which every weight trains."""
    total = sum(p.numel() for p in model.parameters())
    base: Any = model.base_model
    head = 0 if base is model else total - sum(p.numel() for p in base.parameters())
    return Parameters(adapter=0, head=head, trainable=total, total=total)
