"""What this process asks of Slurm: which job it is in, how a job stands."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

LIVES = ("RUNNING", "SUSPENDED", "COMPLETING", "STOPPED")  # states in which a job's processes may still be there


def job() -> str | None:
    """The job that this process is in, as squeue names it: 12, or 12_3 in array 12."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often Slurm has started this process's job anew."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def state(job: str | None) -> str:
    """A job's state, such as RUNNING; empty where there is no such job, or nobody to ask."""
    said = _squeue("%T", [job]) if job else []
    return said[0] if said else ""


def wait_for(jobs: Iterable[str], poll: float = 2.0) -> None:
    """Return when Slurm has none of these jobs any more."""
    asked = sorted(jobs)
    while asked and _squeue("%i", asked):
        time.sleep(poll)


def submitted(folder: Path) -> set[str]:
    """The jobs, an array as one, that the launcher keeps files of in a sweep's folder."""
    names = (place.name for place in (folder / ".submitit").glob("*"))
    return {name.split("_")[0] for name in names if re.fullmatch(r"\d+(_\d+)?", name)}


def _squeue(form: str, jobs: list[str]) -> list[str]:
    words = ["squeue", "--noheader", f"--format={form}", f"--jobs={','.join(jobs)}"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
