"""The layer against values of the official DyLoRA layer: every rank's output and gradients, and twelve AdamW steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_run
from torch import nn
from transformers import PretrainedConfig

from rankbench.methods.lora import DyLora
from rankbench.methods.peft_model import ADAPTER
from rankbench.methods.submodel import Submodel
from rankbench.training.loop import make_optimizer

# What the official class (Efficient-NLP at bb44348) computed in float64: in 6, out 5, R 4, alpha 8.
VALUES: dict[str, Any] = json.loads((Path(__file__).parent / "official_dylora_values.json").read_text())
UPDATES = {"full": "full", "frozen_grad": "frozen_grad"}


class OneLayer(nn.Module):
    """A model of one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.query = nn.Linear(6, 5, bias=False)
        self.query.weight.data = torch.tensor(VALUES["W"], dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.query(x)


def layer(update: str, dtype: torch.dtype = torch.float32) -> DyLora:
    run = compose_run(
        *("model=tiny_bert", "adapter.r=4", "adapter.lora_alpha=8", f"adapter.update={update}"),
        *("adapter.target_modules=[query]", "train.learning_rate=1e-2", "train.weight_decay=0.1"),
    )
    tuning = DyLora(run, OneLayer())
    for factor, name in zip(factors(tuning), "AB", strict=True):
        factor.data = torch.tensor(VALUES[name], dtype=torch.float64)
    tuning.model.to(dtype)
    return tuning


def error(ours: torch.Tensor, expected: list[Any]) -> float:
    """The largest difference, as a share of the largest value where that is above 1."""
    official = torch.tensor(expected, dtype=torch.float64)
    return float((ours.double() - official).abs().max() / official.abs().max().clamp(min=1))


def factors(tuning: DyLora) -> tuple[nn.Parameter, nn.Parameter]:
    return tuning.layers[0].lora_A[ADAPTER].weight, tuning.layers[0].lora_B[ADAPTER].weight


def loss_of(tuning: DyLora, step: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x, target = (torch.tensor(VALUES[name][step], dtype=dtype) for name in ("x", "target"))
    output = tuning.layers[0](x)
    return output, (output - target).square().mean()


@pytest.mark.parametrize("rank", range(1, 5))
@pytest.mark.parametrize("update", UPDATES)
def test_every_rank_has_the_official_output_and_gradients(update: str, rank: int) -> None:
    expected = VALUES["modes"][UPDATES[update]]["by_rank"][str(rank)]
    for dtype, tolerance in ((torch.float32, 5e-7), (torch.float64, 1e-12)):
        tuning = layer(update, dtype)
        tuning.activate(Submodel(rank=rank))
        output, loss = loss_of(tuning, 0, dtype)
        loss.backward()
        tuning.shape_gradients(Submodel(rank=rank))
        a, b = factors(tuning)
        for ours, name in ((output, "output"), (a.grad, "grad_A"), (b.grad, "grad_B")):
            assert ours is not None and error(ours, expected[name]) < tolerance, name


@pytest.mark.parametrize("update", UPDATES)
def test_twelve_steps_of_adamw_end_at_the_official_factors(update: str) -> None:
    expected = VALUES["modes"][UPDATES[update]]
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        tuning = layer(update, dtype)
        optimizer = make_optimizer(tuning.run.train, tuning.optimized())
        for step, rank in enumerate(VALUES["ranks"]):
            tuning.activate(Submodel(rank=rank))
            _, loss = loss_of(tuning, step, dtype)
            assert loss.item() == pytest.approx(expected["losses"][step], abs=tolerance)
            loss.backward()
            tuning.shape_gradients(Submodel(rank=rank))
            optimizer.step()
            for parameter in tuning.trained().values():
                parameter.grad = None
        for ours, name in zip(factors(tuning), ("A_after", "B_after"), strict=True):
            assert error(ours, expected[name]) < tolerance, name
