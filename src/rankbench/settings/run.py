"""What a run is: typed settings, the checks between them, and the identity that names its folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from rankbench.settings.identity import identity


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


class Trainable(Enum):
    """What sorted fine-tuning trains: every weight, or a LoRA of rank r."""

    all = "all"
    lora = "lora"


class Compute(Enum):
    """Arithmetic of the products with dequantized weights; `auto` is the training step's."""

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
    """Optimizer of the trained weights; `paged_adamw` keeps its moments in memory that a full GPU pages out."""

    adamw = "adamw"
    paged_adamw = "paged_adamw"
    sgd = "sgd"


class Hardware(Enum):
    """`v100` holds the run to a V100's rules whatever the card."""

    auto = "auto"
    v100 = "v100"


@dataclass
class Model:
    """A backbone: from a local folder or GGUF file, an installed package, the hub, or random weights.

    `shape` is the architecture as in its config.json, so that `plan` can forecast before anything is downloaded.
    `layers` keeps the first so many alone: a cut model, to be fine-tuned by itself. `exits` are the default of
    `adapter.exits`.
    """

    name: str = MISSING
    path: str | None = None
    package: str | None = None
    hub: str | None = None
    revision: str | None = None
    random: dict[str, Any] | None = None
    shape: dict[str, Any] | None = None
    layers: int | None = None
    exits: list[int] | None = None
    target_modules: list[str] = field(default_factory=list)
    learning_rate: float = 4e-4
    trust_remote_code: bool = False


@dataclass
class Task:
    """A data set and how it is scored: labelled texts, or prompts with a response where `prompts` is set.

    `prompts` are templates over the columns, `{column}`; a row uses the first whose columns are all filled.
    """

    name: str = MISSING
    data_dir: str | None = None
    package: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    revision: str | None = None
    encoding: str = "utf-8"
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    prompts: list[str] | None = None
    response: str = ""
    aliases_column: str | None = None
    max_new_tokens: int = 64
    packing: bool = False
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

    @property
    def kind(self) -> str:
        """causal_lm, regression or classification."""
        return "causal_lm" if self.prompts else "regression" if self.regression else "classification"


@dataclass
class Adapter:
    """A method, in PEFT's spelling; `r` is the maximum rank R, in flop 0 for break-even.

    `exits` are the depths of a sorted fine-tuning (default: the model's), or `exit_stride` the layers between them,
    counted from the last.
    `start_from` is the folder or the id of the run whose weights early_exit's body has.
    `reorder_at`, shares of the steps, is when a LoRA's factors are turned into the order of their singular values.
    flop and lora_gated drop `target_sparsity` of the weights in their factors, a target that rises over the first
    `sparsity_warmup` of the steps; gates and the Lagrangian's multipliers have learning rates of their own.
    """

    name: str = MISSING
    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    target_modules: Any = None
    update: Update = Update.full
    scale: Scale = Scale.alpha_over_b
    exits: list[int] | None = None
    exit_stride: int | None = None
    trainable: Trainable = Trainable.all
    start_from: str | None = None
    reorder_at: list[float] = field(default_factory=list)
    target_sparsity: float = 0.5
    sparsity_warmup: float = 0.5
    gate_learning_rate: float = 0.1
    lambda_learning_rate: float = 0.1


@dataclass
class Sampler:
    """Which sub-models an optimizer step trains; `ranks` restricts the draw (default 1..R).

    `per_micro_batch` draws anew for each of the micro-batches that a step accumulates, `per_row` for each row of a
    batch, each rank as often as its probability says. The first `whole_first` of the steps train the largest alone.
    `exit_weights`, one for each exit, smallest first, weigh the losses of `all` and `exits` and the draws of `uniform`.
    """

    name: str = MISSING
    ranks: list[int] | None = None
    exit_weights: list[float] | None = None
    per_micro_batch: bool = False
    per_row: bool = False
    whole_first: float = 0.0
    p: float = 0.15


@dataclass
class Quantization:
    """Storage of the frozen backbone, by bitsandbytes: none, nf4, fp4 or int8.

    `block_size` weights share a scale; `double_quant` stores those scales in 8 bits too (QLoRA section 3).
    """

    name: str = MISSING
    double_quant: bool = True
    block_size: int = 64
    compute_dtype: Compute = Compute.auto


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
    """Which sub-models are measured at the end: `all`, or a list of ranks.

    `cuts` are other ways to cut rank R down, measured at the same ranks: svd, svd_global, alpha_over_b.
    """

    submodels: Any = "all"
    cuts: list[str] = field(default_factory=list)


@dataclass
class Log:
    """Where the record is mirrored; `mode` is auto, online or offline."""

    name: str = MISSING
    project: str = "rankbench"
    entity: str | None = None
    group: str | None = None
    mode: str = "auto"


@dataclass
class Cluster:
    """Where the runs of a sweep (-m) are done: `name` is the launcher's, the rest what a job asks for.

    `at_once` jobs run side by side; `own_process` gives each a process of its own, with a GPU of its own. A Slurm job
    has `nodes` with `gpus`, and on each as many `processes` of one run (default: one for each GPU) with `cpus`. Slurm
    signals it `signal_seconds` before its time is over, and runs it again up to `requeues` times after that.
    """

    name: str = "local"
    own_process: bool = False
    at_once: int = 1
    partition: str | None = None
    account: str | None = None
    nodes: int = 1
    gpus: int = 0
    processes: int | None = None
    cpus: int = 4
    memory_gb: int | None = None
    minutes: int = 240
    signal_seconds: int = 120
    requeues: int = 20


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
    cluster: Cluster = field(default_factory=Cluster)
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

    def evaluates(self, rank: int | None, depth: int | None) -> bool:
        """Whether the final evaluation measures a sub-model: a list names ranks, or the depths of a sorted family."""
        chosen = self.evaluate.submodels
        return chosen == "all" or (rank if depth is None else depth) in (None, *chosen)
