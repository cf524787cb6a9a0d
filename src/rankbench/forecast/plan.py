"""What `rankbench plan` says: parameters, memory, whether it fits and what would make it fit, steps, and the folder."""

from __future__ import annotations

import textwrap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from rankbench.errors import RequestError
from rankbench.forecast import step_memory
from rankbench.models import quantization
from rankbench.models.device import V100_MEMORY
from rankbench.records import record
from rankbench.settings.hardware import Hardware
from rankbench.settings.methods.qdylora import QDyLora
from rankbench.settings.quantization import Compute
from rankbench.settings.run import Run
from rankbench.settings.sources import locate
from rankbench.settings.task import Task
from rankbench.settings.train import Optimizer, Precision
from rankbench.system.progress import quiet_libraries
from rankbench.tasks import data
from rankbench.training.loop import Plan

WIDTH = 80
GIB, MIB = 2**30, 2**20
MOST = 2**20  # rows of a micro-batch
CUDA = GIB  # about what its context and the allocator's gaps take
HOPELESS = (
    "Nothing of this makes it fit: gradient checkpointing, a micro-batch of one row, a 4-bit backbone, an eighth of "
    "the tokens, rank 1."
)

Change = Callable[[Run], Run]


def report(run: Run) -> int:
    """Print what the run would cost and whether it fits, at most 80 columns wide; 0, whatever the answer."""
    print("\n".join(lines(run)))
    return 0


def lines(run: Run) -> list[str]:
    """The whole answer, at most 80 columns wide but for a longer path. Raises RequestError for a wrong request."""
    quiet_libraries()
    folder, loaded = run.folder, on_disk(run.task)
    guessed = loaded is None and run.task.kind == "classification" and run.task.label_names is None
    if loaded is not None and loaded.label_names:
        run = replace(run, task=replace(run.task, label_names=list(loaded.label_names)))
    body, (room, card) = _anatomy(run), memory(run)
    head = {
        "run": str(folder),
        "state": state(folder),
        "steps": _steps(run, loaded),
        "model": f"{run.model.name}: {body.layers} layers of width {body.width:,}, vocabulary {body.vocabulary:,}",
    }
    if run.model.found:
        head["auto"] = run.model.found
    parts = [
        [line for key, value in head.items() for line in _wrapped(value, f"{key:<5}  ")],
        ["parameters", *_parameters(run, body, "of two classes, a guess" if guessed else "")],
        _memory(run, body, room, card),
        _verdict(run, body, room),
    ]
    return [line.rstrip() for part in parts for line in (*part, "")][:-1]


def _anatomy(run: Run) -> step_memory.Anatomy:
    try:
        return step_memory.anatomy(run)
    except RequestError:
        raise
    except Exception as error:  # an architecture may do anything on the meta device
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(
            f"{run.model.name} cannot be taken apart without its weights ({why}), so nothing can be forecast; a run of "
            "train.max_steps=2 shows what it takes"
        ) from error


def on_disk(task: Task) -> data.Data | None:
    """The task's data; None where it would have to be fetched first. Raises RequestError where it is no good."""
    source = locate("task", task)
    if source.kind != "hub":
        return data.load(task)
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=str(source.hub), repo_type="dataset")
    folder = cached / "snapshots" / str(source.revision) / (task.hub_config or "")
    try:
        return data.load(replace(task, data_dir=str(folder)))
    except RequestError:  # not there, or only a part of it
        return None


def state(folder: Path) -> str:
    """What a run's folder says of it: done, started at a step, or new."""
    if record.done(folder):
        return "done: the same command prints its result"
    steps = [int(place.name.removeprefix("step-")) for place in (folder / "checkpoints").glob("step-*")]
    begun = f"started: the same command goes on from step {max(steps):,}" if steps else "new"
    found = record.read(folder)
    return f"{begun} (the last try: {found['status']})" if found else begun


def memory(run: Run) -> tuple[int, str]:
    """The bytes that the run may use, and of what: the visible GPU, a V100 where one is planned for, else free RAM."""
    if torch.cuda.is_available():
        total, name = torch.cuda.get_device_properties(0).total_memory, torch.cuda.get_device_name()
        held = run.hardware is Hardware.v100 and total > V100_MEMORY
        return (V100_MEMORY, f"{name}, held to a V100's") if held else (total, name)
    if run.hardware is Hardware.v100:
        return V100_MEMORY, "a V100 has"
    return psutil.virtual_memory().available, "free RAM"


def largest_batch(body: step_memory.Anatomy, run: Run, room: int) -> int:
    """The most rows of a micro-batch that fit into `room` bytes; 0 where not even one does."""
    return bisect_right(range(1, MOST), room, key=lambda rows: step_memory.of(body, run, rows).peak)


def mended(run: Run, room: int) -> Run | None:
    """The run with the fewest and mildest changes that make it fit into `room` bytes; None where all do not.

    In this order: gradient checkpointing, a smaller micro-batch, a 4-bit backbone, fp16 where a GPU computes fp32,
    shorter rows, a lower rank, then two of them, and so on. Where a change has a size, the mildest is taken, the last
    change's first.
    """
    bodies: dict[tuple[str, Precision, int, int], step_memory.Anatomy] = {}

    def fits(changes: Sequence[Change]) -> bool:
        changed = _changed(run, changes)
        name, length = changed.quantization.name, changed.task.max_length
        key = (name, changed.train.precision, length, changed.adapter.largest_rank)
        if key not in bodies:
            bodies[key] = step_memory.anatomy(changed)
        return step_memory.of(bodies[key], changed).peak <= room

    levers = _levers(run, step_memory.anatomy(run))
    if not fits([lever[-1] for lever in levers]):
        return None
    every = (some for size in range(1, len(levers) + 1) for some in combinations(levers, size))
    some = next(some for some in every if fits([lever[-1] for lever in some]))
    chosen = [lever[-1] for lever in some]
    for i in reversed(range(len(some))):
        before, after = chosen[:i], chosen[i + 1 :]
        chosen[i] = some[i][bisect_left(some[i], True, key=partial(_with, fits, before, after))]
    return _changed(run, chosen)


def overrides(before: Run, after: Run) -> list[str]:
    """The words that turn one run into the other, as the command line takes them."""
    words: dict[str, str] = {}
    was: Any = before.adapter
    now: Any = after.adapter
    if now.name != was.name:
        targets = now.target_modules
        words["adapter"] = now.name
        words["adapter.r"] = str(now.r)  # its own defaults are others
        words["adapter.target_modules"] = targets if isinstance(targets, str) else f"[{','.join(targets)}]"
        words["train.batch_size"] = str(after.train.batch_size)
    elif after.quantization.name != before.quantization.name:
        words["quantization"] = after.quantization.name
    if after.train.precision is not before.train.precision:
        words["train.precision"] = after.train.precision.value
    if after.train.gradient_checkpointing != before.train.gradient_checkpointing:
        words["train.gradient_checkpointing"] = "true"
    if after.train.batch_size != before.train.batch_size:
        words["train.batch_size"] = str(after.train.batch_size)
        words["train.gradient_accumulation_steps"] = str(after.train.gradient_accumulation_steps)
    if after.task.max_length != before.task.max_length:
        words["task.max_length"] = str(after.task.max_length)
    if now.largest_rank != was.largest_rank:
        words["adapter.r"] = str(now.r)
    return [f"{key}={value}" for key, value in words.items()]


def _levers(run: Run, body: step_memory.Anatomy) -> list[list[Change]]:
    """What may be changed, each from mild to strong; those that cannot be are left out."""
    length = body.length
    train, adapter = run.train, run.adapter

    def batch(rows: int) -> Change:
        steps = train.gradient_accumulation_steps * train.batch_size // rows
        return lambda r: replace(r, train=replace(r.train, batch_size=rows, gradient_accumulation_steps=steps))

    def shorter(tokens: int) -> Change:
        return lambda r: replace(r, task=replace(r.task, max_length=tokens))

    def lower(rank: int) -> Change:
        def changed(r: Run) -> Run:
            method: Any = r.adapter
            return replace(r, adapter=replace(method, r=rank))

        return changed

    def quantized(r: Run) -> Run:
        r = replace(r, quantization=replace(r.quantization, name="nf4"))
        if adapter.name != "dylora":
            return r
        train = replace(r.train, optimizer=Optimizer.paged_adamw, gradient_checkpointing=True)
        return replace(r, adapter=QDyLora(**vars(r.adapter) | {"name": "qdylora"}), train=train)

    def checkpointing(r: Run) -> Run:
        return replace(r, train=replace(r.train, gradient_checkpointing=True))

    def halved(r: Run) -> Run:
        return replace(r, train=replace(r.train, precision=Precision.fp16))

    half = (
        run.quantization.compute_dtype is Compute.auto
        and _gpu(run)
        and step_memory.precision(run.precision, run.hardware)[0] == "fp32"
    )
    four_bits = run.quantization.name in ("nf4", "fp4") or adapter.keeps_every_weight
    rank = adapter.largest_rank if body.low_rank else 0
    step = 32 if length > 64 else 8
    chosen = run.evaluate.submodels
    least = max([1, *(getattr(run.sampler, "ranks", None) or []), *(chosen if isinstance(chosen, list) else [])])
    ranks = [rank >> i for i in range(1, rank.bit_length())]
    levers: list[list[Change]] = [
        [] if train.gradient_checkpointing else [checkpointing],
        [batch(n) for n in range(train.batch_size - 1, 0, -1) if train.batch_size % n == 0],
        [] if four_bits else [quantized],
        [halved] if half else [],
        [shorter(n) for n in range((length - 1) // step * step, max(step, length // 8) - 1, -step)],
        [lower(rank) for rank in ranks if rank >= least],
    ]
    return [lever for lever in levers if lever]


def _changed(run: Run, changes: Sequence[Change]) -> Run:
    return reduce(lambda r, change: change(r), changes, run)


def _with(fits: Callable[[Sequence[Change]], bool], before: list[Change], after: list[Change], one: Change) -> bool:
    return fits([*before, one, *after])


def _steps(run: Run, loaded: data.Data | None) -> str:
    train = run.train
    most = "at most " if train.patience else ""
    if train.max_steps:
        return f"{most}{train.max_steps:,} (train.max_steps)"
    if loaded is None:
        return "unknown until the data is here"
    rows = len(loaded.train)
    plan = Plan(np.ones(rows, np.int64), train, run.seed)
    most = most or ("at most " if run.task.packing else "at least " if run.task.extracts else "")
    epochs = "1 epoch" if train.epochs == 1 else f"{train.epochs} epochs"
    what = "questions, in windows" if run.task.extracts else "rows"
    return f"{most}{plan.steps:,} ({epochs} of {plan.steps_per_epoch:,}; {rows:,} {what})"


def _parameters(run: Run, body: step_memory.Anatomy, head: str) -> list[str]:
    r, rows = run.adapter.largest_rank, [("model", body.quantized + body.rest)]
    if body.quantized:
        rows += [(f"  in linears, {run.quantization.name}", body.quantized), ("  in the rest", body.rest)]
    if body.low_rank and r:
        ranks = sorted({*(2**i for i in range(r.bit_length())), r})
        rows += [(f"adapter of rank {rank}", body.low_rank * rank // r) for rank in ranks]
    if body.head:
        rows.append((f"head {head}", body.head))
    rows.append((f"trained by {run.adapter.name}", body.trained))
    return [f"  {label:<32}{count:>16,}" for label, count in rows]


def _memory(run: Run, body: step_memory.Anatomy, room: int, card: str) -> list[str]:
    """The table of bytes; a line in brackets is not counted."""
    found, (arithmetic, reason) = step_memory.of(body, run), step_memory.precision(run.precision, run.hardware)
    stored = run.quantization
    weights = (
        f"{stored.name}, {quantization.bits(stored):.2f} bits each; the rest {arithmetic}" if body.quantized else "fp32"
    )
    paged = run.train.optimizer is Optimizer.paged_adamw and _gpu(run)
    ways = [
        ("activations", found.activations, "without gradient checkpointing"),
        ("activations", found.activations_checkpointed, "with gradient checkpointing"),
    ]
    counted, (label, size, note) = reversed(ways) if run.train.gradient_checkpointing else ways
    table = [
        ("weights", found.weights, weights),
        ("adapter and head", found.adapter, "fp32"),
        ("gradients", found.gradients, "fp32"),
        ("optimizer", found.optimizer, "paged: RAM takes it when the GPU is full" if paged else "fp32"),
        counted,
        (f"({label}", size, f"{note})"),
        ("workspace", found.workspace, "a gradient" + (" and a dequantized layer" if body.quantized else "")),
        ("logits", found.logits, "of every token, with gradients"),
        ("peak", found.peak, "logits and workspace in turn" if found.logits else ""),
        (card, room, ""),
    ]
    unit, sign = (GIB, "GiB") if found.peak >= GIB else (MIB, "MiB")
    title = f"memory of a step of {run.train.batch_size} x {body.length} tokens in {arithmetic} ({reason})"
    return [*_wrapped(title), *(f"  {name:<22}{n / unit:>10,.2f} {sign}  {note}" for name, n, note in table if n)]


def _verdict(run: Run, body: step_memory.Anatomy, room: int) -> list[str]:
    peak = step_memory.of(body, run).peak
    if peak <= room:
        return [
            f"fits, with {_spare(run, room - peak)}",
            f"largest micro-batch: {_rows(largest_batch(body, run, room))}",
        ]
    said = [
        f"does not fit: {_size(peak - room)} too much",
        f"largest micro-batch: {_rows(largest_batch(body, run, room))}",
    ]
    changed = (_gpu(run) and mended(run, room - CUDA)) or mended(run, room)
    if not changed:
        return [*said, *_wrapped(HOPELESS)]
    body = step_memory.anatomy(changed)
    spare, rows = _spare(run, room - step_memory.of(body, changed).peak), _rows(largest_batch(body, changed, room))
    words = _wrapped(" ".join(overrides(run, changed)), "  ")
    if changed.train.precision is not run.train.precision:
        words += _wrapped("fp16 is less stable than fp32; a run whose loss overflows stops and says so.")
    return [*said, "", *_wrapped(f"fits with these, and {spare} (largest micro-batch: {rows}):"), *words]


def _spare(run: Run, size: int) -> str:
    tight = _gpu(run) and size < CUDA
    return f"only {_size(size)} to spare, where CUDA itself takes about 1 GiB" if tight else f"{_size(size)} to spare"


def _gpu(run: Run) -> bool:
    return torch.cuda.is_available() or run.hardware is Hardware.v100


def _rows(n: int) -> str:
    if n == MOST - 1:
        return "not known: no layer keeps anything for a backward"
    return f"{n:,} row{'' if n == 1 else 's'}" if n else "not even one row"


def _size(size: int) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / MIB:,.1f} MiB"


def _wrapped(text: str, start: str = "") -> list[str]:
    """Lines of at most 80 columns; a path or a setting is never broken."""
    indent = " " * len(start)
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
