"""What this process asks of Slurm: which job it is in, how a job stands."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger("rankbench")

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
    """Return when Slurm has none of these jobs any more; while it gives no answer they may still run."""
    asked, told = sorted(jobs), False
    while asked and (left := _squeue("%i", asked)) != []:
        if left is None and not told:
            log.info("Slurm does not answer; waiting until squeue says how job %s stands", ", ".join(asked))
            told = True
        time.sleep(poll)


def submitted(folder: Path) -> set[str]:
    """The jobs, an array as one, that the launcher keeps files of in a sweep's folder."""
    names = (place.name for place in (folder / ".submitit").glob("*"))
    return {name.split("_")[0] for name in names if re.fullmatch(r"\d+(_\d+)?", name)}


def _squeue(form: str, jobs: list[str]) -> list[str] | None:
    """What squeue says of these jobs; nothing where it knows none or is not there, None if it gave no answer."""
    words = ["squeue", "--noheader", f"--format={form}", f"--jobs={','.join(jobs)}"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.SubprocessError):
        return None
    known = asked.returncode == 0 or "invalid job id" in asked.stderr.lower()
    return asked.stdout.split() if known else None
