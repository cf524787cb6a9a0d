"""LoRA and DyLoRA on PEFT's variant hook: the only file that touches it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import nn

from rankbench.errors import RequestError
from rankbench.methods.base import FineTuning, Parameters
from rankbench.methods.peft_model import ADAPTER, in_order, with_lora
from rankbench.methods.reorder import reorder
from rankbench.methods.submodel import Submodel
from rankbench.models import sharding
from rankbench.settings.methods.dylora import Update
from rankbench.settings.methods.lora import Scale
from rankbench.settings.run import Run

TURNED = ("longformer", "xlnet")  # whose attention has the tokens before the rows of the batch


class RowsNotApartError(RequestError):
    """A layer does not see the rows of a batch one after the other, so they cannot have ranks of their own."""


def scaling(policy: Scale, alpha: float, r: int, b: int) -> float:
    """The factor before B[:, :b] A[:b]: alpha/b (DyLoRA Eq. 7), alpha/r (LoRA's prefix), or alpha/sqrt(b) (rsLoRA)."""
    return {
        Scale.alpha_over_b: alpha / b,
        Scale.alpha_over_r: alpha / r,
        Scale.alpha_over_sqrt_b: alpha / math.sqrt(b),
    }[policy]


class Prefix(LoraVariant):
    """The forward at rank b, h = W0 x + s_b B[:, :b] (A[:b] x), shared by every layer of a model.

    PEFT calls this hook private; `tests/methods/test_peft_contract.py` holds it to its behaviour.
    """

    def __init__(self, rank: int, scale: float) -> None:
        self.rank = rank
        self.scale = scale
        self.gates: torch.Tensor | None = None  # (rows or 1, R): for each row, s_b for columns below b, else 0
        self.ranks: dict[nn.Module, int] = {}  # of layers that are held at another rank
        self.scales: dict[nn.Module, float] = {}  # and the scale that each of them has there

    def forward(
        self, module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Add the active prefix's update of `x` (..., in) to the frozen layer's `result` (..., out)."""
        a = module.lora_A[active_adapter].weight
        b = module.lora_B[active_adapter].weight
        x = module.lora_dropout[active_adapter](x)
        if self.gates is None:
            rank = self.ranks.get(module, self.rank)
            if rank == 0:
                return result
            if rank < a.shape[0]:
                a, b = a[:rank], b[:, :rank]
            low = F.linear(x, a) * self.scales.get(module, self.scale)
        else:
            low = F.linear(x, a)
            gates = self.gates
            if gates.shape[0] != 1 and gates.shape[0] != x.shape[0]:
                gates = _flattened(gates, x)
            gates = gates.view(-1, *(1,) * (low.dim() - 2), low.shape[-1])
            low = (low.float() * gates).to(low.dtype)  # 16 bits would round alpha/b itself
        return result + F.linear(low, b)


def _flattened(gates: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A row of gates for each token, where `x` is (rows x tokens, in), as OPT has it. Raises RowsNotApartError."""
    rows, seen = gates.shape[0], x.shape[0]
    if x.dim() == 2 and seen % rows == 0:
        return gates.repeat_interleave(seen // rows, 0)
    raise RowsNotApartError(
        f"a layer sees {seen} rows of a batch of {rows}, so those cannot have ranks of their own; give "
        "sampler.per_row=false, which draws one rank for a batch"
    )


class DyLora(FineTuning):
    """One adapter of rank R whose every prefix 1..R is trained, at scale alpha/b (DyLoRA)."""

    def __init__(self, run: Run, model: nn.Module) -> None:
        self.run = run
        self.r = run.adapter.r
        self.update = getattr(run.adapter, "update", Update.full)  # a plain LoRA has none
        self.reorder_at = getattr(run.adapter, "reorder_at", ())
        self.family = tuple(Submodel(rank=b) for b in range(1, self.r + 1))
        self.model, self.layers = with_lora(run, model)
        self.scale_of: Callable[[int], float] = functools.partial(
            scaling, run.adapter.scale, run.adapter.lora_alpha, self.r
        )
        self.in_tensors = False
        self.by_layer: dict[int, list[int]] = {}  # rank -> the rank of each layer, where they differ
        self.prefix = Prefix(self.r, self.scale_of(self.r))
        # int8 looks for outlier columns in the whole batch, so its rows are not independent of each other.
        self.kind = str(getattr(getattr(model, "config", None), "model_type", ""))
        self.apart = self.kind not in TURNED and not _routed(self.model)
        self.stacks = run.quantization.name != "int8" and self.apart
        self._rows: list[tuple[LoraLayer, list[torch.Tensor], list[torch.Tensor]]] = []
        self._hook(True)

    def _hook(self, on: bool) -> None:
        for layer in self.layers:
            if on:
                layer.lora_variant[ADAPTER] = self.prefix
            else:
                layer.lora_variant.pop(ADAPTER, None)

    def _check(self, submodel: Submodel) -> int:
        if submodel not in self.family:
            raise ValueError(f"'{submodel}' is outside the family, rank 1 to {self.r}")
        assert submodel.rank is not None
        return submodel.rank

    def activate(self, submodel: Submodel) -> None:
        """Hold every layer at the prefix of `submodel`."""
        b = self._check(submodel)
        self.prefix.rank, self.prefix.scale = b, self.scale_of(b)
        self.prefix.gates = self._gates([submodel]) if self.in_tensors else None
        self.prefix.ranks = self._ranks(b)
        self.prefix.scales = {layer: self.scale_of(rank) for layer, rank in self.prefix.ranks.items() if rank}

    def _ranks(self, b: int) -> dict[nn.Module, int]:
        return dict(zip(self.layers, self.by_layer[b], strict=True)) if b in self.by_layer else {}

    def active(self) -> Submodel:
        """The prefix of the next forward."""
        return Submodel(rank=self.prefix.rank)

    def activate_rows(self, submodels: Sequence[Submodel]) -> None:
        """A 0/1 prefix mask times s_b for each row of the batch."""
        if not self.apart:
            raise RowsNotApartError(
                f"a {self.kind}'s layers do not see the rows of a batch apart; give sampler.per_row=false, which draws "
                "one rank for a batch"
            )
        self.prefix.gates = self._gates(submodels)

    def _gates(self, submodels: Sequence[Submodel]) -> torch.Tensor:
        gates = torch.zeros(len(submodels), self.r)
        for i, submodel in enumerate(submodels):
            b = self._check(submodel)
            gates[i, :b] = self.scale_of(b)
        device = self.layers[0].lora_A[ADAPTER].weight.device
        if device.type == "cuda":
            gates = gates.pin_memory()  # else the copy would wait for all that the card has to do
        return gates.to(device, non_blocking=True)

    def hold_ranks_in_tensors(self, on: bool) -> None:
        """As gates of one row, which are read in place of a slice."""
        self.in_tensors = on

    def count(self, submodel: Submodel) -> Parameters:
        """b (in + out) for each layer, and the shared head."""
        b = self._check(submodel)
        ranks = self._ranks(b)
        adapter = sum(
            ranks.get(m, b) * (m.in_features + m.out_features) for m in self.model.modules() if isinstance(m, LoraLayer)
        )
        head = sum(p.numel() for name, p in self.trained().items() if "lora_" not in name)
        total = frozen(self.model) + adapter + head
        return Parameters(adapter=adapter, head=head, trainable=adapter + head, total=total)

    def optimized(self) -> list[torch.Tensor]:
        """The trained parameters; for frozen_strict each row of A and column of B as a tensor of its own.

        So an optimizer that skips tensors without a gradient leaves the other ranks bit-equal, moments and decay
        included. Ask once the model is on its device: the rows are views of the weights.
        """
        if self.update is not Update.frozen_strict:
            return super().optimized()
        self._rows = [(layer, *_row_views(layer)) for layer in self.layers]
        rows = [view for _, rows, columns in self._rows for view in (*rows, *columns)]
        return rows + [p for name, p in self.trained().items() if "lora_" not in name]

    def shape_gradients(self, submodel: Submodel) -> None:
        """Frozen updates keep the gradient of row b of A and column b of B alone (DyLoRA Eq. 10)."""
        if self.update is Update.full:
            return
        last = self._check(submodel) - 1
        for layer in self.layers:
            for name, dim in (("lora_A", 0), ("lora_B", 1)):
                grad = getattr(layer, name)[ADAPTER].weight.grad
                if grad is not None:
                    grad.narrow(dim, 0, last).zero_()
        for layer, rows, columns in self._rows:
            for views, name, dim in ((rows, "lora_A", 0), (columns, "lora_B", 1)):
                grad = getattr(layer, name)[ADAPTER].weight.grad
                for i, view in enumerate(views):
                    view.grad = grad.narrow(dim, i, 1) if i == last and grad is not None else None

    def reorder(self, state: Mapping[Any, Mapping[str, Any]]) -> None:
        """Each layer by itself; what rank R computes stays as it was."""
        for layer in self.layers:
            reorder(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, state)

    def save(self, folder: Path) -> None:
        """A stock PEFT adapter of rank R, and a note that says it is nested."""
        # save_embedding_layers: PEFT would ask the hub whether the vocabulary changed.
        self.model.save_pretrained(folder, save_embedding_layers=False)
        in_order(folder / "adapter_config.json")
        adapter, sampler = self.run.adapter, self.run.sampler
        self.write_note(
            folder,
            {
                "method": adapter.name,
                "nested": adapter.nested,
                "r": self.r,
                "lora_alpha": adapter.lora_alpha,
                "scale": adapter.scale.value,
                "trained_ranks": sampler.trained(self.r) if adapter.nested else [self.r],
            },
        )


class Lora(DyLora):
    """PEFT's own LoRA at rank R; the hook is set only to measure its prefixes, at the trained scale alpha/R."""

    def __init__(self, run: Run, model: nn.Module) -> None:
        super().__init__(run, model)
        self.activate(self.family[-1])

    def activate(self, submodel: Submodel) -> None:
        """At rank R under its own scale PEFT's forward runs untouched."""
        super().activate(submodel)
        stock = submodel.rank == self.r and not self.prefix.ranks
        self._hook(not stock or any(layer.scaling[ADAPTER] != self.prefix.scale for layer in self.layers))

    def activate_rows(self, submodels: Sequence[Submodel]) -> None:
        """As DyLoRA's."""
        super().activate_rows(submodels)
        self._hook(True)


def _routed(model: nn.Module) -> bool:
    """Whether experts hold adapters: each sees tokens of any row, and their number says nothing."""
    return any(".experts." in name and isinstance(module, LoraLayer) for name, module in model.named_modules())


def _row_views(layer: LoraLayer) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    a, b = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
    return [a[i : i + 1] for i in range(a.shape[0])], [b[:, i : i + 1] for i in range(b.shape[1])]


def frozen(model: nn.Module) -> int:
    """The weights of a model that do not train; of a head that does, not the one it began as."""
    still = (p for name, p in model.named_parameters() if not p.requires_grad and "original_module" not in name)
    return sum(map(_stored, still))


def _stored(parameter: nn.Parameter) -> int:
    """The number of weights behind a parameter; a packed 4-bit one stores two to a byte."""
    state = getattr(parameter, "quant_state", None)
    return sharding.size(parameter) if state is None else math.prod(state.shape)
