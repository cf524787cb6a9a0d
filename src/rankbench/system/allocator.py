"""How the C library keeps what tensors have freed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

LARGE = 2**20  # bytes
OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "LD_PRELOAD")
_M_MMAP_THRESHOLD = -3  # of malloc.h


def return_large(environ: Mapping[str, str] = os.environ) -> bool:
    """Have glibc return a large tensor's memory to the system when it is freed; whether it does (mallopt(3)).

    By itself glibc raises the size from which it does so up to 32 MiB, and then holds the largest batch's activations,
    and the holes between them, until the process ends. Nothing is changed where the user has said something of it.
    """
    if not sys.platform.startswith("linux") or any(name in environ for name in OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, LARGE) == 1
