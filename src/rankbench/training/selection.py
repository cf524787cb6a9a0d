"""Which weights a run ends with, and when it stops early: the periodic evaluations held against each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rankbench.errors import RequestError
from rankbench.methods.submodel import Submodel
from rankbench.settings.metrics import rises
from rankbench.settings.samplers import Sampler
from rankbench.settings.train import Train
from rankbench.training.samplers import drawn_from


@dataclass(frozen=True)
class Judge:
    """What an evaluation is judged by: a metric, and the mean of it over these sub-models."""

    metric: str
    members: tuple[Submodel, ...]

    def __str__(self) -> str:
        """`accuracy of rank 4`, `accuracy, the mean of 8 sub-models`."""
        if len(self.members) > 1:
            return f"{self.metric}, the mean of {len(self.members)} sub-models"
        return f"{self.metric} of {self.members[0]}" if any(vars(self.members[0]).values()) else self.metric

    def value(self, evaluation: Sequence[dict[str, Any]]) -> float:
        """The mean over an evaluation's values, which are each of a rank, a depth and a metric."""
        places = {(member.rank, member.depth) for member in self.members}
        own = [e["value"] for e in evaluation if e["metric"] == self.metric and (e["rank"], e["depth"]) in places]
        return statistics.fmean(own)

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value is the best so far: of two alike the earlier is, and one that is not finite never."""
        if than is None or not math.isfinite(value):
            return math.isfinite(value)
        return value > than if rises(self.metric) else value < than


def judge(
    settings: Train, sampler: Sampler, metric: str, measured: Sequence[Submodel], learners: Sequence[Submodel]
) -> Judge:
    """By what `train.keep` and `train.patience` go: the measured sub-models that train, or those of `train.keep_by`.

    A number names them as in `evaluate.submodels`: a rank, or an exit (every rank of it); [rank, exit] names one pair.
    Where none of the measured trains, all of them count. Raises RequestError where `keep_by` names none.
    """
    by = settings.keep_by
    if by is None:
        trained = [member for member in drawn_from(sampler, learners) if member in measured]
        return Judge(metric, tuple(trained or measured))
    chosen = [m for m in measured if (m.rank if m.depth is None else m.depth) == by or [m.rank, m.depth] == by]
    if not chosen:
        kind = "exits" if measured[0].depth is not None else "ranks"
        have = ", ".join(str(n) for n in dict.fromkeys(m.rank if m.depth is None else m.depth for m in measured) if n)
        mend = f"the measured {kind} are {have}" if have else "there is one size alone: leave it out"
        raise RequestError(f"train.keep_by={by} is no sub-model that this run measures; {mend}")
    return Judge(metric, tuple(chosen))
