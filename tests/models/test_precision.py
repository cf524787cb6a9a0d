"""What `train.precision=auto` says of a CPU: float32, and what bf16 would bring where there are instructions for it."""

from __future__ import annotations

import math

import pytest
import torch

from rankbench.models import precision
from rankbench.settings.hardware import Hardware
from rankbench.settings.train import Precision


@pytest.mark.parametrize("kind", ["amx_bf16", "avx512_bf16"])
def test_a_cpu_with_bf16_is_told_what_it_would_bring(kind: str) -> None:
    told = precision.why_fp32({kind: True}, 2.13)
    assert told == "no GPU is visible; train.precision=bf16 would multiply 2.1 times as fast on this CPU"
    assert "train.precision" not in precision.why_fp32({kind: True}, 1.04)


def test_a_cpu_without_bf16_is_told_nothing() -> None:
    assert precision.why_fp32({"avx2": True, "avx512_bf16": False}) == "no GPU is visible"


def test_the_speed_is_measured() -> None:
    assert 0 < precision.bf16_speed(32, 32, 32) < math.inf


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_an_older_torch_that_cannot_say_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.choose_precision(Precision.auto, Hardware.auto) == ("fp32", "no GPU is visible")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_the_default_stays_float32() -> None:
    chosen, why = precision.choose_precision(Precision.auto, Hardware.auto)
    assert chosen == "fp32" and why.startswith("no GPU is visible")
    assert precision.choose_precision(Precision.bf16, Hardware.auto) == ("bf16", "as asked")
