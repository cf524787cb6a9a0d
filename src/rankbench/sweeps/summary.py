"""A sweep in Weights & Biases: one run with the table of all of them, and the command that sends what is offline."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.records import record
from rankbench.runs import tracking
from rankbench.sweeps.status import WIDTH, Standing, in_words

if TYPE_CHECKING:
    import pandas as pd

    from rankbench.sweeps.jobs import Job

log = logging.getLogger("rankbench")

MEASURED = {"adapter": "method", "trainable_parameters": "parameters"}  # columns of load_runs by another name


def mirror(file: Path, jobs: Sequence[Job], found: Sequence[Standing]) -> None:
    """Show the sweep whose list is `file` in a W&B run under the file's name, then say how offline runs are sent.

    What goes wrong with W&B is said in a line and costs nothing.
    """
    settings = jobs[0].log
    try:
        import wandb

        rows = table(jobs, found)
        run = tracking.opened(
            settings,
            file.parent,
            job_type="summary",
            id=file.stem,
            name=f"{settings.group} summary",
            config={"runs": [job.run_id for job in jobs]},
            resume="allow",
        )
        try:
            cells: list[Any] = rows.values.tolist()
            run.log({"runs": wandb.Table(columns=[str(name) for name in rows], data=cells)})
            run.summary.update(Counter(standing.state for standing in found))
        finally:
            wandb.finish()
    except Exception as error:
        tracking.complain(error, "the sweep's summary is not there, its runs are")
    waiting = [folder for place in (*(job.folder for job in jobs), file.parent) for folder in tracking.unsent(place)]
    if waiting:
        log.info("W&B: %d offline runs wait to be sent:\n%s", len(waiting), sync_command(waiting))


def table(jobs: Sequence[Job], found: Sequence[Standing]) -> pd.DataFrame:
    """A row for each run, sub-model and metric: how the run stands, the settings that not all share, the measurement.

    A run without measurements has one row. Raises RequestError where a record cannot be read.
    """
    import pandas as pd

    shared = set.intersection(*(set(job.words) for job in jobs))
    own = {
        job.run_id: [in_words(word).lstrip("+").partition("=") for word in job.words if word not in shared]
        for job in jobs
    }
    heads = [
        {"run_id": s.run_id, "status": s.state, "reason": s.note} | {key: value for key, _, value in own[s.run_id]}
        for s in found
    ]
    records = [job.folder / "record.json" for job in jobs if (job.folder / "record.json").exists()]
    measured = record.load_runs(records) if records else pd.DataFrame(columns=record.COLUMNS)
    kept = measured[["run_id", "adapter", "rank", "depth", "metric", "value", "n", "trainable_parameters"]]
    rows = pd.DataFrame(heads).merge(kept.rename(columns=MEASURED), on="run_id", how="left").astype(object)
    return rows.where(rows.notna(), None)


def sync_command(folders: Iterable[Path]) -> str:
    """The one command that sends these offline runs; it passes over sent ones, which its patterns may name too."""
    patterns: dict[str, None] = {}
    for folder in folders:
        place = folder.parents[1]
        place, inside = (place, "") if place.name.startswith(".") else (place.parent, "*/")  # * names no hidden folder
        patterns[f"{shlex.quote(str(place))}/{inside}wandb/offline-run-*"] = None
    line = " ".join(["wandb sync", *patterns])
    return line if len(line) <= WIDTH else " \\\n  ".join(["wandb sync", *patterns])
