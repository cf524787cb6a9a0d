"""A run in a process of its own: on a GPU that no other run has, and whose death is its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rankbench import record as records
from rankbench.config import Run, settings
from rankbench.lock import InUse
from rankbench.progress import speak
from rankbench.run import RunFailed
from rankbench.run import execute as here
from rankbench.sources import RequestError

log = logging.getLogger("rankbench")

IN_USE = 3  # the process's exit status where a live run holds the folder


def execute(run: Run, words: Sequence[str]) -> dict[str, Any]:
    """As `run.execute`, in another process, whose output goes to a file beside the sweep's list.

    Raises what `run.execute` would have raised there, and RunFailed where the process was killed.
    """
    speak()
    said = Path(run.runs_dir) / ".multirun" / f"{run.run_id}.out"
    said.parent.mkdir(parents=True, exist_ok=True)
    with card() as chosen, open(said, "w") as out:
        log.info("%s: started%s", run.run_id, f" on GPU {chosen}" if chosen else "")
        call = [sys.executable, "-m", "rankbench.apart", *words]
        env = os.environ | ({"CUDA_VISIBLE_DEVICES": chosen} if chosen else {})
        status = subprocess.run(call, input=json.dumps(settings(run)), env=env, stdout=out, stderr=out, text=True)
    record = records.read(run.folder)
    if status.returncode == 0 and record is not None:
        log.info("%s: done", run.run_id)
        return record
    failure = _failure(status.returncode, said, record)
    log.info("%s: %s", run.run_id, failure)
    raise failure


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


def main() -> None:
    """The other process: settings come as JSON on stdin; exit statuses are the command line's."""
    run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Run), json.load(sys.stdin)))
    assert isinstance(run, Run)
    try:
        here(run)
    except RequestError as error:
        print(f"rankbench: {error}", file=sys.stderr)
        sys.exit(IN_USE if isinstance(error, InUse) else 2)
    except RunFailed:
        sys.exit(1)


if __name__ == "__main__":
    main()
