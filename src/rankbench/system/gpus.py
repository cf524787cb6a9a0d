"""The GPUs of this machine, found without loading CUDA, and one of them for each run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def cards() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, found without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    with contextlib.suppress(OSError):
        return [str(number) for number, _ in enumerate(os.listdir("/proc/driver/nvidia/gpus"))]
    return []


def at_once() -> int:
    """How many runs share this machine: one for each GPU; without one, about four cores for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return len(cards()) or max(min(cores, 2), cores // 4)


@contextlib.contextmanager
def card(wait: float = 0.5) -> Iterator[str | None]:
    """A GPU that no other run of this user on this machine holds, waited for; None where there are no GPUs.

    The kernel keeps who holds which, in a folder that is this machine's own, and forgets it with the process.
    """
    names = cards()
    if not names:
        yield None
        return
    folder = Path(tempfile.gettempdir()) / f"rankbench-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        for name in names:
            with open(folder / re.sub(r"\W", "_", name), "a") as held:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield name
                return
        time.sleep(wait)
