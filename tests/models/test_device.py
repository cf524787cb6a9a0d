"""What a run may take of a card; the card is made up: its driver's answers and the switches that torch has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import compose_run

from rankbench.models import backbone, device
from rankbench.settings.hardware import Hardware

CARD = torch.device("cuda", 0)
TOTAL = 80 * 2**30


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A card of 80 GiB with 10 GiB allocated and 12 reserved; what it was told."""
    told: dict[str, float] = {"fraction": 1.0}
    answers = {
        "is_available": lambda: True,
        "get_device_properties": lambda place: SimpleNamespace(total_memory=TOTAL),
        "set_per_process_memory_fraction": lambda share: told.update(fraction=share),
        "get_per_process_memory_fraction": lambda place: told["fraction"],
        "mem_get_info": lambda place: (60 * 2**30, TOTAL),
        "memory_allocated": lambda place=None: 10 * 2**30,
        "memory_reserved": lambda place: 12 * 2**30,
        "get_device_capability": lambda: (8, 0),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.backends.cuda, "enable_flash_sdp", lambda on: told.update(flash=on))
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: told.update(cudnn=on))
    return told


def test_a_v100s_rules_end_with_its_run(card: dict[str, float]) -> None:
    device.obey(Hardware.v100, "fp16")
    assert (card["flash"], card["cudnn"]) == (False, False)
    assert 31.2 < card["fraction"] * 80 < 31.6  # a 32 GB card shows 31.75 GiB, and CUDA's context takes of it
    device.obey(Hardware.auto, "bf16")
    assert (card["flash"], card["cudnn"], card["fraction"]) == (True, True, 1.0)


def test_free_memory_is_what_the_run_may_still_take(card: dict[str, float]) -> None:
    assert device.free_memory(CARD) == 62 * 2**30
    device.obey(Hardware.v100, "fp16")
    assert device.free_memory(CARD) == pytest.approx(device.V100_MEMORY - 10 * 2**30, rel=1e-6)


def test_what_earlier_runs_left_is_no_part_of_a_peak(card: dict[str, float]) -> None:
    assert device.resident_memory("cuda") == 10 * 2**30
    assert 0 < device.resident_memory("cpu") < device.free_memory(torch.device("cpu")) * 100


@pytest.mark.parametrize(
    ("hardware", "precision", "grouped"),
    [("auto", "bf16", True), ("auto", "fp32", False), ("v100", "fp16", False), ("v100", "fp32", False)],
)
def test_grouped_queries_are_left_to_torch_where_it_has_a_kernel_for_them(
    hardware: str, precision: str, grouped: bool, card: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere scaled_dot_product_attention would keep t x t numbers for each head; the logits are the same."""
    asked: list[bool] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(*given: Any, **more: Any) -> torch.Tensor:
        asked.append(bool(more.get("enable_gqa")))
        return attention(*given, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    model = backbone.load(compose_run("model=tiny_llama").model, None, False, 0).model.eval()
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    ids = torch.arange(3, 15).view(1, 12)
    with torch.no_grad():
        device.obey(Hardware.auto, "bf16")
        before = model(input_ids=ids).logits
        asked.clear()
        device.obey(Hardware[hardware], precision)
        after = model(input_ids=ids).logits
        device.obey(Hardware.auto, "bf16")
    assert set(asked) == {grouped} and torch.allclose(before, after, atol=1e-6)
