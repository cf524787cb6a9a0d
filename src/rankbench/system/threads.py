"""How the threads that share a multiplication wait for each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping

# A thread that is done first turns in a loop this often before it sleeps. libgomp's own 300,000 take the processor from
# whoever else has work, the thread waited for among them; none at all pay for a sleep at every product.
SPINS = 1000
OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # by which a user says it; libgomp does not read Intel's KMP_BLOCKTIME
_heard: str | None = None  # what stood there when torch loaded, where this was asked before


def wait_politely(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP's threads sleep soon, where the user has not said how they wait and torch is not loaded yet.

    libgomp reads it when torch loads; it is in torch's Linux wheels. Processes that are started from here inherit it.
    """
    global _heard
    if "torch" in sys.modules:
        return
    if sys.platform == "linux" and not any(name in environ for name in OWN):
        environ["GOMP_SPINCOUNT"] = str(SPINS)
    _heard = _said(environ)


def told() -> dict[str, str | int]:
    """For a record: the threads of one operation, and what says how they wait."""
    import torch

    late = _said(os.environ)
    heard = (late and f"{late}, if it was set before torch loaded") if _heard is None else _heard
    return {"count": torch.get_num_threads(), "waiting": heard or "as OpenMP does"}


def _said(environ: Mapping[str, str]) -> str:
    return " ".join(f"{name}={environ[name]}" for name in OWN if name in environ)
