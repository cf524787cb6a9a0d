"""What a sampler's settings are to everybody else: which sub-models may be drawn, and what goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankbench.settings.base import MISSING, added, finite, require

if TYPE_CHECKING:
    from rankbench.settings.run import Run


@dataclass
class Sampler:
    """The settings of a sampler: a subclass for each, with the sampler's own fields and its own `check`."""

    name: str = MISSING
    """Which sub-models a step trains, as records and tables call it."""

    implementation: ClassVar[str] = ""
    """The function that draws, as `module:function`: (settings, members, u in [0, 1)) -> (sub-model, weight) pairs."""
    one_rank: ClassVar[bool] = False
    """Whether a step trains one rank, as a frozen update needs it."""

    @property
    def share_alone(self) -> float:
        """The share of the steps that train the largest sub-model alone, before any is drawn."""
        return 0.0

    @property
    def draws_micro_batches(self) -> bool:
        """Whether each micro-batch of a step has a draw of its own."""
        return False

    @property
    def draws_rows(self) -> bool:
        """Whether each row of a batch has a draw of its own."""
        return False

    def trained(self, r: int) -> list[int]:
        """The ranks of 1..r that it may draw."""
        return list(range(1, r + 1))

    def check(self, run: Run) -> None:
        """Refuse what does not go with the run's method. Raises RequestError."""
        method = run.adapter
        require(
            method.several,
            f"adapter={method.name} trains one size, so sampler={self.name} cannot apply; leave sampler out, or use "
            "adapter=dylora or qdylora",
        )
        require(
            self.one_rank or not method.one_rank_a_step,
            f"adapter.update={getattr(getattr(method, 'update', None), 'value', '')} trains one rank a step, "
            f"sampler={self.name} several; use sampler=uniform or geometric",
        )


@dataclass
class OverRanks(Sampler):
    """A sampler over ranks 1..r, or over some of them."""

    ranks: list[int] | None = None
    """The ranks that may be drawn (default: 1..r)."""
    whole_first: float = added(0.0)
    """The share of the steps, in [0, 1), that train the largest sub-model alone before any is drawn."""

    @property
    def share_alone(self) -> float:
        """`whole_first`."""
        return self.whole_first

    def trained(self, r: int) -> list[int]:
        """`ranks`, or all."""
        return self.ranks or super().trained(r)

    def check(self, run: Run) -> None:
        """Ranks within 1..r, for a method that nests them. Raises RequestError."""
        method, r = run.adapter, run.adapter.largest_rank
        if self.ranks is not None:
            require(
                method.nested,
                f"sampler.ranks={self.ranks} cannot apply to adapter={method.name}, which trains one size; leave it "
                "out, or use adapter=dylora or qdylora",
            )
            require(bool(self.ranks), "sampler.ranks is empty; leave it out to draw from 1..r")
            outside = [b for b in self.ranks if not 1 <= b <= r]
            require(not outside, f"sampler.ranks has {outside}, outside 1..adapter.r = 1..{r}; change one of the two")
            require(len(set(self.ranks)) == len(self.ranks), f"sampler.ranks={self.ranks} names a rank twice")
        super().check(run)
        require(
            0 <= self.whole_first < 1,
            f"sampler.whole_first={self.whole_first:g} must lie in [0, 1), a share of the steps",
        )
        refuse_beside_frozen(run, "sampler.whole_first", self.whole_first != 0)


@dataclass
class PerBatch(Sampler):
    """A sampler that may draw anew within a step."""

    per_micro_batch: bool = added(False)
    """Draw anew for each of the micro-batches that a step accumulates (SortedNet)."""

    @property
    def draws_micro_batches(self) -> bool:
        """`per_micro_batch`."""
        return self.per_micro_batch

    def check(self, run: Run) -> None:
        """No frozen update beside it. Raises RequestError."""
        super().check(run)
        require(
            not (self.per_micro_batch and run.adapter.one_rank_a_step),
            "a frozen adapter.update trains one rank a step; leave sampler.per_micro_batch out",
        )


@dataclass
class PerRow(PerBatch, OverRanks):
    """A sampler that may draw for each row of a batch."""

    per_row: bool = added(False)
    """Draw for each row of a batch, each rank as often as its probability says, in one pass."""

    @property
    def draws_rows(self) -> bool:
        """`per_row`."""
        return self.per_row

    def check(self, run: Run) -> None:
        """What rows of several ranks go with. Raises RequestError."""
        super().check(run)
        if not self.per_row:
            return
        require(
            type(self).__module__.startswith("rankbench."),
            f"sampler.per_row: how often sampler={self.name} draws each rank is not known; leave it out",
        )
        refuse_beside_frozen(run, "sampler.per_row", True)
        require(
            not run.adapter.deep,
            f"sampler.per_row: the rows of a batch share a depth; leave it out for adapter={run.adapter.name}",
        )
        require(
            not self.per_micro_batch,
            "sampler.per_row draws for every micro-batch already; leave sampler.per_micro_batch out",
        )
        require(
            run.quantization.name != "int8",
            "quantization=int8 does not keep rows apart; leave sampler.per_row out, or use nf4",
        )


@dataclass
class OverExits(Sampler):
    """A sampler whose exits may weigh differently."""

    exit_weights: list[float] | None = added(None)
    """A weight for each exit, smallest first: of its loss, or of its draw."""

    def check(self, run: Run) -> None:
        """Weights where there are exits. Raises RequestError."""
        super().check(run)
        weights = self.exit_weights
        require(
            weights is None or run.adapter.deep,
            "sampler.exit_weights weigh exits, with sampler=all, exits or uniform; leave them out",
        )
        require(
            weights is None or (bool(weights) and all(map(finite, weights))),
            f"sampler.exit_weights={weights} must be above 0 and finite, one for each exit",
        )


def refuse_beside_frozen(run: Run, key: str, given: bool) -> None:
    """Refuse a setting of methods that nest ranks, beside another or beside a frozen update. Raises RequestError."""
    if not given:
        return
    require(
        run.adapter.nested,
        f"{key} belongs to adapter=dylora or qdylora; leave it out for adapter={run.adapter.name}",
    )
    require(not run.adapter.one_rank_a_step, f"a frozen adapter.update trains single rows; leave {key} out")
