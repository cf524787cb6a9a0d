"""What the loop, the evaluation and the record know of a method: a family, and how to make one member active."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankbench.methods import objective
from rankbench.methods.submodel import Submodel
from rankbench.models.integer import Arithmetic

Backward = Callable[[torch.Tensor], None]


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of one sub-model: what it adds, what a fine-tuning of its size trains, and the whole."""

    adapter: int
    head: int
    trainable: int
    total: int


class FineTuning(ABC):
    """A backbone changed by a method. `family` lists its sub-models, small to large; the largest is active first."""

    model: nn.Module
    family: tuple[Submodel, ...]
    stacks = False  # whether `activate_rows` works
    class_weights: torch.Tensor | None = None  # (classes,), by which the training loss weighs rows
    label_smoothing = 0.0  # of the training loss
    arithmetic: Arithmetic | None = None  # of layers that compute in integers
    reorder_at: Sequence[float] = ()  # shares of the steps after which `reorder` is called

    @abstractmethod
    def activate(self, submodel: Submodel) -> None:
        """Make every following forward that of `submodel`, until the next call."""

    @abstractmethod
    def active(self) -> Submodel:
        """The sub-model of the next forward."""

    def activate_rows(self, submodels: Sequence[Submodel]) -> None:
        """Make the next forwards read row i of a batch by submodels[i]."""
        raise TypeError(f"{type(self).__name__} evaluates its sub-models one by one")

    def hold_ranks_in_tensors(self, on: bool) -> None:
        """From the next `activate` on a rank is the content of a tensor, so that a compiled forward serves them all."""

    def activate_each(self, submodels: Sequence[Submodel]) -> None:
        """As `activate_rows`; rows that are all of one sub-model any method can read."""
        if len(set(submodels)) == 1:
            self.activate(submodels[0])
        else:
            self.activate_rows(submodels)

    @abstractmethod
    def count(self, submodel: Submodel) -> Parameters:
        """The parameters of `submodel`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained weights, safetensors only, into the new folder `folder`."""

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name: what a checkpoint holds."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def learners(self) -> tuple[Submodel, ...]:
        """The members of the family that training may draw, small to large: those with something to train."""
        return self.family

    def accumulate(
        self, model: Any, batch: dict[str, torch.Tensor], drawn: Sequence[tuple[Submodel, float]], backward: Backward
    ) -> torch.Tensor:
        """Add the gradient of the drawn sub-models' weighted losses on a batch; returns that loss, detached.

        `model` is the callable to run, `backward` what takes a loss backwards.
        """
        total = torch.zeros((), device=batch["input_ids"].device)
        for submodel, weight in drawn:
            self.activate(submodel)
            total += self._accumulate_active(model, batch, weight, backward)
        return total

    def accumulate_rows(
        self,
        model: Any,
        batch: dict[str, torch.Tensor],
        submodels: Sequence[Submodel],
        weight: float,
        backward: Backward,
    ) -> torch.Tensor:
        """As `accumulate`, with row i of the batch read by submodels[i]: one pass, whatever their number."""
        self.activate_rows(submodels)
        return self._accumulate_active(model, batch, weight, backward)

    def _accumulate_active(
        self, model: Any, batch: dict[str, torch.Tensor], weight: float, backward: Backward
    ) -> torch.Tensor:
        loss = objective.loss(model, batch, self.class_weights, self.label_smoothing) * weight
        backward(loss)
        return loss.detach()

    def optimized(self) -> list[torch.Tensor]:
        """The tensors that the optimizer steps; by default the trained parameters."""
        return list(self.trained().values())

    def own_rates(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Trained parameters beside `optimized()`, with a constant rate: no schedule, no decay, no clipping."""
        return []

    def penalty(self, step: int, steps: int) -> torch.Tensor | None:
        """What optimizer step `step` of `steps`, counted from 0, adds to the loss, once for all its micro-batches."""
        return None

    def watched(self) -> dict[str, float]:
        """Numbers that an entry of the loss curve holds beside the loss."""
        return {}

    def settled(self, step: int, steps: int) -> bool:
        """Whether a model left at this step would be what was asked for, so that its evaluation may be the best."""
        return True

    def finish(self) -> dict[str, Any] | None:
        """Called when training is over, before the last evaluation; returns the record's `pruning`, if anything."""
        return None

    def reorder(self, state: Mapping[Any, Mapping[str, Any]]) -> None:
        """Turn the factors into the order of their singular values, and the optimizer's `state` with them."""
        raise TypeError(f"{type(self).__name__} has no ranks to reorder")

    def shape_gradients(self, submodel: Submodel) -> None:
        """Called after the backward and before clipping; a frozen update drops the other ranks' gradients here."""

    @staticmethod
    def write_note(folder: Path, note: dict[str, Any]) -> None:
        """Leave beside the weights what the method's own format cannot say."""
        (folder / "rankbench.json").write_text(json.dumps(note, indent=1) + "\n")
