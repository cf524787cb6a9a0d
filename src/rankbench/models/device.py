"""The device that a run is on: its name, its memory, and the rules of a card that it should pretend to be."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from rankbench.settings.hardware import Hardware

if TYPE_CHECKING:
    import torch

V100_MEMORY = 34_089_730_048 - 450 * 2**20  # bytes: what a 32 GB card shows, without what CUDA's context takes of it


_own_rule: list[Any] = []  # transformers' own rule for grouped queries, once another stands in its place


def device_name() -> str:
    """The device that a run uses, for its record."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def obey(hardware: Hardware, precision: str) -> None:
    """Hold this process to a V100's memory and attention kernels where `hardware` says so; else give it the whole card.

    A V100 has neither FlashAttention nor cuDNN's attention, which need compute capability 8.0. Without them, and in
    float32, torch's own grouped queries fall back to a kernel that keeps t x t numbers for each head: keys and values
    are repeated instead.
    """
    import torch
    from transformers.integrations import sdpa_attention

    if not torch.cuda.is_available():
        return
    held = hardware is Hardware.v100
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, V100_MEMORY / total) if held else 1.0)
    torch.backends.cuda.enable_flash_sdp(not held)
    torch.backends.cuda.enable_cudnn_sdp(not held)
    flash = not held and precision != "fp32" and torch.cuda.get_device_capability() >= (8, 0)
    _own_rule[:] = _own_rule or [sdpa_attention.use_gqa_in_sdpa]
    sdpa_attention.use_gqa_in_sdpa = _own_rule[0] if flash else lambda *_: False


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still allocate: on a GPU within the share that `obey` left it."""
    import torch

    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return max(0, min(free + unused, allowed - allocated))


def resident_memory(device: str) -> int:
    """Bytes that a measured peak holds beside the run's own: what earlier runs left, on a CPU the whole process."""
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    return psutil.Process().memory_info().rss


def forget_peak_memory(device: str) -> None:
    """Start the peak anew, so that a sweep's runs in one process do not report each other's."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # Linux alone has it
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Bytes: what torch allocated on a GPU, the resident set of the process on a CPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
