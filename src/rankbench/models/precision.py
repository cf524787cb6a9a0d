"""The arithmetic of a training step, and the reason for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from functools import cache

import torch

from rankbench.errors import RequestError
from rankbench.settings.hardware import Hardware
from rankbench.settings.train import Precision

WORTH = 1.2  # times as fast that bf16 multiplies where it is worth a word


def choose_precision(asked: Precision, hardware: Hardware, integer: bool = False) -> tuple[str, str]:
    """The arithmetic of the step (fp32, fp16 or bf16) and the reason for it. Raises RequestError."""
    cuda = torch.cuda.is_available()
    if asked is Precision.fp16 and not cuda:
        raise RequestError("train.precision=fp16 needs a GPU and none is visible; use train.precision=fp32 or bf16")
    if asked is Precision.bf16 and cuda and torch.cuda.get_device_capability() < (8, 0):
        raise RequestError(f"{torch.cuda.get_device_name()} has no bf16; use train.precision=fp32 or fp16")
    if asked is not Precision.auto:
        return asked.value, "as asked"
    if integer:
        return "fp32", "between layers that compute in integers"
    if not cuda:
        return "fp32", why_fp32(getattr(torch.cpu, "get_capabilities", dict)())
    if hardware is Hardware.v100:
        return "fp32", "hardware=v100: a V100 has no bf16, and fp16 is opt-in"
    if torch.cuda.get_device_capability() >= (8, 0):
        return "bf16", f"{torch.cuda.get_device_name()} computes bf16"
    return "fp32", f"{torch.cuda.get_device_name()} has no bf16, and fp16 is opt-in"


def why_fp32(has: Mapping[str, object], faster: float | None = None) -> str:
    """Why `auto` is fp32 on a CPU that has these instructions, and what bf16 would bring there.

    `faster` is how many times as fast as float32 it multiplies (default: measured, in about a tenth of a second).
    """
    if not (has.get("amx_bf16") or has.get("avx512_bf16")):
        return "no GPU is visible"
    faster = faster or bf16_speed()
    if faster < WORTH:
        return f"no GPU is visible, and bf16 multiplies {faster:.1f} times as fast on this CPU"
    return f"no GPU is visible; train.precision=bf16 would multiply {faster:.1f} times as fast on this CPU"


@cache
def bf16_speed(rows: int = 256, inner: int = 384, columns: int = 1536) -> float:
    """How many times as fast as float32 this CPU multiplies in bf16, as layers do: the median of pairs, in turns.

    Measured once a process.
    """
    from rankbench.models import float32

    a, b = torch.ones(rows, inner), torch.ones(columns, inner)
    sides = (a, b), (a.bfloat16(), b.bfloat16())
    ratios = []
    for turn in range(9):
        seconds = []
        for left, right in sides:
            start = time.perf_counter()
            float32.linear(left, right)
            seconds.append(time.perf_counter() - start)
        if turn:  # the first one warms up
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)
