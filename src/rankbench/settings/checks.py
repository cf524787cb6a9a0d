"""The checks between settings, before anything heavy is loaded: composed config -> Run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from string import Formatter
from typing import get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from rankbench.errors import RequestError
from rankbench.settings.identity import LATER
from rankbench.settings.metrics import METRICS
from rankbench.settings.run import Compute, Hardware, Optimizer, Precision, Run, Task, Trainable, Update

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DYLORA = ("dylora", "dylora_late", "qdylora")  # one adapter over ranks
NESTED = (*DYLORA, "sorted_lora")  # adapters whose every prefix is trained
SORTED = ("sorted_ft", "sorted_lora")  # adapters whose every exit is trained
CUTS = ("svd", "svd_global", "alpha_over_b")  # ways to cut rank R of a finished LoRA down (adapters/cuts.py)
PRUNED = ("flop", "lora_gated")  # adapters that gates cut down to one size
FLOATS = ("full", "flop")  # adapters that train every weight
DEEP = ("sft", "early_exit", *SORTED)  # adapters that are measured at every exit

KNOWN = {  # what the `name` of a group may be where code, not only YAML, stands behind it
    "adapter": ("lora", *DYLORA, "full", "flop", "lora_gated", *DEEP),
    "sampler": ("fixed", "uniform", "geometric", "all", "exits", "sandwich"),
    "quantization": ("none", "nf4", "fp4", "int8"),
    "log": ("none", "wandb"),
}


def build(config: DictConfig) -> Run:
    """The checked run of a composed config. Raises RequestError."""
    unknown = sorted(_unknown(config, Run))
    if unknown:
        raise RequestError(f"{', '.join(unknown)}: no such setting; leave it out (see rankbench --cfg job)")
    try:
        run = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise RequestError(f"{error.full_key} has no value; give {error.full_key}=...") from error
    assert isinstance(run, Run)
    check(run)
    return run


def check(run: Run) -> None:
    """Refuse settings that contradict each other, before anything heavy is loaded. Raises RequestError."""
    adapter, sampler, train, task = run.adapter, run.sampler, run.train, run.task

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise RequestError(message)

    for group, names in KNOWN.items():
        name = getattr(run, group).name
        require(name in names, f"{group}.name={name} is not known; choose {group}={'|'.join(names)}")
    r = adapter.r
    require(r >= (0 if adapter.name == "flop" else 1), f"adapter.r={r}: a rank is at least 1; give adapter.r=8, say")
    require(
        0 < adapter.lora_alpha < math.inf,
        f"adapter.lora_alpha={adapter.lora_alpha:g} must be above 0 and finite; 2 x r is usual",
    )
    require(0 <= adapter.lora_dropout < 1, f"adapter.lora_dropout={adapter.lora_dropout} must lie in [0, 1)")
    targets = adapter.target_modules
    require(
        isinstance(targets, str)
        or (isinstance(targets, list) and bool(targets) and all(isinstance(t, str) for t in targets)),
        "adapter.target_modules must name layers: a list such as [query,value], or all-linear",
    )
    if sampler.ranks is not None:
        require(bool(sampler.ranks), "sampler.ranks is empty; leave it out to draw from 1..r")
        outside = [b for b in sampler.ranks if not 1 <= b <= r]
        require(not outside, f"sampler.ranks has {outside}, outside 1..adapter.r = 1..{r}; change one of the two")
        require(len(set(sampler.ranks)) == len(sampler.ranks), f"sampler.ranks={sampler.ranks} names a rank twice")
        require(
            adapter.name in NESTED,
            f"sampler.ranks={sampler.ranks} cannot apply to adapter={adapter.name}, which trains one size; "
            "leave it out, or use adapter=dylora or qdylora",
        )
    require(0 < sampler.p < 1, f"sampler.p={sampler.p} must lie between 0 and 1")
    if adapter.name not in NESTED:
        require(
            adapter.update is Update.full,
            f"adapter.update={adapter.update.value} belongs to adapter=dylora; leave it out for adapter={adapter.name}",
        )
    if adapter.name not in (*NESTED, *SORTED, "early_exit"):
        require(
            sampler.name == "fixed",
            f"adapter={adapter.name} trains one size, so sampler={sampler.name} cannot apply; "
            "leave sampler out, or use adapter=dylora or qdylora",
        )
    if adapter.update is not Update.full:
        require(
            sampler.name in ("fixed", "uniform", "geometric"),
            f"adapter.update={adapter.update.value} trains one rank a step, sampler={sampler.name} several; "
            "use sampler=uniform or geometric",
        )
    require(
        run.model.layers is None or run.model.layers >= 1,
        f"model.layers={run.model.layers} must be at least 1, or null",
    )
    require(
        sampler.name != "exits" or adapter.name in DEEP,
        f"sampler=exits trains every exit of a drawn rank, and adapter={adapter.name} has no exits; use "
        "adapter=sorted_lora or sorted_ft",
    )
    require(
        sampler.name != "geometric" or adapter.name in NESTED,
        f"sampler=geometric draws ranks, and adapter={adapter.name} has none to draw; use sampler=all or uniform",
    )
    require(
        not sampler.per_micro_batch or adapter.update is Update.full,
        f"adapter.update={adapter.update.value} trains one rank a step; leave sampler.per_micro_batch out",
    )
    _check_rows(run)
    weights = sampler.exit_weights
    if weights is not None:
        require(
            adapter.name in DEEP and sampler.name in ("all", "exits", "uniform"),
            "sampler.exit_weights weigh exits, with sampler=all, exits or uniform; leave them out",
        )
        require(
            bool(weights) and all(0 < weight < math.inf for weight in weights),
            f"sampler.exit_weights={weights} must be above 0 and finite, one for each exit",
        )
    _check_pruning(run)
    chosen = run.evaluate.submodels
    if chosen != "all":
        require(
            isinstance(chosen, list)
            and bool(chosen)
            and all(isinstance(b, int) and not isinstance(b, bool) and b >= 1 for b in chosen)
            and (adapter.name in DEEP or max(chosen) <= r),
            f"evaluate.submodels={chosen} must be all, or a list of ranks within 1..{r} such as [1,{r}]",
        )
        require(len(set(chosen)) == len(chosen), f"evaluate.submodels={chosen} names a rank twice")
    for how in run.evaluate.cuts:
        require(how in CUTS, f"evaluate.cuts has '{how}'; known are {', '.join(CUTS)}")
        require(
            adapter.name in ("lora", *DYLORA),
            f"evaluate.cuts={run.evaluate.cuts} cut a LoRA down, and adapter={adapter.name} is none; leave them out",
        )
    if adapter.name in DEEP:
        _check_exits(run)
    for key in ("epochs", "batch_size", "gradient_accumulation_steps", "eval_batch_size", "checkpoint_steps"):
        value = getattr(train, key)
        require(value >= 1, f"train.{key}={value} must be at least 1")
    for key in ("max_steps", "eval_steps"):
        value = getattr(train, key)
        require(value is None or value >= 1, f"train.{key}={value} must be at least 1, or null")
    require(train.log_steps >= 1, f"train.log_steps={train.log_steps} must be at least 1")
    rate = train.learning_rate
    require(0 < rate < math.inf, f"train.learning_rate={rate:g} must be above 0 and finite; 1e-3 is a start for LoRA")
    require(train.weight_decay >= 0, f"train.weight_decay={train.weight_decay:g} must not be negative")
    require(train.max_grad_norm >= 0, f"train.max_grad_norm={train.max_grad_norm:g}: give 0 (off) or a positive norm")
    require(0 <= train.warmup_ratio <= 1, f"train.warmup_ratio={train.warmup_ratio} must lie in [0, 1]")
    require(train.warmup_steps is None or train.warmup_steps >= 0, "train.warmup_steps must not be negative")
    require(1 <= len(task.text_columns) <= 2, "task.text_columns must name one column, or two for a pair of texts")
    require(bool(task.validation_splits), "task.validation_splits is empty; name at least one split to score")
    require(0 <= task.validation_fraction < 1, f"task.validation_fraction={task.validation_fraction} not in [0, 1)")
    require(task.max_length >= 4, f"task.max_length={task.max_length} must be at least 4")
    for key in ("max_train_examples", "max_eval_examples"):
        value = getattr(task, key)
        require(value is None or value >= 1, f"task.{key}={value} must be at least 1, or null for all")
    for metric in task.metrics:
        require(metric in METRICS, f"task.metrics has '{metric}'; known are {', '.join(METRICS)}")
        fitting = [name for name, measure in METRICS.items() if measure.kind == task.kind]
        require(
            metric in fitting, f"task.metrics: {metric} does not score a {task.kind} task; use {', '.join(fitting)}"
        )
    require(bool(task.metrics), "task.metrics is empty; name at least one metric")
    if task.kind == "causal_lm":
        _check_prompts(task)
    _check_quantization(run)
    require(run.seed >= 0, f"seed={run.seed} must not be negative")
    for key, least in (
        ("at_once", 1),
        ("nodes", 1),
        ("gpus", 0),
        ("processes", 1),
        ("cpus", 1),
        ("minutes", 1),
        ("signal_seconds", 0),
        ("requeues", 0),
    ):
        value = getattr(run.cluster, key)
        require(value is None or value >= least, f"cluster.{key}={value} must be at least {least}")
    require(run.log.mode in ("auto", "online", "offline"), f"log.mode={run.log.mode}: use auto, online or offline")


def _check_rows(run: Run) -> None:
    """What ranks by row, a first stretch at rank R and turned factors go with."""
    adapter, sampler = run.adapter, run.sampler
    asked = {
        "sampler.per_row": sampler.per_row,
        "sampler.whole_first": sampler.whole_first != 0,
        "adapter.reorder_at": bool(adapter.reorder_at),
    }
    for key in (key for key, given in asked.items() if given):
        if adapter.name not in NESTED:
            raise RequestError(f"{key} belongs to adapter=dylora or qdylora; leave it out for adapter={adapter.name}")
        if adapter.update is not Update.full:
            raise RequestError(f"adapter.update={adapter.update.value} trains single rows; leave {key} out")
    if not 0 <= sampler.whole_first < 1:
        raise RequestError(f"sampler.whole_first={sampler.whole_first:g} must lie in [0, 1), a share of the steps")
    if not all(0 < share <= 1 for share in adapter.reorder_at):
        raise RequestError(f"adapter.reorder_at={adapter.reorder_at} must lie in (0, 1], shares of the steps")
    if not sampler.per_row:
        return
    if adapter.name == "sorted_lora":
        raise RequestError("sampler.per_row: the rows of a batch share a depth; leave it out for adapter=sorted_lora")
    if sampler.name not in ("uniform", "geometric", "sandwich"):
        raise RequestError(f"sampler.per_row draws ranks, and sampler={sampler.name} does not; use sampler=uniform")
    if sampler.per_micro_batch:
        raise RequestError("sampler.per_row draws for every micro-batch already; leave sampler.per_micro_batch out")
    if run.quantization.name == "int8":
        raise RequestError("quantization=int8 does not keep rows apart; leave sampler.per_row out, or use nf4")


def _check_pruning(run: Run) -> None:
    adapter = run.adapter
    keys = ("target_sparsity", "sparsity_warmup", "gate_learning_rate", "lambda_learning_rate")
    if adapter.name not in PRUNED:
        for key in keys:
            if getattr(adapter, key) != LATER[f"adapter.{key}"]:
                raise RequestError(
                    f"adapter.{key} belongs to adapter=flop or lora_gated; leave it out for adapter={adapter.name}"
                )
        return
    sparsity, warmup, *rates = (getattr(adapter, key) for key in keys)
    if not 0 < sparsity < 1:
        raise RequestError(f"adapter.target_sparsity={sparsity:g} must lie between 0 and 1; 0.5 drops half the weights")
    if not 0 <= warmup <= 1:
        raise RequestError(f"adapter.sparsity_warmup={warmup:g} must lie in [0, 1], a share of the steps")
    for key, rate in zip(keys[2:], rates, strict=True):
        if not 0 < rate < math.inf:
            raise RequestError(f"adapter.{key}={rate:g} must be above 0 and finite; 0.1 is a start")
    if run.evaluate.submodels != "all":
        raise RequestError(f"evaluate.submodels: adapter={adapter.name} ends with one size; leave it out")
    if run.train.optimizer is Optimizer.sgd:
        raise RequestError(
            f"adapter={adapter.name}: the gradient of a gate is too small for train.optimizer=sgd; use adamw"
        )


def _check_exits(run: Run) -> None:
    adapter = run.adapter
    if adapter.start_from is not None and adapter.name != "early_exit":
        raise RequestError(f"adapter.start_from belongs to adapter=early_exit; leave it out for adapter={adapter.name}")
    if adapter.name == "early_exit" and adapter.trainable is Trainable.lora:
        raise RequestError("adapter=early_exit trains heads over a frozen body, so adapter.trainable=lora cannot apply")
    floats = adapter.name == "early_exit" or (adapter.name != "sorted_lora" and adapter.trainable is Trainable.all)
    if run.quantization.name != "none" and floats:
        raise RequestError(
            f"quantization={run.quantization.name} freezes the weights that adapter={adapter.name} trains or copies; "
            "use adapter.trainable=lora or adapter=sorted_lora, or quantization=none"
        )
    if adapter.exits is not None:
        if not adapter.exits or len(set(adapter.exits)) != len(adapter.exits) or min(adapter.exits) < 1:
            raise RequestError(f"adapter.exits={adapter.exits} must name depths from 1, each once, such as [10,20,30]")
        if adapter.exit_stride is not None:
            raise RequestError("adapter.exits and adapter.exit_stride say the same thing; leave one out")
    if adapter.exit_stride is not None and adapter.exit_stride < 1:
        raise RequestError(f"adapter.exit_stride={adapter.exit_stride} must be at least 1")


def _check_prompts(task: Task) -> None:
    for template in [*(task.prompts or []), task.response]:
        try:
            fields = [field for field in Formatter().parse(template) if field[1] is not None]
        except ValueError as error:
            raise RequestError(
                f"task: the template {template[:40]!r} cannot be read ({error}); write {{{{ for a brace"
            ) from error
        if not all(name and name.isidentifier() and not form and not how for _, name, form, how in fields):
            raise RequestError(
                f"task: the template {template[:40]!r} may name columns only, such as {{question}}; rename one "
                "whose name is no single word"
            )
    if not any(name for _, name, _, _ in Formatter().parse(task.response)):
        raise RequestError("task.response names no column; give the template of the response, such as ' {answer}'")
    if task.max_new_tokens < 1:
        raise RequestError(f"task.max_new_tokens={task.max_new_tokens} must be at least 1")


def _check_quantization(run: Run) -> None:
    """What bitsandbytes and the V100 cannot do."""
    stored, train = run.quantization, run.train
    if stored.block_size not in BLOCK_SIZES:
        raise RequestError(f"quantization.block_size={stored.block_size}: use {', '.join(map(str, BLOCK_SIZES))}")
    if stored.name != "none" and run.adapter.name in FLOATS:
        raise RequestError(
            f"adapter={run.adapter.name} trains every weight, and quantization={stored.name} freezes them; "
            "use adapter=lora or dylora, or quantization=none"
        )
    if run.adapter.name == "qdylora" and stored.name == "none":
        raise RequestError(
            "adapter=qdylora is DyLoRA over a quantized backbone; use quantization=nf4, or adapter=dylora"
        )
    if train.precision is Precision.fp32 and stored.compute_dtype in (Compute.fp16, Compute.bf16):
        raise RequestError(
            f"quantization.compute_dtype={stored.compute_dtype.value} needs train.precision="
            f"{stored.compute_dtype.value} too; leave one of the two out"
        )
    if run.hardware is Hardware.v100:
        if train.precision is Precision.bf16:
            raise RequestError("hardware=v100 has no bf16; use train.precision=fp32 or fp16")
        if stored.compute_dtype is Compute.bf16:
            raise RequestError("hardware=v100 has no bf16; use quantization.compute_dtype=fp32 or fp16")
        if stored.name == "int8":
            raise RequestError("hardware=v100: int8 needs compute capability 7.5, a V100 has 7.0; use quantization=nf4")


def _unknown(config: DictConfig, schema: type, prefix: str = "") -> Iterator[str]:
    """Keys that the schema lacks: `+key=value` puts them there, and nothing would ever read them."""
    types = get_type_hints(schema)
    for key in map(str, config):
        if key not in types:
            yield prefix + key
        elif is_dataclass(types[key]):
            yield from _unknown(config[key], types[key], f"{prefix}{key}.")
