"""Pruning by gates: each rank-one part of a weight (FLOP) or of a LoRA has one, and what stays open is cut out."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankbench.errors import RequestError
from rankbench.methods.base import FineTuning, Parameters
from rankbench.methods.factors import FACTORS, Gated, factorise, linear
from rankbench.methods.full import WHOLE, count_all
from rankbench.methods.lora import frozen
from rankbench.methods.peft_model import (
    ADAPTER,
    choices,
    ends_with,
    in_order,
    keep_ranks,
    refuse_unmatched,
    with_lora,
)
from rankbench.methods.submodel import Submodel
from rankbench.models import quantization
from rankbench.settings.run import Run

log = logging.getLogger("rankbench")

MISSED = 0.02  # how far the expected sparsity may end from its target before the log says so


class Pruned(FineTuning):
    """Gates over pairs of factors, driven to a target sparsity by an augmented Lagrangian (FLOP; Wang et al. 2020).

    `factors` names each gated layer's first and second factor in the model. The sparsity is the share of the factors'
    weights whose gates are closed, in expectation.
    """

    family = (WHOLE,)

    def __init__(self, run: Run, model: nn.Module, factors: dict[str, tuple[str, str]]) -> None:
        self.run, self.model, self.factors = run, model, factors
        self.multipliers = nn.Parameter(torch.zeros(2, device=next(model.parameters()).device))
        self.prunable = self.low_rank()

    def _pairs(self) -> dict[str, tuple[Any, nn.Linear]]:
        get = self.model.get_submodule
        return {name: (get(first), get(second)) for name, (first, second) in self.factors.items()}

    def activate(self, submodel: Submodel) -> None:
        """Nothing to choose: the gates say what is left."""
        if submodel != WHOLE:
            raise ValueError(f"adapter={self.run.adapter.name} has no sub-model '{submodel}'")

    def active(self) -> Submodel:
        """Always the whole model."""
        return WHOLE

    def low_rank(self) -> int:
        """The weights of all factors, k (in + out) for each layer."""
        return sum(first.weight.numel() + second.weight.numel() for first, second in self._pairs().values())

    def trained(self) -> dict[str, nn.Parameter]:
        """The model's, gates included, and the Lagrangian's two multipliers."""
        return {**super().trained(), "multipliers": self.multipliers}

    def own_rates(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Gates and multipliers move at a rate of their own."""
        gates = [p for name, p in super().trained().items() if name.endswith("log_alpha")]
        for gate in gates[:1]:  # none are left once it is pruned
            self.multipliers.data = self.multipliers.data.to(gate.device)  # no part of the model, which has moved
        adapter = self.run.adapter
        return [(adapter.gate_learning_rate, gates), (adapter.lambda_learning_rate, [self.multipliers])]

    def optimized(self) -> list[torch.Tensor]:
        """The weights, without gates and multipliers."""
        own = {id(p) for _, tensors in self.own_rates() for p in tensors}
        return [p for p in self.trained().values() if id(p) not in own]

    def sparsity(self) -> torch.Tensor:
        """The expected share of the factors' weights that is gone, in [0, 1]."""
        left = [q.expected() * (q.in_features + p.out_features) for q, p in self._pairs().values()]
        return 1 - torch.stack(left).sum() / self.prunable

    def penalty(self, step: int, steps: int) -> torch.Tensor:
        """lambda_1 (s - t) + lambda_2 (s - t)^2 at sparsity s and a target t that rises linearly (FLOP)."""
        adapter = self.run.adapter
        warmup = max(1, math.ceil(adapter.sparsity_warmup * steps))
        gap = self.sparsity() - adapter.target_sparsity * min(1, (step + 1) / warmup)
        # The same value with the gradient turned, so that an optimizer which descends makes the multipliers ascend.
        ascending = 2 * self.multipliers.detach() - self.multipliers
        return ascending[0] * gap + ascending[1] * gap**2

    @torch.no_grad()
    def watched(self) -> dict[str, float]:
        """The sparsity and the multipliers."""
        first, second = self.multipliers.tolist()
        return {"sparsity": self.sparsity().item(), "lambda_1": first, "lambda_2": second}

    @torch.no_grad()
    def settled(self, step: int, steps: int) -> bool:
        """Whether the target has risen whole and is reached: what is pruned less scores better unasked."""
        adapter = self.run.adapter
        risen = step >= math.ceil(adapter.sparsity_warmup * steps)
        return risen and self.sparsity().item() >= adapter.target_sparsity - MISSED

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Cut out each layer's round(E||z||_0) likeliest components, their mean gates folded into the second factor.

        Where all layers would be left empty, one component stays. The result is what `mask()` computed.
        """
        pairs, expected = self._pairs(), self.sparsity().item()
        counts = {name: len(first.kept()) for name, (first, _) in pairs.items()}
        if not any(counts.values()):
            counts[max(pairs, key=lambda name: pairs[name][0].log_alpha.max().item())] = 1
        layers = {}
        for name, (first, second) in pairs.items():
            kept = first.kept(counts[name])
            layers[name] = {"r": first.out_features, "expected": first.expected().item(), "rank": len(kept)}
            up = second.weight[:, kept] * first.mean()[kept].to(second.weight.dtype)
            self.model.set_submodule(self.factors[name][0], linear(first.weight[kept]))
            self.model.set_submodule(self.factors[name][1], linear(up, second.bias))
        left = self.low_rank()
        reached, target = 1 - left / self.prunable, self.run.adapter.target_sparsity
        log.info("pruned %s parameters to %s: sparsity %.3f of %g", f"{self.prunable:,}", f"{left:,}", reached, target)
        if abs(expected - target) > MISSED:
            log.warning(
                "the gates missed the target (%.3f); train longer, or raise adapter.lambda_learning_rate", expected
            )
        return {
            "target_sparsity": target,
            "expected_sparsity": expected,
            "sparsity": reached,
            "parameters_before": self.prunable,
            "parameters": left,
            "multipliers": self.multipliers.tolist(),
            "layers": layers,
        }


class Flop(Pruned):
    """Every weight trains; those of the target layers as P diag(z) Q, begun at their SVD (FLOP).

    A layer begins with adapter.r components, or its width where that is less; with r = 0 at break-even, where the
    factors hold no more weights than the matrix did.
    """

    def __init__(self, run: Run, model: nn.Module) -> None:
        layers = _linears(run, model)
        errors = {}
        for name, layer in layers.items():
            factorised, errors[name] = factorise(layer, _components(run.adapter.r, layer))
            model.set_submodule(name, factorised)
        super().__init__(run, model.requires_grad_(True), {name: (f"{name}.q", f"{name}.p") for name in layers})
        self.errors = errors
        _say_loss(errors)

    def finish(self) -> dict[str, Any]:
        """As above, with the relative error that each layer began with."""
        report = super().finish()
        for name, error in self.errors.items():
            report["layers"][name]["start_error"] = error
        return report

    def count(self, submodel: Submodel) -> Parameters:
        """Those of a model with its factors as they are now, gates aside: all of them train."""
        gates = sum(p.numel() for p in self.own_rates()[0][1])
        whole = count_all(self.model)
        return replace(whole, trainable=whole.total - gates, total=whole.total - gates)

    def save(self, folder: Path) -> None:
        """The model's config and its weights, the target layers' as factors."""
        self.model.config.save_pretrained(folder)
        if getattr(self.model, "generation_config", None) is not None:
            self.model.generation_config.save_pretrained(folder)
        save_model(self.model, str(folder / FACTORS), metadata={"format": "pt"})
        ranks = {name: first.out_features for name, (first, _) in self._pairs().items()}
        self.write_note(folder, {"method": "flop", "ranks": ranks})


class GatedLora(Pruned):
    """A LoRA with gates on its rank components, h = W0 x + s B diag(z) A x at s = alpha/R; each layer ends with a rank.

    The update is LoRA's and the pruning FLOP's, so it compares with DyLoRA on trained parameters.
    """

    def __init__(self, run: Run, model: nn.Module) -> None:
        carrying, layers = with_lora(run, model)
        names = {id(layer): name for name, layer in carrying.named_modules()}
        factors = {}
        for layer in layers:
            name = names[id(layer)]
            layer.lora_A[ADAPTER] = Gated(layer.lora_A[ADAPTER].weight.data)
            factors[name] = (f"{name}.lora_A.{ADAPTER}", f"{name}.lora_B.{ADAPTER}")
        super().__init__(run, carrying, factors)

    def finish(self) -> dict[str, Any]:
        """As above; a layer without a component left is the backbone's again."""
        report = super().finish()
        keep_ranks(self.model, {name: layer["rank"] for name, layer in report["layers"].items()})
        self.factors = {name: pair for name, pair in self.factors.items() if report["layers"][name]["rank"]}
        return report

    def count(self, submodel: Submodel) -> Parameters:
        """k (in + out) for each layer at its rank k, gates aside, and the head."""
        adapter = self.low_rank()
        head = sum(p.numel() for name, p in FineTuning.trained(self).items() if "lora_" not in name)
        return Parameters(adapter, head, adapter + head, frozen(self.model) + adapter + head)

    def save(self, folder: Path) -> None:
        """A stock PEFT adapter with a rank for each layer, and a note of them."""
        self.model.save_pretrained(folder, save_embedding_layers=False)
        in_order(folder / "adapter_config.json")
        r, alpha = self.run.adapter.r, self.run.adapter.lora_alpha
        ranks = {name: first.out_features for name, (first, _) in self._pairs().items()}
        note = {"method": "lora_gated", "r": r, "lora_alpha": alpha, "scale": "alpha_over_r", "trained_ranks": [r]}
        self.write_note(folder, note | {"ranks": ranks})


def _linears(run: Run, model: nn.Module) -> dict[str, nn.Module]:
    """The layers that adapter.target_modules names, as PEFT reads it. Raises RequestError where one is not linear."""
    targets = run.adapter.target_modules
    if targets == "all-linear":
        return dict(quantization.layers(model, quantization.kept_out(model)))
    refuse_unmatched(run, model)
    found = {
        name: module
        for name, module in model.named_modules()
        if (re.fullmatch(targets, name) if isinstance(targets, str) else any(ends_with(name, t) for t in targets))
    }
    held = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    wrong = ["no module matches"] if not found else []
    for name, module in found.items():
        if not isinstance(module, nn.Linear | Conv1D):
            wrong.append(f"{name} ({type(module).__name__}) is no linear layer")
        elif held[id(module.weight)] > 1:
            wrong.append(f"{name} shares its weight with another module")
    if wrong:
        raise RequestError(f"adapter.target_modules={targets}: {wrong[0]}; {choices(model)}")
    return found


def _components(r: int, layer: nn.Module) -> int:
    outputs, inputs = layer.weight.shape
    return min(r or outputs * inputs // (outputs + inputs), outputs, inputs)


def _say_loss(errors: dict[str, float]) -> None:
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > 1e-3:
        mean = sum(errors.values()) / len(errors)
        log.warning(
            "%d weights begin as products that miss them by %.1f %% on average (Frobenius norm), %s by %.1f %%; "
            "a larger adapter.r misses less",
            *(len(errors), 100 * mean, worst, 100 * errors[worst]),
        )
