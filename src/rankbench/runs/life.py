"""One run, from its settings to its record, however it ends: the work between them is work.py's."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import shutil
import sys
import textwrap
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
from rankbench.runs import work
from rankbench.runs.environment import environment
from rankbench.settings import contents
from rankbench.settings.compose import CONF, composed
from rankbench.settings.identity import identity, settings, sources
from rankbench.settings.metrics import times
from rankbench.settings.run import Run
from rankbench.system import home, processes, stopping
from rankbench.system.files import empty, write_atomic
from rankbench.system.progress import quiet_libraries, speak, written_to

log = logging.getLogger("rankbench")


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
    speak()
    sharding.refuse(run.adapter, run.quantization)
    folder = run.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"runs_dir={run.runs_dir} cannot be written ({error.strerror}); choose another runs_dir"
        ) from error
    home.spare(folder.parent)
    with stopping.obeyed(), _held(folder) as mine:
        if run.fresh and processes.first():
            _begin_anew(folder)
        processes.wait()
        found = records.read(folder)
        processes.wait()
        if found and found["status"] == "done":
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            log.info("already done: %s", folder)
            if why := records.affected(found):
                records.warn(folder, why)
            return found
        with written_to(folder / "run.log") if processes.first() else contextlib.nullcontext():
            try:
                return _attempt(run, folder, mine, sys.argv[1:] if words is None else words)
            finally:
                _release()


def _say_change(run: Run, folder: Path) -> None:
    """Say it where a run of these settings is there that read files of another content."""
    first = folder.with_name(run.id_of(identity(run)))
    before = contents.kept(first) if first != folder else None
    if before and (files := contents.changed(before, contents.of(run))):
        log.warning("changed since %s: %s; this is another run", first, ", ".join(files))


def _begin_anew(folder: Path) -> None:
    """Empty the folder, once in a job: a job that Slurm or torchrun starts anew goes on with what it has made."""
    mark, job = folder / ".fresh", processes.job()
    if job and processes.restarted() and mark.exists() and mark.read_text() == job:
        return
    empty(folder)
    if job:
        mark.write_text(job)


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


def _attempt(run: Run, folder: Path, mine: lock.Held, words: Sequence[str]) -> dict[str, Any]:
    from rankbench.forecast import doctor
    from rankbench.runs import tracking
    from rankbench.tasks import data

    log.info("run %s", folder)
    _say_change(run, folder)
    base: dict[str, Any] = {"schema": records.SCHEMA, "run_id": run.run_id, "config": settings(run), "submodels": []}
    tracker = tracking.Silent()
    try:
        if processes.first():
            write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(base["config"])))
        doctor.refuse(run)
        loaded = data.load(run.task)
        base |= {"sources": sources(run), "data": loaded.origin}
        if processes.first():
            base["contents"] = contents.of(run)
            contents.keep(folder, base["contents"])
        quiet_libraries()
        from rankbench.models.precision import choose_precision

        precision, reason = choose_precision(run.train.precision, run.hardware)
        log.info("precision %s: %s", precision, reason)
        base["environment"] = environment(device.device_name(), precision, reason, words)
        if processes.first():
            tracker = tracking.start(run, base["config"])
        with sharding.by_hand() as split:
            record = base | work.carry_out(run, folder, loaded, precision, tracker, split)
        if processes.first():
            mine.check()
            _finish(folder, record)
        tracker.finish(record, folder / "curve.png")
        processes.wait()
        return record
    except RequestError:
        tracker.finish(base | {"status": "refused"}, None)
        if processes.first() and not any((folder / name).exists() for name in ("checkpoints", "record.json")):
            shutil.rmtree(folder)  # a refused request leaves nothing behind
        raise
    except Exception as error:
        status = "oom" if _out_of_memory(error) else "failed"
        reason = _advice(error, status)
        record = base | {"status": status, "reason": reason, "error": str(error), "traceback": traceback.format_exc()}
        _let_go(error)
        if not processes.first():
            log.error("rankbench: process %d of %s %s: %s", processes.place(), folder, status, reason)
            raise RunFailed(f"{folder}: {reason}") from error
        with contextlib.suppress(OSError):  # on a full disk the exit status and stderr still say it
            write_atomic(folder / "record.json", json.dumps(record, indent=1))
        tracker.finish(record, None)
        log.error("rankbench: %s %s: %s", folder, status, reason)
        raise RunFailed(f"{folder}: {reason}") from error
    except BaseException:  # stopped by hand or by a signal: the checkpoint goes on, the tracker is closed
        tracker.finish(base | {"status": "stopped"}, None)
        raise


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
    places = [(s["rank"], s["depth"], s["metrics"][metric]) for s in record["submodels"]]
    table = pd.DataFrame(places, columns=["rank", "depth", "mean"]).assign(
        label=config["adapter"]["name"], std=0.0, n=1
    )
    n = record["submodels"][0]["n"]
    title = f"{config['task']['name']} ({n} examples), {config['model']['name']}, seed {config['seed']}"
    figure = plots.draw(table, metric, title, baselines.lines([record], metric))
    if figure is not None:
        plots.save(figure, folder / "curve.png")
    write_atomic(folder / "record.json", json.dumps(record, indent=1))
    (folder / contents.FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


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
    family = [key for key in ("rank", "depth") if any(row.get(key) is not None for row in rows)] or ["rank"]
    columns = [[key, *("all" if row.get(key) is None else str(row[key]) for row in rows)] for key in family]
    for name, values in metrics:
        digits = 2 if times(name) > 1 else 3
        columns.append([f"{name:>10}", *(f"{times(name) * value:.{digits}f}" for value in values)])
    if costs:
        columns.append([f"{'parameters':>11}", *(f"{row['parameters']['trainable']:,}" for row in rows)])
        columns.append(["seconds", *(f"{row['eval_seconds']:.1f}" for row in rows)])
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > 80 and len(columns) > len(family) + len(metrics):
        del columns[-1], widths[-1]  # the record has them
    lines = zip(*columns, strict=True)
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]


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
