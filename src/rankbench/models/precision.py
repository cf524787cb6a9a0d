"""The arithmetic of a training step, and the reason for it."""

from __future__ import annotations

import torch

from rankbench.errors import RequestError
from rankbench.settings.hardware import Hardware
from rankbench.settings.train import Precision


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
        return "fp32", "no GPU is visible"
    if hardware is Hardware.v100:
        return "fp32", "hardware=v100: a V100 has no bf16, and fp16 is opt-in"
    if torch.cuda.get_device_capability() >= (8, 0):
        return "bf16", f"{torch.cuda.get_device_name()} computes bf16"
    return "fp32", f"{torch.cuda.get_device_name()} has no bf16, and fp16 is opt-in"
