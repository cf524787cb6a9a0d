"""One run, from its settings to its record."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import SafetensorError

from rankbench import device, lock, processes, sharding, stopping
from rankbench import record as records
from rankbench.checks import GENERATED, times
from rankbench.config import Run, identity, settings
from rankbench.files import empty, replace_folder, write_atomic
from rankbench.last import Last
from rankbench.progress import quiet_libraries, speak, written_to
from rankbench.sources import RequestError

log = logging.getLogger("rankbench")


class RunFailed(Exception):
    """The run failed; its record says how. The command line exits with 1."""


def execute(run: Run, words: Sequence[str] | None = None) -> dict[str, Any]:
    """Do the run, or join what is there of it, and return its record.

    A done run is returned as it is; a started one goes on from its newest good checkpoint. Raises RequestError when
    the request is wrong (nothing is written then beyond the folder), InUse when a live run holds the folder, RunFailed
    when the run fails, Stopped when a signal ends it. `words` are the settings that the record gives as its command.
    """
    speak()
    sharding.refuse(run)
    folder = run.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"runs_dir={run.runs_dir} cannot be written ({error.strerror}); choose another runs_dir"
        ) from error
    with stopping.obeyed(), _held(folder) as mine:
        if run.fresh and processes.first():
            empty(folder)
        processes.wait()
        found = records.read(folder)
        processes.wait()
        if found and found["status"] == "done":
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            log.info("already done: %s", folder)
            return found
        with written_to(folder / "run.log") if processes.first() else contextlib.nullcontext():
            return _attempt(run, folder, mine, sys.argv[1:] if words is None else words)


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
    from rankbench import data, doctor, track

    log.info("run %s", folder)
    base = {"schema": records.SCHEMA, "run_id": run.run_id, "config": settings(run), "submodels": []}
    tracker = track.Silent()
    try:
        if processes.first():
            write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(base["config"])))
        doctor.refuse(run)
        loaded = data.load(run.task)
        base["data"] = loaded.origin
        quiet_libraries()
        from rankbench import backbone

        precision, reason = backbone.choose_precision(run)
        log.info("precision %s: %s", precision, reason)
        base["environment"] = records.environment(device.device_name(), precision, reason, words)
        if processes.first():
            tracker = track.start(run, base["config"])
        with sharding.by_hand() as split:
            record = base | _measure(run, folder, loaded, precision, tracker, split)
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


def _measure(run: Run, folder: Path, loaded: Any, precision: str, tracker: Any, split: str) -> dict[str, Any]:
    """Train and evaluate, with frozen weights split over the processes as `split` says; returns the record's parts.

    Leaves everything but the record on disk.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from rankbench import adapters, backbone, evaluate, quantize, train

    AcceleratorState._reset_state(True)  # a run before this one in the same process may have had another precision
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    if accelerator.distributed_type.value not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise RequestError(
            f"{accelerator.distributed_type.value} is no way to start several processes here; use torchrun, or "
            "accelerate launch with distributed_type MULTI_GPU, FSDP or DEEPSPEED"
        )
    device.obey(run.hardware)
    memory = {"forecast": _forecast(run), "before": device.resident_memory(accelerator.device.type)}
    over = sharding.mesh(accelerator.device.type) if split else None
    storage = quantize.storage(run.quantization, precision, quantize.CPU if over else accelerator.device)
    turns = split == "FSDP"  # DeepSpeed splits with all processes at once
    with processes.in_turn() if turns else contextlib.nullcontext():
        body = backbone.load(run.model, loaded.num_labels, run.task.regression, run.seed, storage)
        adapter = adapters.attach(run, body.model)
        if over:
            sharding.shard(body.model, adapter.trained().values(), over, split)
    encoded, validation, responses = _encode(run, loaded, body)
    pad_id = body.tokenizer.pad_token_id
    _check_chosen(run, adapter.family)
    chosen = [m for m in adapter.family if run.evaluates(m.rank, m.depth)]
    log.info(
        "train %d examples, score %d; %s parameters trained of %s",
        *(encoded.examples.sum(), sum(map(len, validation))),
        *(f"{n:,}" for n in (sum(p.numel() for p in adapter.trained().values()), adapter.count(chosen[-1]).total)),
    )

    def measure(model: Any) -> list[evaluate.Score]:
        return evaluate.evaluate(
            model,
            adapter,
            validation,
            chosen,
            run.task.metrics,
            batch_size=run.train.eval_batch_size,
            pad_id=pad_id,
            responses=responses,
        )

    device.forget_peak_memory(accelerator.device.type)
    model, past = train.train(run, adapter, encoded, pad_id, accelerator, folder / "checkpoints", measure, tracker.loss)
    pruning = adapter.finish()
    log.info("measure %d sub-models", len(chosen))
    scores = measure(model)
    speeds = _speeds(model, adapter, chosen, validation[0], pad_id, responses)
    by_cut = {how: _measure_cut(adapter, how, chosen, functools.partial(measure, model)) for how in run.evaluate.cuts}
    adapter.activate(adapter.family[-1])

    def save(place: Path) -> None:
        adapter.save(place)
        body.tokenizer.save_pretrained(place)

    if processes.first():
        replace_folder(folder / "adapter", save)
        write_atomic(folder / "metrics.csv", train.metrics_csv(past))
        _write_predictions(folder / "predictions.parquet", scores, by_cut, validation)
    return {
        "status": "done",
        "submodels": [_entry(score, adapter) | speeds.get(score.submodel.depth, {}) for score in scores],
        **({"cuts": [{"cut": how} | row for how, cut in by_cut.items() for row in cut.rows]} if by_cut else {}),
        "training": {
            "steps": past.step,
            "seconds": past.seconds,
            "examples_per_second": past.examples / past.seconds,
            "peak_memory_bytes": device.peak_memory(accelerator.device.type),
            "loss_curve": past.losses,
            "evaluations": past.evaluations,
        },
        **({"pruning": pruning} if pruning else {}),
        "memory": memory,
        "backbone": body.origin,
    }


def _speeds(
    model: Any, adapter: Any, chosen: list[Any], split: Any, pad_id: int, responses: Any
) -> dict[int | None, dict[str, float]]:
    """For each exit of a language model the tokens a second that it generates, one middling prompt at a time.

    The seconds of its scoring say less: answers of other lengths fill the batches otherwise.
    """
    from rankbench.generate import speeds

    tops = {member.depth: member for member in chosen}
    if responses is None or len(tops) < 2:
        return {}
    prompt = sorted(split.prompts, key=len)[len(split.prompts) // 2]
    adapter.activate(adapter.family[-1])
    adapter.model.eval()
    found = speeds(model, adapter, prompt, list(tops.values()), pad_id=pad_id, tokens=min(16, responses.max_new_tokens))
    return {member.depth: {"tokens_per_second": speed} for member, speed in found.items()}


@dataclass(frozen=True)
class _Cut:
    """One way of cutting rank R down: its scores, and their entries for the record."""

    scores: list[Any]
    rows: list[dict[str, Any]]


def _measure_cut(adapter: Any, how: str, chosen: list[Any], measure: Callable[[], list[Any]]) -> _Cut:
    from rankbench.adapters.cuts import cut

    with cut(adapter, how):
        log.info("measure %d sub-models cut by %s", len(chosen), how)
        scores = measure()
        rows = [_entry(score, adapter) for score in scores]
        for row in rows if adapter.by_layer else ():
            row["ranks_by_layer"] = adapter.by_layer[row["rank"]]
    return _Cut(scores, rows)


def _entry(score: Any, adapter: Any) -> dict[str, Any]:
    """A sub-model as the record has it."""
    return {
        "rank": score.submodel.rank,
        "depth": score.submodel.depth,
        "metrics": score.metrics,
        "n": score.n,
        "parameters": asdict(adapter.count(score.submodel)),
        "eval_seconds": score.seconds,
        **({"generated": asdict(score.generated)} if score.generated else {}),
    }


def _check_chosen(run: Run, family: Any) -> None:
    """Refuse a list that names exits which the family lacks; ranks were checked before. Raises RequestError."""
    depths = [m.depth for m in family if m.depth is not None]
    lacking = [d for d in run.evaluate.submodels if d not in depths] if run.evaluate.submodels != "all" else []
    if depths and lacking:
        have = ", ".join(map(str, dict.fromkeys(depths)))
        raise RequestError(
            f"evaluate.submodels has {lacking}, which are no exits; choose from {have}, or change adapter.exits"
        )


_last_forecast: Last[Any] = Last()


def _forecast(run: Run) -> dict[str, int] | None:
    """The forecast bytes; None, and said so, for an architecture that cannot be traced without its weights."""
    from rankbench import cost

    asked = json.dumps(identity(run) | {"seed": None})  # no forecast depends on the seed
    try:
        return asdict(_last_forecast.of(asked, lambda: cost.forecast(run)))
    except RequestError:
        raise
    except Exception as error:  # code that came with a model may do anything on fake tensors
        log.warning("no memory forecast: %s", (str(error).strip() or type(error).__name__).splitlines()[0])
        return None


def _encode(run: Run, loaded: Any, body: Any) -> tuple[Any, list[Any], Any]:
    """The training split, the splits to score, and for a language model how it answers."""
    from rankbench import backbone, lm
    from rankbench.batches import encode, encode_responses, packed
    from rankbench.evaluate import Responses
    from rankbench.tokens import Kept

    limit = min(run.task.max_length, backbone.longest(body))
    splits = (loaded.train, *loaded.validation)
    ids = Kept(Path(run.runs_dir) / ".cache" / "tokens")
    if loaded.kind != "causal_lm":
        train, *validation = (encode(split, body.tokenizer, limit, ids) for split in splits)
        return train, validation, None
    train, *validation = (encode_responses(split, body.tokenizer, limit, ids) for split in splits)
    if run.task.packing:
        lm.check_packing(body.model)
        train = packed(train, limit)
        log.info("packed into %d rows of at most %d tokens", len(train), limit)
    if set(run.task.metrics) & set(GENERATED):
        _check_room(run, validation, backbone.longest(body))
    decode = functools.partial(body.tokenizer.decode, skip_special_tokens=True)
    return train, validation, Responses(run.task.max_new_tokens, backbone.ends(body), decode)


def _check_room(run: Run, splits: list[Any], longest: int) -> None:
    prompt = max(len(tokens) for split in splits for tokens in split.prompts)
    if prompt + run.task.max_new_tokens > longest:
        raise RequestError(
            f"a prompt of {prompt} tokens and task.max_new_tokens={run.task.max_new_tokens} are more than the "
            f"{longest} that {run.model.name} reads; give task.max_new_tokens={max(1, longest - prompt)} or less"
        )


def _finish(folder: Path, record: dict[str, Any]) -> None:
    """The picture, then the record, last and whole; the checkpoints have served then."""
    import pandas as pd

    from rankbench import plots

    config = record["config"]
    metric = next(iter(record["submodels"][0]["metrics"]))
    places = [(s["rank"], s["depth"], s["metrics"][metric]) for s in record["submodels"]]
    table = pd.DataFrame(places, columns=["rank", "depth", "mean"]).assign(
        label=config["adapter"]["name"], std=0.0, n=1
    )
    n = record["submodels"][0]["n"]
    title = f"{config['task']['name']} ({n} examples), {config['model']['name']}, seed {config['seed']}"
    figure = plots.draw(table, metric, title)
    if figure is not None:
        plots.save(figure, folder / "curve.png")
    write_atomic(folder / "record.json", json.dumps(record, indent=1))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def summary(record: dict[str, Any]) -> str:
    """The record's table as the command line prints it, at most 80 columns wide: a line per sub-model."""
    rows = record["submodels"]
    family = [key for key in ("rank", "depth") if any(row.get(key) is not None for row in rows)] or ["rank"]
    columns = [[key, *("all" if row.get(key) is None else str(row[key]) for row in rows)] for key in family]
    for name in rows[0]["metrics"]:
        columns.append([f"{name:>10}", *(f"{times(name) * row['metrics'][name]:.2f}" for row in rows)])
    columns.append([f"{'parameters':>11}", *(f"{row['parameters']['trainable']:,}" for row in rows)])
    columns.append(["seconds", *(f"{row['eval_seconds']:.1f}" for row in rows)])
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > 80 and len(columns) > len(family) + len(rows[0]["metrics"]):
        del columns[-1], widths[-1]  # the record has them
    lines = zip(*columns, strict=True)
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _write_predictions(file: Path, scores: list[Any], by_cut: dict[str, _Cut], validation: list[Any]) -> None:
    """Every prediction of every sub-model; with cuts, the column `cut` says which, empty for the trained ones."""
    import pandas as pd

    all_scores = [(None, score) for score in scores]
    all_scores += [(how, score) for how, cut in by_cut.items() for score in cut.scores]

    parts = [
        pd.DataFrame(
            {
                "rank": pd.array([score.submodel.rank] * len(split), dtype="Int64"),
                "depth": pd.array([score.submodel.depth] * len(split), dtype="Int64"),
                **({"cut": how} if by_cut else {}),
                "split": split.name,
                "index": split.index,
                **score.predictions[split.name],
                "reference": [answers[0] for answers in split.references] if split.references else split.labels,
            }
        )
        for how, score in all_scores
        for split in validation
    ]
    aside = file.with_name(f".{file.name}")
    pd.concat(parts, ignore_index=True).to_parquet(aside, index=False)
    os.replace(aside, file)


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
