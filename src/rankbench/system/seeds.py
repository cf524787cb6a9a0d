"""Random numbers as pure functions of (seed, stream, counter), so that nothing needs saving to resume exactly."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, stream: str, counter: int = 0) -> np.random.Generator:
    """A counter-based generator (Philox) of its own for each stream and counter, the same in every process."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, counter]))


def integer(seed: int, stream: str, counter: int = 0) -> int:
    """A 63-bit integer of (seed, stream, counter), to seed torch with."""
    return int(generator(seed, stream, counter).integers(2**63 - 1))
