"""Sorted fine-tuning: a family of exits, alone or crossed with the ranks of an adapter."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankbench.errors import RequestError
from rankbench.methods import objective
from rankbench.methods.base import Backward, FineTuning, Parameters
from rankbench.methods.full import Full
from rankbench.methods.layer_stack import Stack
from rankbench.methods.lora import DyLora, Lora
from rankbench.methods.submodel import Submodel
from rankbench.settings.methods.sorted_ft import Trainable
from rankbench.settings.run import Run


class Sorted(FineTuning):
    """Exits of one model through its shared final norm and head (Sorted LLaMA Eq. 1), over any other fine-tuning.

    The family is the exits, or with ranks (`sorted_lora`) every pair of a rank and an exit.
    """

    def __init__(self, run: Run, model: nn.Module) -> None:
        self.run = run
        self.stack = Stack(model)
        self.exits = exits(run, len(self.stack.layers))
        weights = getattr(run.sampler, "exit_weights", None)
        if weights is not None and len(weights) != len(self.exits):
            raise RequestError(
                f"sampler.exit_weights has {len(weights)} weights for the {len(self.exits)} exits {self.exits}; give "
                "one for each"
            )
        ranked = run.adapter.nested
        lora = getattr(run.adapter, "trainable", Trainable.all) is Trainable.lora
        kind = DyLora if ranked else Lora if lora else Full
        self.inner: FineTuning = kind(run, model)
        self.model = self.inner.model
        self.stacks = self.inner.stacks
        members = self.inner.family if ranked else self.inner.family[-1:]
        self.family = tuple(Submodel(m.rank if ranked else None, depth) for depth in self.exits for m in members)
        self._trained = self.inner.trained()
        self.activate(self.family[-1])

    def _inner(self, submodel: Submodel) -> Submodel:
        if submodel not in self.family:
            raise ValueError(f"'{submodel}' is outside the family, {self.family[0]} to {self.family[-1]}")
        return self.inner.family[-1] if submodel.rank is None else Submodel(rank=submodel.rank)

    def activate(self, submodel: Submodel) -> None:
        """Cut the model at the depth of `submodel`, and hold its rank."""
        self.inner.activate(self._inner(submodel))
        assert submodel.depth is not None
        self.stack.cut(submodel.depth)

    def active(self) -> Submodel:
        """The exit, and the rank where there are ranks."""
        rank = self.inner.active().rank if self.family[0].rank is not None else None
        return Submodel(rank, self.stack.depth)

    def activate_rows(self, submodels: Sequence[Submodel]) -> None:
        """Rows may differ in rank, not in depth."""
        depths = {submodel.depth for submodel in submodels}
        if len(depths) > 1:
            raise ValueError(f"rows of one batch have the depths {sorted(map(str, depths))}; one forward has one depth")
        self.inner.activate_rows([self._inner(submodel) for submodel in submodels])
        self.stack.cut(next(depth for depth in depths if depth is not None))

    def hold_ranks_in_tensors(self, on: bool) -> None:
        """As the inner fine-tuning's."""
        self.inner.hold_ranks_in_tensors(on)

    def accumulate(
        self, model: Any, batch: dict[str, torch.Tensor], drawn: Sequence[tuple[Submodel, float]], backward: Backward
    ) -> torch.Tensor:
        """Several exits of one rank share a forward through the layers; one exit's logits are alive at a time.

        Each exit's loss goes back to a detached residual stream, and the streams' gradients then through the layers
        in one backward: the gradient of the mean loss (Sorted LLaMA Eq. 1).
        """
        if len(drawn) == 1 or len({submodel.rank for submodel, _ in drawn}) > 1:
            return super().accumulate(model, batch, drawn, backward)
        depths = [submodel.depth or 0 for submodel, _ in drawn]
        self.activate(max((submodel for submodel, _ in drawn), key=lambda m: m.depth or 0))
        with self.stack.tapped(depths) as streams, self._body():
            model(**objective.trunk_inputs(batch))
        total = torch.zeros((), device=batch["input_ids"].device)
        leaves = {}
        for submodel, weight in drawn:
            depth = submodel.depth or 0
            leaves[depth] = streams[depth].detach().requires_grad_()
            with self.stack.between(depth, depth, leaves[depth]):
                total += self._accumulate_active(model, batch, weight, backward)
        behind = [depth for depth in depths if streams[depth].requires_grad]
        torch.autograd.backward([streams[d] for d in behind], [leaves[d].grad for d in behind])
        return total

    def _body(self) -> contextlib.AbstractContextManager[Any]:
        """What the shared forward runs under."""
        return contextlib.nullcontext()

    def trained(self) -> dict[str, nn.Parameter]:
        """All that trains, whatever the depth of the moment."""
        return self._trained

    def optimized(self) -> list[torch.Tensor]:
        """As the inner fine-tuning's; asked before any cut."""
        return self.inner.optimized()

    def shape_gradients(self, submodel: Submodel) -> None:
        """As the inner fine-tuning's."""
        self.inner.shape_gradients(self._inner(submodel))

    def count(self, submodel: Submodel) -> Parameters:
        """Those of the first layers and of what stands outside the layers."""
        depth, inner = self.active().depth, self._inner(submodel)
        assert submodel.depth is not None and depth is not None
        self.stack.cut(submodel.depth)
        try:
            return self.inner.count(inner)
        finally:
            self.stack.cut(depth)

    def save(self, folder: Path) -> None:
        """The whole depth as the inner fine-tuning saves it, with a note of the exits."""
        self.activate(self.family[-1])
        self.inner.save(folder)
        note = json.loads((folder / "rankbench.json").read_text())
        trained = self.exits if self.run.adapter.several else self.exits[-1:]
        self.write_note(folder, note | {"method": self.run.adapter.name, "exits": self.exits, "trained_exits": trained})


def exits(run: Run, layers: int) -> list[int]:
    """The depths of the family, smallest first, always with the whole depth: a list, a stride, or a quarter's steps."""
    adapter = run.adapter
    chosen = adapter.exits or (None if adapter.exit_stride or run.model.layers else run.model.exits)
    chosen = chosen or list(range(layers, 0, -(adapter.exit_stride or max(1, layers // 4))))
    outside = [depth for depth in chosen if not 1 <= depth <= layers]
    if outside:
        raise RequestError(
            f"adapter.exits has {outside}, outside 1..{layers}, the layers of {run.model.name}; give depths within"
        )
    return sorted({*chosen, layers})
