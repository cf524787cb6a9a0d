"""What a run does between its settings and its record: load, train, measure, save."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.models import device, sharding
from rankbench.records.notes import how_it_ended
from rankbench.runs import entries
from rankbench.settings.identity import identity
from rankbench.settings.metrics import GENERATED
from rankbench.settings.run import Run
from rankbench.system import processes, stopping
from rankbench.system.files import replace_folder, write_atomic
from rankbench.system.memo import Last

log = logging.getLogger("rankbench")


READ_ME = """# {run}

What a rankbench run ended with, every rank or exit in one. `rankbench export RUN --to DIR` ships one of them with a
model card; `rankbench.load(RUN)` gives it in Python. Settings, data and scores are in `record.json` one folder up.
"""


def carry_out(
    run: Run, folder: Path, loaded: Any, precision: str, begin: Callable[[], Any], split: str
) -> dict[str, Any]:
    """Train and evaluate, with frozen weights split over the processes as `split` says; returns the record's parts.

    `begin` is called when nothing is left to refuse, before the first step; it gives what sees each loss.
    Leaves everything but the record on disk.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    from rankbench import methods
    from rankbench.methods.lora import DyLora, frozen
    from rankbench.models import backbone, integer, quantization
    from rankbench.runs import baselines
    from rankbench.scoring import evaluation, forward_speed
    from rankbench.scoring.values import named
    from rankbench.shipping import loading
    from rankbench.training import loop, selection

    AcceleratorState._reset_state(True)  # a run before this one in the same process may have had another precision
    group = InitProcessGroupKwargs(timeout=processes.PATIENCE)
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, kwargs_handlers=[group])
    if accelerator.distributed_type.value not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise RequestError(
            f"{accelerator.distributed_type.value} is no way to start several processes here; use torchrun, or "
            "accelerate launch with distributed_type MULTI_GPU, FSDP or DEEPSPEED"
        )
    device.obey(run.hardware, precision)
    memory = {"forecast": _forecast(run), "before": device.resident_memory(accelerator.device.type)}
    over = sharding.mesh(accelerator.device.type) if split else None
    storage = quantization.storage(run.quantization, precision, quantization.CPU if over else accelerator.device)
    with processes.in_turn() if split == "FSDP" else contextlib.nullcontext():  # DeepSpeed splits with all at once
        body = backbone.load(
            run.model, loaded.num_labels, run.task.regression, run.seed, storage, extracts=run.task.extracts
        )
        backbone.name_classes(body.model, loaded.label_names)
        if run.adapter.begins_with is not None:
            loading.begin_from(run, body.model)
        arithmetic = integer.put(body.model, run.arithmetic, run.seed)
        adapter = methods.attach(run, body.model)
        adapter.label_smoothing = run.train.label_smoothing
        adapter.arithmetic = arithmetic
        if loaded.class_weights is not None:
            adapter.class_weights = torch.tensor(loaded.class_weights)
        if over:
            sharding.shard(body.model, adapter.trained().values(), over, split)
    accelerator.prepare_model(adapter.model, evaluation_mode=True)  # placed, and under the run's autocast from here on
    encoded, validation, test, responses, told = _encode(run, loaded, body, adapter.model)
    pad_id = body.tokenizer.pad_token_id
    _check_chosen(run, adapter.family)
    chosen = [m for m in adapter.family if run.evaluate.measures(m.rank, m.depth)]
    judge = None
    if run.train.selects:
        _refuse_undefined(run, loaded)
        metric = named(run.task.metrics[0], validation[0], validation)
        judge = selection.judge(run.train, run.sampler, metric, chosen, adapter.learners)
    if adapter.arithmetic is not None and (slower := integer.slower(accelerator.device.type)):
        log.info("%s", slower)
    trained = sum(p.numel() for p in adapter.trained().values())
    log.info(
        "train %d examples, score %d%s; %s parameters trained of %s",
        *(encoded.examples.sum(), sum(map(len, validation))),
        f", and {sum(map(len, test))} of {', '.join(split.name for split in test)} at the end" if test else "",
        *(f"{n:,}" for n in (trained, frozen(adapter.model) + trained)),
    )

    def measure(model: Any, splits: list[Any] = validation, members: Sequence[Any] = chosen) -> list[evaluation.Score]:
        return evaluation.evaluate(
            model,
            adapter,
            splits,
            members,
            run.task.metrics,
            batch_size=run.train.eval_batch_size,
            pad_id=pad_id,
            responses=responses,
        )

    def values(model: Any) -> list[dict[str, Any]]:
        places = [({"rank": s.submodel.rank, "depth": s.submodel.depth}, s.metrics) for s in measure(model)]
        return [{**place, "metric": name, "value": value} for place, found in places for name, value in found.items()]

    device.forget_peak_memory(accelerator.device.type)
    model, past = loop.train(
        run.train,
        run.sampler,
        run.seed,
        adapter,
        encoded,
        pad_id,
        accelerator,
        folder / "checkpoints",
        values,
        begin(),
        judge,
    )
    peak = device.peak_memory(accelerator.device.type)  # training's, without what scoring adds
    selected = entries.selected(run.train, judge, past)
    for line in how_it_ended({"training": selected | {"steps": past.step}}):
        log.info("%s", line)
    pruning = adapter.finish()

    def both() -> tuple[list[evaluation.Score], list[evaluation.Score]]:
        return measure(model), measure(model, test) if test else []

    log.info("measure %d sub-models", len(chosen))
    entry = functools.partial(entries.entry, adapter=adapter, validation=validation, names=loaded.label_names)
    measured = _measured(both, entry)
    speeds = _speeds(model, adapter, chosen, validation[0], pad_id, backbone.longest(body), responses)
    by_cut = {how: _measure_cut(adapter, how, chosen, both, entry) for how in run.evaluate.cuts}
    beside = []
    if run.evaluate.baselines:
        alone = functools.partial(measure, model, validation)
        beside = baselines.measured(adapter, encoded, validation, run.task.metrics, loaded.num_labels, alone)
    pace = {}
    if isinstance(adapter, DyLora) and run.quantization.name == "none" and processes.count() == 1:
        pace = forward_speed.measure(model, adapter, validation[0].inputs, run.train.eval_batch_size, pad_id)
    adapter.activate(adapter.family[-1])

    def save(place: Path) -> None:
        adapter.save(place)
        if loaded.kind != "causal_lm":
            body.tokenizer.model_max_length = _limit(run, body)
        body.tokenizer.save_pretrained(place)
        if body.origin.get("hub"):
            _name_base(place / "adapter_config.json", body.origin["hub"], body.origin["revision"])
        (place / "README.md").write_text(READ_ME.format(run=run.run_id), encoding="utf-8")

    if processes.first():
        replace_folder(folder / "adapter", save)
        write_atomic(folder / "metrics.csv", entries.metrics_csv(past))
        entries.write_predictions(folder / "predictions.parquet", measured, by_cut, validation, test)
    return {
        "status": "done",
        "submodels": [row | speeds.get(row["depth"], {}) for row in measured.rows],
        **({"cuts": [{"cut": how} | row for how, cut in by_cut.items() for row in cut.rows]} if by_cut else {}),
        **({"baselines": beside} if beside else {}),
        **({"forward_speed": pace} if pace else {}),
        "training": {
            "steps": past.step,
            "seconds": past.seconds,
            "examples_per_second": past.examples / past.seconds,
            "peak_memory_bytes": peak,
            "loss_curve": past.losses,
            "evaluations": past.evaluations,
            **({"stretches": past.stretches} if len(past.stretches) > 1 else {}),
            **selected,
        },
        **({"pruning": pruning} if pruning else {}),
        "memory": memory,
        "backbone": body.origin,
        "data": loaded.origin | {"splits": {n: s | told[n] for n, s in loaded.origin["splits"].items()}},
    }


def _limit(run: Run, body: Any) -> int:
    """The tokens at which texts are cut."""
    from rankbench.models import backbone

    return min(run.task.max_length, backbone.longest(body))


def _name_base(file: Path, hub: str, revision: str) -> None:
    """Have PEFT's config name the backbone by its hub id, where PEFT wrote this machine's folder."""
    if file.exists():
        config = json.loads(file.read_text()) | {"base_model_name_or_path": hub, "revision": revision}
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")


_last_forecast: Last[Any] = Last()


def _forecast(run: Run) -> dict[str, int] | None:
    """The forecast bytes; None, and said so, for an architecture that cannot be traced without its weights."""
    from rankbench.forecast import step_memory

    asked = json.dumps(identity(run) | {"seed": None})  # no forecast depends on the seed
    try:
        with stopping.later():
            return asdict(_last_forecast.of(asked, lambda: step_memory.forecast(run)))
    except RequestError:
        raise
    except Exception as error:  # code that came with a model may do anything on fake tensors
        log.warning("no memory forecast: %s", (str(error).strip() or type(error).__name__).splitlines()[0])
        return None


def _encode(
    run: Run, loaded: Any, body: Any, model: Any
) -> tuple[Any, list[Any], list[Any], Any, dict[str, dict[str, int]]]:
    """The training split, those to score, those for the end, how a language model answers, counts for the record."""
    from rankbench.methods import objective
    from rankbench.models import backbone, fit
    from rankbench.scoring import generation
    from rankbench.scoring.responses import of_run
    from rankbench.tasks import chat_template, overview
    from rankbench.tasks.encoders import encoded
    from rankbench.tasks.encoding import packed
    from rankbench.tasks.token_cache import Kept

    limit = _limit(run, body)
    ids = Kept(Path(run.runs_dir) / ".cache" / "tokens")
    splits = (loaded.train, *loaded.validation, *loaded.test)
    every = [encoded(split, run.task, body.tokenizer, limit, ids) for split in splits]
    fit.check_ids([split.inputs for split in every], body.model, body.tokenizer)
    train, scored = every[0].inputs, every[1:]
    validation, test = scored[: len(loaded.validation)], scored[len(loaded.validation) :]
    if loaded.kind != "causal_lm":
        return train, validation, test, None, overview.tell(loaded, every, limit)
    responses = of_run(run, body)
    if run.task.chats and chat_template.dated(body.tokenizer):
        log.warning("the chat template writes today's date, so the same run trains on other texts another day")
    marks = {token: str(body.tokenizer.convert_ids_to_tokens(token)) for token in responses.ends}
    told = overview.tell(loaded, every, limit, marks)
    if run.task.packing:
        objective.check_packing(model)
        train = packed(train, limit)
        log.info("packed into %d rows of at most %d tokens", len(train), limit)
    if set(run.task.metrics) & set(GENERATED):
        prompts = [prompt for split in scored for prompt in split.prompts]
        generation.check_room(prompts, run.task.max_new_tokens, backbone.longest(body), run.model.name)
    return train, validation, test, responses, told


def _refuse_undefined(run: Run, loaded: Any) -> None:
    """Refuse to choose weights by a metric that says nothing of them. Raises RequestError."""
    first, metric = loaded.validation[0].name, run.task.metrics[0]
    if why := loaded.origin.get("undefined", {}).get(first, {}).get(metric):
        raise RequestError(
            f"task.metrics: {metric} is undefined on {first}, where {why}, so train.keep=best and train.patience have "
            "nothing to go by; put another metric first, or give other rows"
        )


def _check_chosen(run: Run, family: Any) -> None:
    """Refuse a list that names exits which the family lacks; ranks were checked before. Raises RequestError."""
    depths = [m.depth for m in family if m.depth is not None]
    lacking = [d for d in run.evaluate.submodels if d not in depths] if run.evaluate.submodels != "all" else []
    if depths and lacking:
        have = ", ".join(map(str, dict.fromkeys(depths)))
        raise RequestError(
            f"evaluate.submodels has {lacking}, which are no exits; choose from {have}, or change adapter.exits"
        )


def _speeds(
    model: Any, adapter: Any, chosen: list[Any], split: Any, pad_id: int, positions: int, responses: Any
) -> dict[int | None, dict[str, float]]:
    """For each exit of a language model the tokens a second that it generates, one middling prompt at a time.

    The seconds of its scoring say less: answers of other lengths fill the batches otherwise.
    """
    from rankbench.scoring.generation import speeds

    tops = {member.depth: member for member in chosen}
    if responses is None or len(tops) < 2:
        return {}
    prompt = sorted(split.prompts, key=len)[len(split.prompts) // 2]
    adapter.activate(adapter.family[-1])
    adapter.model.eval()
    tokens = min(16, responses.max_new_tokens)
    found = speeds(model, adapter, prompt, list(tops.values()), pad_id=pad_id, positions=positions, tokens=tokens)
    return {member.depth: {"tokens_per_second": speed} for member, speed in found.items()}


Both = Callable[[], tuple[list[Any], list[Any]]]  # the scores of the validation splits, and of the test splits


def _measured(both: Both, entry: Callable[[Any], dict[str, Any]]) -> entries.Measured:
    scores, tests = both()
    rows = [entry(score) for score in scores]
    for row, score in zip(rows, tests, strict=False):  # none, where there is no test split
        row |= {"test": score.metrics, "test_n": score.n}
    return entries.Measured(scores, tests, rows)


def _measure_cut(
    adapter: Any, how: str, chosen: list[Any], both: Both, entry: Callable[[Any], dict[str, Any]]
) -> entries.Measured:
    from rankbench.methods.cuts import cut

    with cut(adapter, how):
        log.info("measure %d sub-models cut by %s", len(chosen), how)
        measured = _measured(both, entry)
        for row in measured.rows if adapter.by_layer else ():
            row["ranks_by_layer"] = adapter.by_layer[row["rank"]]
    return measured
