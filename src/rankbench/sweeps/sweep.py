"""A sweep: all its jobs checked before the first starts, the done ones left out, every one accounted for at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus

from rankbench import errors
from rankbench.errors import RequestError, RunFailed
from rankbench.records import lock
from rankbench.settings import names
from rankbench.settings.base import require
from rankbench.sweeps import scores, summary
from rankbench.sweeps.jobs import Asked, Job, group, split
from rankbench.sweeps.status import SWEEPS, Listed, apart_by, of_sweep, standing, table
from rankbench.system import processes, slurm, stopping
from rankbench.system.files import expanded, write_atomic
from rankbench.system.progress import speak

log = logging.getLogger("rankbench")

POLL = 2.0  # seconds between two looks at runs that others do
BUSY = "another run holds the folder"
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
BasicSweeper: Any = Plugins.instance().class_name_to_class[BASIC]  # an import would give a second class of that name


class Sweep(BasicSweeper):
    """Hydra's own sweeper with the promises above; the launcher is whatever `hydra/launcher` says.

    Several sweeps may share runs: a run that another one is doing is waited for, and done here if that one dies.
    Raises RequestError when any job is wrong, before the first starts; RunFailed when not all are done in the end.
    """

    def sweep(self, arguments: list[str]) -> None:
        """What Hydra calls with the command line's settings."""
        assert self.config is not None and self.hydra_context is not None
        require(
            processes.count() == 1,
            "a sweep starts its own processes; with cluster=slurm cluster.gpus=4 every run has four",
        )
        speak()
        given = shlex.join(arguments)
        if self.config.log.group is None and not any(word.lstrip("+").startswith("log.group=") for word in arguments):
            arguments = [*arguments, f"log.group={group(arguments)}"]
        loader = self.hydra_context.config_loader
        jobs = Asked(self.config, loader, split(self, loader)).jobs(arguments)
        require(bool(jobs), f"no run comes of {given}; give a value where a list has none")
        file = expanded(self.config.runs_dir) / SWEEPS / f"{_name(jobs[0].log.group, jobs)}.json"
        asked = {job.run_id: job.words for job in jobs}
        listed = {"command": shlex.join(["rankbench", *sys.argv[1:]]), "runs": asked}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(listed | {"launcher": asdict(lock.myself())}, indent=1))
        except OSError as error:
            raise RequestError(
                f"{file.parent} cannot be written ({error.strerror}); choose another runs_dir"
            ) from error
        before = {job.run_id: made for job in jobs if job.fresh and (made := _made(job))}
        try:
            with stopping.obeyed():
                refused = self._finish(jobs)
        except (KeyboardInterrupt, stopping.Stopped):
            if "submitit_folder" in self.config.hydra.launcher:
                log.info("the Slurm jobs go on without this call: rankbench status shows them, scancel ends them")
            raise
        try:
            write_atomic(file, json.dumps(listed | {"refused": refused}, indent=1))
        except OSError as error:  # the runs have ended, and the table below is of them
            log.warning("%s cannot be written (%s), so rankbench status knows less", file, error.strerror)
        there = {job.run_id: standing(job.folder) for job in jobs if job.folder.is_dir()}
        for job in jobs:
            if job.run_id in before and _made(job) == before[job.run_id]:
                why = refused.get(job.run_id, "it was killed")
                note = f"fresh=true did not do it again: {why}; what was done before stands"
                there[job.run_id] = replace(there[job.run_id], state="failed", note=note)
        found = of_sweep(Listed(asked, refused, None), there)
        done = [job.folder for job, standing in zip(jobs, found, strict=True) if standing.state == "done"]
        if told := scores.text(done, Path(self.config.runs_dir)):
            print(f"{told}\n")
        print(table(found))
        if mirrored := [job for job in jobs if job.log.name == "wandb"]:
            ids = {job.run_id for job in mirrored}
            summary.mirror(file, mirrored, [standing for standing in found if standing.run_id in ids])
        undone = sum(s.state != "done" for s in found)
        if undone:
            text = f"{undone} of {len(jobs)} runs are not done; the same command goes on with them"
            print(f"rankbench: {text}", file=sys.stderr)
            raise RunFailed(text)

    def _finish(self, jobs: list[Job]) -> dict[str, str]:
        """Launch what is not done, and wait for what others are doing; why each that was refused was."""
        refused: dict[str, str] = {}
        waiting = [job for job in jobs if job.fresh or not _done(job)]
        if len(waiting) < len(jobs):
            log.info("%d of %d runs are done already", len(jobs) - len(waiting), len(jobs))
        told = False
        asked = apart_by([job.words for job in jobs])
        single = self.config is not None and self.config.cluster.name == "local"  # one after the other, here
        while waiting:
            free = [job for job in waiting if lock.holder(job.folder) is None]
            for batch in self.split_overrides_to_chunks(free, 1 if single else self.max_batch_size) if free else ():
                if single:
                    place = jobs.index(batch[0])
                    log.info("[%d/%d] %s", place + 1, len(jobs), asked[place] or batch[0].run_id)
                refused |= self._launch(batch)
            tried = [job for job in free if refused.get(job.run_id) != BUSY]
            waiting = [job for job in waiting if job not in tried and not _done(job)]
            if waiting and not told:
                log.info("waiting for %d runs that another sweep is doing", len(waiting))
                told = True
            time.sleep(POLL if waiting else 0)
        return {run_id: reason for run_id, reason in refused.items() if reason != BUSY}

    def _launch(self, jobs: list[Job]) -> dict[str, str]:
        """Do these jobs; why each that left no record did not."""
        assert self.launcher is not None and self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        before = slurm.submitted(folder)
        try:
            returns = self.launcher.launch([list(job.words) for job in jobs], initial_job_idx=0)
        except Exception as error:  # a job that was killed; where others are Slurm's they go on
            new = slurm.submitted(folder) - before
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            if "submitit_folder" in self.config.hydra.launcher and not new:
                raise RequestError(f"cluster={self.config.cluster.name}: nothing was submitted ({line})") from error
            log.info("a job ended without an answer: %s", line)
            slurm.wait_for(new)  # the launcher gives up at the first that died
            return {}
        failed = [(job, r._return_value) for job, r in zip(jobs, returns, strict=True) if r.status is JobStatus.FAILED]
        return {job.run_id: BUSY if isinstance(error, errors.InUse) else _line(error) for job, error in failed}


def install() -> None:
    """Let Hydra's `-m` use Sweep wherever it would use its basic sweeper; other sweepers stay as they are.

    Hydra finds a sweeper by its class's name in this table. Putting ours there under that name keeps all that Hydra's
    command line can do, with no config that names a class.
    """
    Plugins.instance().class_name_to_class[BASIC] = Sweep


def _name(group: str | None, jobs: Sequence[Job]) -> str:
    """A sweep's file: the same runs, the same file."""
    digest = hashlib.sha256("\n".join(sorted(job.run_id for job in jobs)).encode()).hexdigest()[:8]
    return f"{names.made_good(group or 'sweep', 'sweep')}-{digest}"


def _done(job: Job) -> bool:
    return job.folder.is_dir() and standing(job.folder).state == "done"


def _made(job: Job) -> int | None:
    """When the record of a done job was written; None for another."""
    return (job.folder / "record.json").stat().st_mtime_ns if _done(job) else None


def _line(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
