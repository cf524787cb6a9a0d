"""What a run is: typed settings, the checks between them, and the identity that names its folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from rankbench.sources import RequestError, fingerprint, locate

METRICS = {  # name -> whether it scores a regression
    "accuracy": False,
    "f1": False,
    "matthews_correlation": False,
    "pearson": True,
    "spearman": True,
}

KNOWN = {  # what the `name` of a group may be where code, not only YAML, stands behind it
    "adapter": ("lora", "dylora", "full"),
    "sampler": ("fixed", "uniform", "geometric", "all", "sandwich"),
    "quantization": ("none",),
    "log": ("none", "wandb"),
}

# Settings that cannot change a result, and so are left out of a run's identity.
VOLATILE = (
    "runs_dir",
    "fresh",
    "log",
    "train.eval_batch_size",
    "train.eval_steps",
    "train.checkpoint_steps",
    "train.log_steps",
)
# Settings that say where a source lies; the identity holds what lies there instead.
PLACES = ("path", "package", "hub", "revision", "data_dir", "hub_config")


class Update(Enum):
    """Which factors a DyLoRA step at rank b trains (DyLoRA Eq. 9 and 10)."""

    full = "full"
    frozen_grad = "frozen_grad"
    frozen_strict = "frozen_strict"


class Scale(Enum):
    """The factor before B[:, :b] A[:b] at rank b."""

    alpha_over_b = "alpha_over_b"
    alpha_over_r = "alpha_over_r"
    alpha_over_sqrt_b = "alpha_over_sqrt_b"


class Precision(Enum):
    """Arithmetic of the training step; adapter weights stay float32."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class Schedule(Enum):
    """Learning-rate schedule after warm-up."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Optimizer(Enum):
    """Optimizer of the trained weights."""

    adamw = "adamw"
    sgd = "sgd"


class Hardware(Enum):
    """`v100` holds the run to a V100's rules whatever the card."""

    auto = "auto"
    v100 = "v100"


@dataclass
class Model:
    """A backbone: from a local folder, an installed package, the hub, or random weights."""

    name: str = MISSING
    path: str | None = None
    package: str | None = None
    hub: str | None = None
    revision: str | None = None
    random: dict[str, Any] | None = None
    target_modules: list[str] = field(default_factory=list)
    learning_rate: float = 4e-4
    trust_remote_code: bool = False


@dataclass
class Task:
    """A labelled text data set and how it is scored."""

    name: str = MISSING
    data_dir: str | None = None
    package: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    revision: str | None = None
    encoding: str = "utf-8"
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    label_column: str = "label"
    label_names: list[str] | None = None
    regression: bool = False
    train_split: str = "train"
    validation_splits: list[str] = field(default_factory=lambda: ["validation"])
    validation_fraction: float = 0.0
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    max_length: int = 128
    max_train_examples: int | None = None
    max_eval_examples: int | None = None


@dataclass
class Adapter:
    """A method, in PEFT's spelling; `r` is the maximum rank R."""

    name: str = MISSING
    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    target_modules: Any = "${model.target_modules}"
    update: Update = Update.full
    scale: Scale = Scale.alpha_over_b


@dataclass
class Sampler:
    """Which sub-models an optimizer step trains; `ranks` restricts the draw (default 1..R)."""

    name: str = MISSING
    ranks: list[int] | None = None
    p: float = 0.15


@dataclass
class Quantization:
    """Storage of the frozen backbone."""

    name: str = MISSING


@dataclass
class Train:
    """The training loop; `max_steps`, where set, overrides `epochs`."""

    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 4e-4
    optimizer: Optimizer = Optimizer.adamw
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    schedule: Schedule = Schedule.linear
    warmup_ratio: float = 0.06
    warmup_steps: int | None = None
    precision: Precision = Precision.auto
    gradient_checkpointing: bool = False
    group_by_length: bool = True
    eval_steps: int | None = None
    eval_batch_size: int = 64
    checkpoint_steps: int = 200
    log_steps: int = 10


@dataclass
class Evaluate:
    """Which sub-models are measured at the end: `all`, or a list of ranks."""

    submodels: Any = "all"


@dataclass
class Log:
    """Where the record is mirrored; `mode` is auto, online or offline."""

    name: str = MISSING
    project: str = "rankbench"
    entity: str | None = None
    group: str | None = None
    mode: str = "auto"


@dataclass
class Run:
    """One config, one training; everything after this reads only it."""

    model: Model = field(default_factory=Model)
    task: Task = field(default_factory=Task)
    adapter: Adapter = field(default_factory=Adapter)
    sampler: Sampler = field(default_factory=Sampler)
    quantization: Quantization = field(default_factory=Quantization)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    log: Log = field(default_factory=Log)
    seed: int = 0
    runs_dir: str = "runs"
    fresh: bool = False
    hardware: Hardware = Hardware.auto

    @property
    def run_id(self) -> str:
        """`<task>-<model>-<adapter>-<hash of everything that can change the result>`."""
        text = json.dumps(identity(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.task.name}-{self.model.name}-{self.adapter.name}-{digest}"

    @property
    def folder(self) -> Path:
        """Where this run leaves its record."""
        return Path(self.runs_dir) / self.run_id

    @property
    def evaluated_ranks(self) -> list[int]:
        """The ranks that the final evaluation measures, smallest first."""
        chosen = self.evaluate.submodels
        return list(range(1, self.adapter.r + 1)) if chosen == "all" else sorted(chosen)


def settings(run: Run) -> dict[str, Any]:
    """The run as plain values, as its record and `config.yaml` store it."""
    return {k: _plain(v) for k, v in asdict(run).items()}


def identity(run: Run) -> dict[str, Any]:
    """Everything that can change the result: the settings, with each place replaced by what lies there."""
    values = settings(run)
    for key in VOLATILE:
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        del node[last]
    for group, source in (("model", run.model), ("task", run.task)):
        for key in PLACES:
            values[group].pop(key, None)
        values[group]["source"] = fingerprint(locate(group, source))
    return values


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
    require(r >= 1, f"adapter.r={r}: a rank is at least 1; give adapter.r=8, say")
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
            adapter.name == "dylora",
            f"sampler.ranks={sampler.ranks} cannot apply to adapter={adapter.name}, which trains one size; "
            "leave it out, or use adapter=dylora",
        )
    require(0 < sampler.p < 1, f"sampler.p={sampler.p} must lie between 0 and 1")
    if adapter.name != "dylora":
        require(
            sampler.name == "fixed",
            f"adapter={adapter.name} trains one size, so sampler={sampler.name} cannot apply; "
            "leave sampler out, or use adapter=dylora",
        )
        require(
            adapter.update is Update.full,
            f"adapter.update={adapter.update.value} belongs to adapter=dylora; leave it out for adapter={adapter.name}",
        )
    if adapter.update is not Update.full:
        require(
            sampler.name not in ("all", "sandwich"),
            f"adapter.update={adapter.update.value} trains one rank a step, sampler={sampler.name} several; "
            "use sampler=uniform or geometric",
        )
    chosen = run.evaluate.submodels
    if chosen != "all":
        require(
            isinstance(chosen, list)
            and bool(chosen)
            and all(isinstance(b, int) and not isinstance(b, bool) and 1 <= b <= r for b in chosen),
            f"evaluate.submodels={chosen} must be all, or a list of ranks within 1..{r} such as [1,{r}]",
        )
        require(len(set(chosen)) == len(chosen), f"evaluate.submodels={chosen} names a rank twice")
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
    require(
        not (run.hardware is Hardware.v100 and train.precision is Precision.bf16),
        "hardware=v100 has no bf16; use train.precision=fp32 or fp16",
    )
    require(1 <= len(task.text_columns) <= 2, "task.text_columns must name one column, or two for a pair of texts")
    require(bool(task.validation_splits), "task.validation_splits is empty; name at least one split to score")
    require(0 <= task.validation_fraction < 1, f"task.validation_fraction={task.validation_fraction} not in [0, 1)")
    require(task.max_length >= 4, f"task.max_length={task.max_length} must be at least 4")
    for key in ("max_train_examples", "max_eval_examples"):
        value = getattr(task, key)
        require(value is None or value >= 1, f"task.{key}={value} must be at least 1, or null for all")
    for metric in task.metrics:
        require(metric in METRICS, f"task.metrics has '{metric}'; known are {', '.join(METRICS)}")
        kind = "regression" if task.regression else "classification"
        require(METRICS[metric] is task.regression, f"task.metrics: {metric} does not score a {kind} task")
    require(bool(task.metrics), "task.metrics is empty; name at least one metric")
    require(run.seed >= 0, f"seed={run.seed} must not be negative")
    require(run.log.mode in ("auto", "online", "offline"), f"log.mode={run.log.mode}: use auto, online or offline")


def _unknown(config: DictConfig, schema: type, prefix: str = "") -> Iterator[str]:
    """Keys that the schema lacks: `+key=value` puts them there, and nothing would ever read them."""
    types = get_type_hints(schema)
    for key in map(str, config):
        if key not in types:
            yield prefix + key
        elif is_dataclass(types[key]):
            yield from _unknown(config[key], types[key], f"{prefix}{key}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value
