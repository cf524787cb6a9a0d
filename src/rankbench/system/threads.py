"""How the threads that share a multiplication wait for each other."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# A thread that is done first turns in a loop this often before it sleeps. libgomp's own 300,000 take the processor from
# whoever else has work, the thread waited for among them; none at all pay for a sleep at every product.
SPINS = 1000
OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")  # by which a user says it


def wait_politely(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP's threads sleep soon, where the user has not said how they wait and torch is not loaded yet.

    libgomp reads it when torch loads; it is in torch's Linux wheels. Processes that are started from here inherit it.
    """
    if "torch" not in sys.modules and not any(name in environ for name in OWN):
        environ["GOMP_SPINCOUNT"] = str(SPINS)


def told() -> dict[str, str | int]:
    """For a record: the threads of one operation, and what says how they wait."""
    import torch

    waiting = " ".join(f"{name}={os.environ[name]}" for name in OWN if name in os.environ)
    return {"count": torch.get_num_threads(), "waiting": waiting or "as OpenMP does"}
