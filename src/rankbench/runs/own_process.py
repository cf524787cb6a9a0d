"""A run in a process of its own: on a GPU that no other run has, and whose death is its own."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from rankbench.errors import InUse, RequestError, RunFailed
from rankbench.records import record as records
from rankbench.runs import places
from rankbench.runs.life import execute as here
from rankbench.settings.compose import of_record
from rankbench.settings.identity import settings
from rankbench.settings.run import Run
from rankbench.settings.train import Optimizer
from rankbench.system import gpus, processes, stopping
from rankbench.system.progress import speak

log = logging.getLogger("rankbench")

IN_USE = 3  # the process's exit status where a live run holds the folder


def wanted(run: Run) -> bool:
    """Whether the run is to have a process of its own: where settings say so, or where it would not give memory back.

    bitsandbytes never frees the pages of a paged optimizer, 8 bytes for each trained weight.
    """
    paged = run.train.optimizer is Optimizer.paged_adamw and bool(gpus.cards()) and processes.count() == 1
    return run.cluster.own_process or (paged and HydraConfig.get().mode is RunMode.MULTIRUN)


def execute(run: Run, words: Sequence[str]) -> dict[str, Any]:
    """As `life.execute`, in another process, whose output goes to a file beside the sweep's list.

    Raises what `life.execute` would have raised there, and RunFailed where the process was killed.
    """
    speak()
    said = Path(run.runs_dir) / ".multirun" / f"{run.run_id}.out"
    places.make(said.parent)
    try:
        said.write_text("")
    except OSError as error:
        raise RequestError(f"{said} cannot be written ({error.strerror}); choose another runs_dir") from error
    with gpus.card() as chosen, open(said, "w") as out:
        log.info("%s: started%s", run.run_id, f" on GPU {chosen}" if chosen else "")
        call = [sys.executable, "-m", "rankbench.runs.own_process", *words]
        env = os.environ | ({"CUDA_VISIBLE_DEVICES": chosen} if chosen else {})
        with subprocess.Popen(call, stdin=subprocess.PIPE, env=env, stdout=out, stderr=out, text=True) as process:
            _wait(process, json.dumps(settings(run)))
    record = records.read(run.folder)
    if process.returncode == 0 and record is not None:
        log.info("%s: done", run.run_id)
        return record
    failure = _failure(process.returncode, said, record)
    log.info("%s: %s", run.run_id, failure)
    raise failure


def _wait(process: subprocess.Popen[str], said: str) -> None:
    """Tell the process what it is to run, and wait for its end: also where this one is stopped, for a checkpoint."""
    try:
        with stopping.obeyed():
            process.communicate(said)
    except (KeyboardInterrupt, stopping.Stopped):
        process.terminate()  # Ctrl-C may have reached it too: it is a checkpoint either way
        process.wait()
        raise


def _failure(status: int, said: Path, record: dict[str, Any] | None) -> Exception:
    lines = said.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    last = next((line for line in reversed(lines) if line.startswith("rankbench: ")), lines[-1])
    last = last.removeprefix("rankbench: ")
    if status in (2, IN_USE):
        return (InUse if status == IN_USE else RequestError)(last)
    if status == 1 and record is not None and "reason" in record:
        return RunFailed(record["reason"])
    if status < 0:
        return RunFailed(f"killed by {signal.Signals(-status).name}; the same command goes on")
    return RunFailed(f"{last} (see {said})")


def main() -> None:
    """The other process: settings come as JSON on stdin; exit statuses are the command line's."""
    run = of_record(json.load(sys.stdin))
    try:
        here(run)
    except RequestError as error:
        print(f"rankbench: {error}", file=sys.stderr)
        sys.exit(IN_USE if isinstance(error, InUse) else 2)
    except RunFailed:
        sys.exit(1)


if __name__ == "__main__":
    main()
