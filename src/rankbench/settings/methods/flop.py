"""FLOP (Wang, Wohlwend, Lei 2020): gates on rank-one parts of the weights, or of a LoRA (SoRA, Ding et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import added, finite, require
from rankbench.settings.methods.base import Method
from rankbench.settings.methods.lora import LowRank
from rankbench.settings.train import Optimizer

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class Gated(Method):
    """Gates that drop a share of the weights in a method's factors."""

    target_sparsity: float = added(0.5)
    """The share of the factors' weights that go, in (0, 1)."""
    sparsity_warmup: float = added(0.5)
    """The share of the steps over which the target rises, in [0, 1]."""
    gate_learning_rate: float = added(0.1)
    """Learning rate of the gates."""
    lambda_learning_rate: float = added(0.1)
    """Learning rate of the Lagrangian's multipliers."""

    def check(self, run: Run) -> None:
        """A target that can be met. Raises RequestError."""
        require(
            0 < self.target_sparsity < 1,
            f"adapter.target_sparsity={self.target_sparsity:g} must lie between 0 and 1; 0.5 drops half the weights",
        )
        require(
            0 <= self.sparsity_warmup <= 1,
            f"adapter.sparsity_warmup={self.sparsity_warmup:g} must lie in [0, 1], a share of the steps",
        )
        require(
            run.evaluate.submodels == "all",
            f"evaluate.submodels: adapter={self.name} ends with one size; leave it out",
        )
        for key in ("gate_learning_rate", "lambda_learning_rate"):
            rate = getattr(self, key)
            require(finite(rate), f"adapter.{key}={rate:g} must be above 0 and finite; 0.1 is a start")
        require(
            run.train.optimizer is not Optimizer.sgd,
            f"adapter={self.name}: the gradient of a gate is too small for train.optimizer=sgd; use adamw",
        )


@dataclass
class Flop(Gated, LowRank):
    """The weights of the target layers as P diag(z) Q; every weight trains."""

    r: int = 8
    """Components that a layer begins with; 0 is break-even, where the factors are as large as the weight."""

    implementation: ClassVar[str] = "rankbench.methods.flop:Flop"

    @property
    def trains_every_weight(self) -> bool:
        """All of them."""
        return True

    def check(self, run: Run) -> None:
        """Components and layers. Raises RequestError."""
        require(self.r >= 0, f"adapter.r={self.r} must be at least 1, or 0 for break-even")
        self.check_lora()
        Gated.check(self, run)


@dataclass
class LoraGated(Gated, LowRank):
    """Gates on the ranks of a LoRA: each layer ends with a rank of its own."""

    implementation: ClassVar[str] = "rankbench.methods.flop:GatedLora"

    def check(self, run: Run) -> None:
        """The LoRA's and the gates'. Raises RequestError."""
        LowRank.check(self, run)
        Gated.check(self, run)
