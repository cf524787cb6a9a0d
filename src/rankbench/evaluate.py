"""Measure sub-models: predictions, metrics and seconds, several ranks stacked in one forward where that is faster."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankbench.adapters import FineTuning
from rankbench.batches import Encoded, collate, sorted_batches
from rankbench.metrics import score
from rankbench.samplers import Submodel

# Stack ranks while a forward stays below this many tokens: small forwards are bound by overhead, large ones by
# arithmetic, where stacking gains nothing. benchmarks/evaluation.py measures both sides.
STACK_TOKENS = {"cpu": 1024, "cuda": 16384}


@dataclass(frozen=True)
class Score:
    """One sub-model's measurement; `predictions` maps a split to class numbers, or to values for a regression."""

    submodel: Submodel
    metrics: dict[str, float]
    n: int
    seconds: float
    predictions: dict[str, np.ndarray]


def evaluate(
    model: torch.nn.Module,
    adapter: FineTuning,
    splits: Sequence[Encoded],
    submodels: Sequence[Submodel],
    metrics: list[str],
    *,
    batch_size: int,
    pad_id: int,
    stack_tokens: int | None = None,
) -> list[Score]:
    """Score each sub-model on every split, in the order asked.

    The result does not depend on that order. Training mode, the active sub-model and random state are left as found.
    `model` is the callable to run (it may wrap `adapter.model`); `stack_tokens=0` goes one sub-model at a time.
    Raises FloatingPointError when a logit is not finite.
    """
    device = next(adapter.model.parameters()).device
    budget = STACK_TOKENS.get(device.type, 0) if stack_tokens is None else stack_tokens
    members = sorted(submodels, key=lambda m: (m.depth or 0, m.rank or 0))
    outputs: dict[str, np.ndarray] = {}
    seconds = dict.fromkeys(members, 0.0)
    was_training, was_active = adapter.model.training, adapter.active()
    adapter.model.eval()
    try:
        with torch.no_grad():
            for split in splits:
                outputs[split.name] = _predict(
                    model, adapter, split, members, batch_size, pad_id, budget, device, seconds
                )
    finally:
        adapter.model.train(was_training)
        adapter.activate(was_active)
    return [_score(m, members.index(m), outputs, splits, metrics, seconds[m]) for m in submodels]


def _predict(
    model: torch.nn.Module,
    adapter: FineTuning,
    split: Encoded,
    members: list[Submodel],
    batch_size: int,
    pad_id: int,
    budget: int,
    device: torch.device,
    seconds: dict[Submodel, float],
) -> np.ndarray:
    """Predictions (members, n) of one split; adds each member's share of the time to `seconds`."""
    result: np.ndarray | None = None
    for rows in sorted_batches(split.lengths, batch_size):
        inputs = {k: v.to(device) for k, v in collate(split, rows, pad_id).items() if k != "labels"}
        tokens = inputs["input_ids"].numel()
        fit = max(1, min(len(members), budget // tokens)) if adapter.stacks else 1
        together = math.ceil(len(members) / math.ceil(len(members) / fit))  # as many forwards, evenly filled
        for i in range(0, len(members), together):
            group = members[i : i + together]
            start = time.perf_counter()
            logits = _forward(model, adapter, inputs, group, len(rows))
            predicted = logits.squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(-1)
            if not torch.isfinite(logits).all():
                raise FloatingPointError(f"{split.name}: {group[0]} gives logits that are not finite")
            if result is None:
                result = np.zeros((len(members), len(split)), predicted.cpu().numpy().dtype)
            result[i : i + len(group), rows] = predicted.cpu().numpy()
            for member in group:
                seconds[member] += (time.perf_counter() - start) / len(group)
    assert result is not None
    return result


def _forward(
    model: torch.nn.Module, adapter: FineTuning, inputs: dict[str, Any], group: list[Submodel], rows: int
) -> torch.Tensor:
    """Logits (len(group), rows, classes) in float32."""
    if len(group) == 1:
        adapter.activate(group[0])
    else:
        adapter.activate_rows(group, rows)
        inputs = {k: v.repeat(len(group), *(1,) * (v.dim() - 1)) for k, v in inputs.items()}
    logits = model(**inputs).logits.float()
    return logits.view(len(group), rows, -1)


def _score(
    member: Submodel,
    place: int,
    outputs: dict[str, np.ndarray],
    splits: Sequence[Encoded],
    metrics: list[str],
    seconds: float,
) -> Score:
    values: dict[str, float] = {}
    for split in splits:
        suffix = f"_{split.name.removeprefix('validation_')}" if len(splits) > 1 else ""
        for name, value in score(metrics, outputs[split.name][place], split.labels).items():
            values[name + suffix] = value
    predictions = {split.name: outputs[split.name][place] for split in splits}
    return Score(member, values, sum(map(len, splits)), seconds, predictions)
