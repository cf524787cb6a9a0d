"""One run, from its settings to its record, however it ends: the work between them is work.py's."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import SafetensorError

from rankbench.errors import RequestError, RunFailed
from rankbench.models import device, sharding
from rankbench.records import lock, tested
from rankbench.records import record as records
from rankbench.records.notes import how_it_ended, notes, without_adapter
from rankbench.runs import places, work
from rankbench.runs.environment import environment
from rankbench.settings import contents
from rankbench.settings.compose import CONF, composed
from rankbench.settings.identity import identity, settings, sources
from rankbench.settings.metrics import times
from rankbench.settings.run import Run
from rankbench.system import home, onednn, processes, stopping, threads
from rankbench.system.files import write_atomic
from rankbench.system.progress import quiet_libraries, speak, written_to

log = logging.getLogger("rankbench")

PANIC = "PanicException"  # of a library in Rust: a failure, though it is no Exception

_ONE = threading.RLock()  # of two threads the second waits: torch's random numbers and Hydra's state are the process's


def run(*overrides: str) -> dict[str, Any]:
    """Do the run that these settings ask for, or join what is there of it, and return its record.

    `rankbench.run("task=sst2", "adapter=dylora")` is what `python -m rankbench task=sst2 adapter=dylora` does. Its
    folder is `runs_dir`/`run_id`. Raises RequestError where the request is wrong, InUse where a live run holds the
    folder, RunFailed where the run fails.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rankbench.settings.refusal import explain

    if wrong := [word for word in overrides if not isinstance(word, str)]:
        raise RequestError(f"rankbench.run takes settings as texts, run('task=sst2', 'seed=1'), not {wrong[0]!r}")
    threads.wait_politely()
    onednn.keep_few()
    with _ONE:
        try:
            asked = composed(list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise RequestError(explain(error, list(overrides), CONF)) from error
        return execute(asked, overrides)


def execute(run: Run, words: Sequence[str] | None = None) -> dict[str, Any]:
    """Do the run, or join what is there of it, and return its record.

    A done run is returned as it is; a started one goes on from its newest good checkpoint. Raises RequestError when
    the request is wrong (nothing is written then beyond the folder), InUse when a live run holds the folder, RunFailed
    when the run fails, Stopped when a signal ends it. `words` are the settings that the record gives as its command.
    """
    with _ONE:
        return _execute(run, words)


def _execute(run: Run, words: Sequence[str] | None) -> dict[str, Any]:
    speak()
    sharding.refuse(run.adapter, run.quantization, run.arithmetic.integer)
    folder = run.folder
    if not run.fresh and folder.is_dir() and home.refusal(folder) and (found := records.done(folder)):
        log.info("already done: %s", folder)  # where nothing can be written, as in an archive
        return found
    places.make(folder)
    home.spare(folder.parent)
    with stopping.obeyed(), _held(folder) as mine:
        anew = run.fresh and not places.emptied(folder)
        found = None if anew else records.done(folder)
        processes.wait()
        if found:
            places.drop(folder / "checkpoints")
            log.info("already done: %s", folder)
            if why := records.affected(found):
                records.warn(folder, why)
            return found
        places.check_places(folder)
        with written_to(folder / "run.log") if processes.first() else contextlib.nullcontext():
            try:
                return _attempt(run, folder, mine, sys.argv[1:] if words is None else words, anew)
            finally:
                _release()


def _say_change(run: Run, folder: Path) -> None:
    """Say it where a run of these settings is there that read files of another content."""
    first = folder.with_name(run.id_of(identity(run)))
    before = contents.kept(first) if first != folder else None
    if before and (files := contents.changed(before, contents.of(run))):
        log.warning("changed since %s: %s; this is another run", first, ", ".join(files))


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[lock.Held]:
    """The folder's lock, which the first process takes for all. Raises what `lock.held` raises, in every process."""
    with contextlib.ExitStack() as stack:
        mine, refused = lock.Held(folder), None
        if processes.first():
            try:
                mine = stack.enter_context(lock.held(folder))
            except RequestError as error:
                refused = error
        refused = processes.gathered(refused)[0]
        if refused:
            raise refused
        yield mine


def _attempt(run: Run, folder: Path, mine: lock.Held, words: Sequence[str], anew: bool) -> dict[str, Any]:
    from rankbench.forecast import doctor
    from rankbench.runs import tracking
    from rankbench.tasks import data

    log.info("run %s", folder)
    if run.model.found:
        log.info("model=auto found %s", run.model.found)
    _say_change(run, folder)
    base: dict[str, Any] = {"schema": records.SCHEMA, "run_id": run.run_id, "config": settings(run), "submodels": []}
    tracker, config = tracking.Silent(), OmegaConf.to_yaml(OmegaConf.create(base["config"]))
    stands = anew and records.done(folder) is not None  # until the first step nothing of it is touched

    def begin() -> Any:
        nonlocal stands, tracker
        stopping.check()
        stands = False
        if anew and processes.first():
            places.begin_anew(folder)
            write_atomic(folder / "config.yaml", config)
            contents.keep(folder, base["contents"])
            tracker = tracking.start(run, base["config"])
        processes.wait()
        return tracker.loss

    try:
        with stopping.preferred():
            if processes.first() and not stands:
                write_atomic(folder / "config.yaml", config)
            doctor.refuse(run)
            loaded = data.load(run.task)
            stopping.check()
            base |= {"sources": sources(run), "data": loaded.origin}
            if processes.first():
                base["contents"] = contents.of(run)
            if processes.first() and not anew:
                contents.keep(folder, base["contents"])
            quiet_libraries()
            from rankbench.models.precision import choose_precision

            precision, reason = choose_precision(run.train.precision, run.hardware, run.arithmetic.integer)
            log.info("precision %s: %s", precision, reason)
            base["environment"] = environment(device.device_name(), precision, reason, words, run.train.compile)
            if processes.first() and not anew:
                tracker = tracking.start(run, base["config"])
            with sharding.by_hand() as split:
                record = base | work.carry_out(run, folder, loaded, precision, begin, split)
            stopping.check()
            if processes.first():
                mine.check()
                _finish(folder, record)
            tracker.finish(record, folder / "curve.png")
            processes.wait()
            return record
    except RequestError:
        tracker.finish(base | {"status": "refused"}, None)
        if processes.first():
            places.leave_nothing(folder)
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            tracker.finish(base | {"status": "stopped"}, None)  # by hand or by a signal: the checkpoint goes on
            raise
        stopping.over()
        status = "oom" if _out_of_memory(error) else "failed"
        reason = _advice(error, status) + ("; what was done before still stands" if stands else "")
        record = base | {"status": status, "reason": reason, "error": str(error), "traceback": traceback.format_exc()}
        _let_go(error)
        if not processes.first():
            log.error("rankbench: process %d of %s %s: %s", processes.place(), folder, status, reason)
            raise RunFailed(f"{folder}: {reason}") from error
        with contextlib.suppress(OSError):  # on a full disk the exit status and stderr still say it
            if stands:
                with open(folder / "run.log", "a") as said:
                    said.write(record["traceback"])
            else:
                write_atomic(folder / "record.json", json.dumps(record, indent=1))
        tracker.finish(record, None)
        log.error("rankbench: %s %s: %s", folder, status, reason)
        raise RunFailed(f"{folder}: {reason}") from error


def _let_go(error: BaseException | None) -> None:
    """Drop what the frames of a failure hold, models among it: a sweep keeps the failure while its next runs train."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _release() -> None:
    """Give memory back before another run of this process wants it; autocast leaves models in circles."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _finish(folder: Path, record: dict[str, Any]) -> None:
    """The picture, then the record, last and whole; the checkpoints have served then."""
    import pandas as pd

    from rankbench.tables import baselines, plots

    config = record["config"]
    metric = next(iter(record["submodels"][0]["metrics"]))
    rows = [(s["rank"], s["depth"], s["metrics"][metric]) for s in record["submodels"]]
    table = pd.DataFrame(rows, columns=["rank", "depth", "mean"]).assign(label=config["adapter"]["name"], std=0.0, n=1)
    n = record["submodels"][0]["n"]
    title = f"{config['task']['name']} ({n} examples), {config['model']['name']}, seed {config['seed']}"
    figure = plots.draw(table, metric, title, baselines.lines([record], metric))
    if figure is not None:
        plots.save(figure, folder / "curve.png")
    write_atomic(folder / "record.json", json.dumps(record, indent=1))
    (folder / contents.FILE).unlink(missing_ok=True)
    places.drop(folder / "checkpoints")


def summary(record: dict[str, Any]) -> str:
    """The record's table as the command line prints it, at most 80 columns wide: a line per sub-model.

    What test splits say stands apart, below it.
    """
    rows = record["submodels"]
    own = _table(rows, [(name, [row["metrics"][name] for row in rows]) for name in rows[0]["metrics"]], costs=True)
    beside = without_adapter(record, list(rows[0]["metrics"]))
    told = [line for note in [*notes(record), *beside, *how_it_ended(record)] for line in textwrap.wrap(note, 80)]
    if not rows[0].get("test"):
        return "\n".join([*own, *told])
    head = f"On {', '.join(tested.splits(record))} ({rows[0]['test_n']:,} examples), by which nothing was chosen:"
    report = _table(rows, [(name, [row["test"][name] for row in rows]) for name in rows[0]["test"]])
    return "\n".join([*own, *told, "", *textwrap.wrap(head, 80), *report])


def _table(rows: list[dict[str, Any]], metrics: list[tuple[str, list[float]]], costs: bool = False) -> list[str]:
    """The lines of a table; metrics that do not fit beside the others stand in a further one below it."""
    family = [key for key in ("rank", "depth") if any(row.get(key) is not None for row in rows)] or ["rank"]
    columns = [[key, *("all" if row.get(key) is None else str(row[key]) for row in rows)] for key in family]
    for name, values in metrics:
        digits = 2 if times(name) > 1 else 3
        columns.append([f"{name:>10}", *(f"{times(name) * value:.{digits}f}" for value in values)])
    if costs:
        columns.append([f"{'parameters':>11}", *(f"{row['parameters']['trainable']:,}" for row in rows)])
        columns.append(["seconds", *(f"{row['eval_seconds']:.1f}" for row in rows)])
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > 80 and len(columns) > len(family) + 1:
        del columns[-1], widths[-1]  # of the costs first, which the record has
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in zip(*columns, strict=True)
    ]
    rest = metrics[len(columns) - len(family) :]
    return [*lines, *(["", *_table(rows, rest)] if rest else [])]


def _out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error)
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator: can't allocate" in text


def _advice(error: BaseException, status: str) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if processes.count() > 1 and ("gloo" in line or "NCCL" in line):
        return f"another process of this run died; its own output says why, and the same command goes on ({line})"
    if status == "oom":
        return f"out of memory ({line}); lower train.batch_size, or set train.gradient_checkpointing=true"
    if (isinstance(error, OSError) and error.errno is not None) or isinstance(error, SafetensorError):
        return f"{line}; mend the disk and run the same command again, the last good checkpoint stands"
    return line
