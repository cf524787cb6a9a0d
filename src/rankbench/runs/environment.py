"""What a result depends on beside its settings: versions, commit, device, precision and why."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from rankbench.models import sharding
from rankbench.system import processes, threads

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "hydra-core", "evaluate", "pandas", "numpy")


def environment(
    device: str, precision: str, reason: str, words: Iterable[str], compiled: bool = False
) -> dict[str, Any]:
    """What a result depends on beside its settings: versions, commit, device, precision and why, command line."""
    from rankbench.models import float32

    library = float32.library()
    return {
        "rankbench": metadata.version("rankbench"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "git": _git(),
        "device": device,
        "threads": threads.told(),
        "processes": processes.count(),
        "sharded": bool(sharding.asked()),
        "precision": precision,
        "precision_reason": reason,
        "float32": f"{library}, torch in compiled layers" if compiled and library != "torch" else library,
        "command": f"python -m rankbench {shlex.join(words)}".rstrip(),
    }


def versions() -> dict[str, str | None]:
    """The versions of the libraries that a result depends on; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _git() -> dict[str, Any] | None:
    """Commit of the source tree and whether it differs; None for an installed package."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "environment.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
