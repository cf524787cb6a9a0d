"""The device that a run is on: its name, its memory, and the rules of a card that it should pretend to be."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import psutil

from rankbench.settings.hardware import Hardware

V100_MEMORY = 32 * 2**30  # bytes


def device_name() -> str:
    """The device that a run uses, for its record."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def obey(hardware: Hardware) -> None:
    """Hold this process to a V100's memory and attention kernels where `hardware` says so."""
    import torch

    if hardware is Hardware.v100 and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, V100_MEMORY / memory))
        torch.backends.cuda.enable_flash_sdp(False)  # needs compute capability 8.0


def resident_memory(device: str) -> int:
    """Bytes that a measured peak holds beside the run's own: on a CPU the process before anything is loaded."""
    return 0 if device == "cuda" else psutil.Process().memory_info().rss


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
