"""The head alone, over a frozen backbone: a baseline, whose family is the whole model."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from rankbench.methods.base import Parameters
from rankbench.methods.full import Full
from rankbench.methods.submodel import Submodel
from rankbench.models import drawn
from rankbench.settings.run import Run


class Head(Full):
    """A classifier whose backbone stays as it came; what trains is what trains beside a LoRA."""

    def __init__(self, run: Run, model: nn.Module) -> None:
        self.model = model.requires_grad_(False)
        for name in drawn.head(model):
            model.get_submodule(name).requires_grad_(True)

    def count(self, submodel: Submodel) -> Parameters:
        """No adapter, and the head, which alone trains."""
        head = sum(p.numel() for p in self.trained().values())
        total = sum(p.numel() for p in self.model.parameters())
        return Parameters(adapter=0, head=head, trainable=head, total=total)

    def save(self, folder: Path) -> None:
        """The whole model in the hub's format."""
        self.model.save_pretrained(folder)
        self.write_note(folder, {"method": "head"})
