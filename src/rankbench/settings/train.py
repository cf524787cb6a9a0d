"""The training loop's settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from rankbench.settings.base import added, finite, require

if TYPE_CHECKING:
    from rankbench.settings.run import Run


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
    """Optimizer of the trained weights; `paged_adamw` keeps its moments in memory that a full GPU pages out."""

    adamw = "adamw"
    paged_adamw = "paged_adamw"
    sgd = "sgd"


class Keep(Enum):
    """Which weights a run ends with: the last step's, or those of the best evaluation."""

    last = "last"
    best = "best"


UNSMOOTHED = {"regression": "a regression has values", "question_answering": "an answer has two places"}


@dataclass
class Train:
    """The training loop."""

    epochs: int = 3
    """Passes over the training split."""
    max_steps: int | None = None
    """Optimizer steps; where set, it overrides `epochs`."""
    batch_size: int = 32
    """Rows of a micro-batch, over all processes."""
    gradient_accumulation_steps: int = 1
    """Micro-batches of an optimizer step."""
    learning_rate: float = 4e-4
    """The highest learning rate."""
    optimizer: Optimizer = Optimizer.adamw
    """The optimizer of the trained weights."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; biases and norms do not decay."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm here; 0 does not."""
    label_smoothing: float = added(0.0)
    """The share of each target's weight that goes to the mean over all tokens or classes, in training alone."""
    schedule: Schedule = Schedule.linear
    """How the learning rate falls after warm-up."""
    warmup_ratio: float = 0.06
    """The share of the steps over which the learning rate rises."""
    warmup_steps: int | None = None
    """Steps of warm-up, instead of `warmup_ratio`."""
    precision: Precision = Precision.auto
    """Arithmetic of the step; `auto` is bf16 where the GPU has it, else fp32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, to save memory."""
    compile: bool = added(False)
    """Compile the model's layers for training (torch.compile): a long first step, then others of about the same length
    on a CPU."""
    group_by_length: bool = True
    """Batches of rows of like length, so that little is padding."""
    eval_steps: int | None = None
    """Measure every so many steps too (default: at the end alone)."""
    keep: Keep = added(Keep.last)
    """The weights to end with: the last, or those of the best evaluation by the first metric."""
    keep_by: Any = added(None)
    """The rank or exit, or [rank, exit], whose metric says what is best (default: the mean of those that train)."""
    patience: int | None = added(None)
    """Stop after so many evaluations without a better one (default: never)."""
    eval_batch_size: int = 64
    """Rows of a batch when measuring."""
    checkpoint_steps: int = 200
    """Steps between checkpoints."""
    log_steps: int = 10
    """Steps between entries of the loss curve."""

    @property
    def selects(self) -> bool:
        """Whether its evaluations decide anything."""
        return self.keep is Keep.best or self.patience is not None

    def check(self, run: Run) -> None:
        """Raises RequestError."""
        for key in ("epochs", "batch_size", "gradient_accumulation_steps", "eval_batch_size", "checkpoint_steps"):
            value = getattr(self, key)
            require(value >= 1, f"train.{key}={value} must be at least 1")
        for key in ("max_steps", "eval_steps", "patience"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"train.{key}={value} must be at least 1, or null")
        require(self.log_steps >= 1, f"train.log_steps={self.log_steps} must be at least 1")
        rate = self.learning_rate
        require(finite(rate), f"train.learning_rate={rate:g} must be above 0 and finite; 1e-3 is a start for LoRA")
        require(self.weight_decay >= 0, f"train.weight_decay={self.weight_decay:g} must not be negative")
        require(self.max_grad_norm >= 0, f"train.max_grad_norm={self.max_grad_norm:g}: give 0 (off) or a positive norm")
        smooth, kind = self.label_smoothing, run.task.kind
        require(0 <= smooth < 1, f"train.label_smoothing={smooth:g} not in [0, 1); 0.1 is LoRA's for E2E and WebNLG")
        require(
            not smooth or kind not in UNSMOOTHED,
            f"train.label_smoothing={smooth:g} spreads a label over classes or tokens, and {UNSMOOTHED.get(kind)}; "
            "leave it out",
        )
        require(0 <= self.warmup_ratio <= 1, f"train.warmup_ratio={self.warmup_ratio} must lie in [0, 1]")
        require(self.warmup_steps is None or self.warmup_steps >= 0, "train.warmup_steps must not be negative")
        require(
            run.hardware.value != "v100" or self.precision is not Precision.bf16,
            "hardware=v100 has no bf16; use train.precision=fp32 or fp16",
        )
        stored, computed = run.quantization.name, run.arithmetic.name
        require(
            not self.compile or stored == "none",
            f"train.compile=true does not reach into the layers of quantization={stored}; leave one of them out",
        )
        require(
            not self.compile or computed == "float",
            f"train.compile=true does not reach into arithmetic={computed}; leave one of them out",
        )
        self._check_selection(run)

    def _check_selection(self, run: Run) -> None:
        for key, given in (("keep=best", self.keep is Keep.best), (f"patience={self.patience}", self.patience)):
            require(
                not given or self.eval_steps is not None,
                f"train.{key} goes by periodic evaluations, and there are none; give train.eval_steps=100, say",
            )
        by, method, r = self.keep_by, run.adapter, run.adapter.largest_rank
        if by is None:
            return
        require(
            self.selects,
            f"train.keep_by={by} says by what train.keep=best and train.patience go; give one of them with it",
        )
        numbers = by if isinstance(by, list) and len(by) == 2 and method.deep and method.nested else [by]
        require(
            all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in numbers),
            f"train.keep_by={by} must be a measured rank or exit, such as 4, or [rank, exit] for a method of both",
        )
        if (method.nested or method.cuttable) and not method.deep:
            require(by <= r, f"train.keep_by={by} is outside 1..adapter.r = 1..{r}; change one of the two")
            require(
                run.evaluate.measures(by, None),
                f"train.keep_by={by} is not measured: evaluate.submodels={run.evaluate.submodels} leaves it out",
            )
