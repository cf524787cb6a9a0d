"""A run's folder as a place: whether it can be used, emptied for a new beginning, and cleared of what has served."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from rankbench.errors import RequestError
from rankbench.settings import contents
from rankbench.settings.base import require
from rankbench.system import processes
from rankbench.system.files import empty, remove

FILES = ("config.yaml", "run.log", "metrics.csv", "predictions.parquet", "curve.png", "record.json", contents.FILE)


def make(folder: Path) -> None:
    """Make a run's folder. Raises RequestError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        above = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        if above.is_symlink() and not above.exists():
            why = f"{above} is a link to what is not there; bring that back, remove the link"
        elif not above.is_dir():
            why = f"{above} is no folder, and the runs go there; move it away"
        else:
            why = f"{folder} cannot be written ({error.strerror}); make room for it"
        raise RequestError(f"{why}, or choose another runs_dir") from error


def emptied(folder: Path) -> bool:
    """Whether this job has emptied the folder: one that Slurm or torchrun starts anew goes on with what it has made."""
    mark, job = folder / ".fresh", processes.job()
    return bool(job) and processes.restarted() and mark.exists() and mark.read_text() == job


def begin_anew(folder: Path) -> None:
    """Empty the folder but for its log."""
    empty(folder, but=("run.log",))
    if job := processes.job():
        (folder / ".fresh").write_text(job)


def check_places(folder: Path) -> None:
    """Refuse, before anything is trained, a folder where something else has the place of what the run leaves."""
    for name in FILES:
        require(
            not (folder / name).is_dir(), f"{folder / name} is a folder, and the run's file goes there; move it away"
        )
    for place in (folder / "adapter", folder / "checkpoints"):
        gone = place.is_symlink() and not place.exists()
        require(not gone, f"{place} is a link to what is not there; bring that back, or remove the link")
        require(
            place.is_dir() or not place.exists(), f"{place} is a file, and the run's folder goes there; move it away"
        )


def drop(checkpoints: Path) -> None:
    """Remove the checkpoints of a run that is done."""
    with contextlib.suppress(OSError):  # they have served; the record counts
        remove(checkpoints)


def leave_nothing(folder: Path) -> None:
    """Remove the folder of a refused request, unless there is more in it than a request leaves."""
    names = {item.name for item in folder.iterdir() if not item.name.startswith(".lock")}
    if names <= {"config.yaml", "run.log", "wandb", ".fresh", contents.FILE}:
        empty(folder) if folder.is_symlink() else shutil.rmtree(folder)
