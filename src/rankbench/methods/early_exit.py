"""Early exits: a head of its own for each exit, over a frozen body."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rankbench.errors import RequestError
from rankbench.methods.base import Parameters
from rankbench.methods.layer_stack import Stack
from rankbench.methods.sorted_ft import Sorted
from rankbench.methods.submodel import Submodel
from rankbench.models import drawn, sharding
from rankbench.settings.identity import start_folder
from rankbench.settings.run import Run
from rankbench.settings.sources import Source, fingerprint

log = logging.getLogger("rankbench")


class EarlyExit(Sorted):
    """A frozen body with a head of its own for each exit but the last (Sorted LLaMA's SFT+ICT baseline).

    The heads begin as copies of the model's own; the final norm stays frozen and shared.
    """

    def __init__(self, run: Run, model: nn.Module) -> None:
        super().__init__(run, model)
        self.model.requires_grad_(False)
        self.heads = heads_over(self.stack, self.exits[:-1])
        if not self.heads:
            raise RequestError(
                f"adapter=early_exit trains a head for each exit before the last, and adapter.exits={self.exits} has "
                "none; give another depth"
            )
        if run.adapter.begins_with is None and (random := drawn.lacking(model)):
            log.warning(
                "the last exit, depth %d, keeps the random head (%s) that its files lack: early_exit trains the heads "
                "before it; give adapter.start_from=RUN, a run of adapter=sft, for a trained one",
                *(self.exits[-1], ", ".join(random)),
            )
        self.stack.heads = self.heads
        self._trained = {
            f"heads.{depth}.{name}": p for depth, head in self.heads.items() for name, p in head.named_parameters()
        }

    def _body(self) -> contextlib.AbstractContextManager[Any]:
        return torch.no_grad()

    @property
    def learners(self) -> tuple[Submodel, ...]:
        """The exits that have a head to train: all but the last."""
        return tuple(member for member in self.family if member.depth in self.heads)

    def optimized(self) -> list[torch.Tensor]:
        """The heads' weights."""
        return list(self._trained.values())

    def count(self, submodel: Submodel) -> Parameters:
        """The first layers, and the exit's own head, which alone trains."""
        active = self.active()
        self.activate(submodel)
        total = sum(map(sharding.size, self.model.parameters()))
        self.activate(active)
        head = sum(p.numel() for p in self.stack.head(submodel.depth or 0).parameters())
        return Parameters(adapter=0, head=head, trainable=head if submodel.depth in self.heads else 0, total=total)

    def save(self, folder: Path) -> None:
        """The heads; the body is the backbone's or that of the run it started from."""
        save_file({name: p.detach().contiguous() for name, p in self._trained.items()}, folder / "heads.safetensors")
        note = {"method": "early_exit", "exits": self.exits, "trained_exits": self.exits}
        if self.run.adapter.begins_with is not None:
            note |= {"start_fingerprint": fingerprint(Source("path", start_folder(self.run) / "adapter"))}
        self.write_note(folder, note)


def heads_over(stack: Stack, depths: Sequence[int]) -> dict[int, nn.Module]:
    """A trainable copy in float32 of the model's own head for each depth."""
    return {depth: copy.deepcopy(stack.head(depth)).float().requires_grad_(True) for depth in depths}
