"""Step -> sub-models: which members of the family an optimizer step trains, and with what weight in the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rankbench.methods.submodel import Submodel
from rankbench.settings.outside import load
from rankbench.settings.samplers.base import OverExits, OverRanks, Sampler
from rankbench.settings.samplers.fixed import Fixed
from rankbench.settings.samplers.geometric import Geometric
from rankbench.settings.samplers.sandwich import Sandwich
from rankbench.system.seeds import generator

Draw = tuple[tuple[Submodel, float], ...]


def candidates(sampler: Sampler, family: Sequence[Submodel]) -> list[Submodel]:
    """The members that may be drawn: the family, or those of the ranks that the sampler names."""
    ranks = sampler.ranks if isinstance(sampler, OverRanks) else None
    return [m for m in family if ranks is None or m.rank in ranks]


def drawn_from(sampler: Sampler, family: Sequence[Submodel]) -> list[Submodel]:
    """The members that a run trains: those that may be drawn, or the largest where that is every step's."""
    return list(family[-1:]) if isinstance(sampler, Fixed) else candidates(sampler, family)


def probabilities(sampler: Sampler, members: Sequence[Submodel]) -> npt.NDArray[np.float64]:
    """p_B over the members (DyLoRA section 4): uniform, or geometric with the tail renormalised; by exit weights.

    A sandwich is the largest as often as all others together.
    """
    if isinstance(sampler, Geometric):
        weights = np.array([math.exp(((m.rank or 1) - 1) * math.log1p(-sampler.p)) for m in members])
    elif isinstance(sampler, Sandwich):
        weights = np.array([1.0] * (len(members) - 1) + [max(1, len(members) - 1)])
    else:
        weights = np.ones(len(members))
    if isinstance(sampler, OverExits) and sampler.exit_weights is not None:
        depths = sorted({m.depth for m in members if m.depth is not None})
        by_depth = dict(zip(depths, sampler.exit_weights, strict=False))  # early exits do not train the last
        weights *= [by_depth[m.depth] for m in members if m.depth is not None]
    p: npt.NDArray[np.float64] = weights / weights.sum()
    return p


def draw(sampler: Sampler, family: Sequence[Submodel], seed: int, step: int, micro_batch: int = 0) -> Draw:
    """What optimizer step `step` trains: (sub-model, weight of its loss) pairs, weights summing to 1.

    With `per_micro_batch` each micro-batch of the step has a draw of its own (SortedNet), else all have the first. A
    pure function: the same on every process and after every resume. The family is ordered small to large.
    """
    members = candidates(sampler, family)
    own = f"/{micro_batch}" if sampler.draws_micro_batches and micro_batch else ""
    drawn: Draw = load(sampler.implementation)(sampler, members, generator(seed, f"sampler{own}", step).random())
    return drawn


def draw_rows(
    sampler: Sampler, family: Sequence[Submodel], seed: int, step: int, rows: int, micro_batch: int = 0
) -> list[Submodel]:
    """The sub-model of each row of a batch: a stratified draw, so each comes as often as expected, to within one.

    A pure function as `draw` is. Which row gets which is chance.
    """
    members = candidates(sampler, family)
    random = generator(seed, f"rows/{micro_batch}", step)
    places = (np.arange(rows) + random.random()) / rows
    chosen = np.searchsorted(np.cumsum(probabilities(sampler, members)), places, side="right")
    return [members[min(i, len(members) - 1)] for i in random.permutation(chosen)]


def fixed(sampler: Sampler, members: list[Submodel], u: float) -> Draw:
    """The largest member."""
    return ((members[-1], 1.0),)


def one(sampler: Sampler, members: list[Submodel], u: float) -> Draw:
    """One member, as often as its probability says."""
    index = int(np.searchsorted(np.cumsum(probabilities(sampler, members)), u, side="right"))
    return ((members[min(index, len(members) - 1)], 1.0),)


def every(sampler: Sampler, members: list[Submodel], u: float) -> Draw:
    """Every member, its probability its weight."""
    return tuple(zip(members, map(float, probabilities(sampler, members)), strict=True))


def exits_of_a_rank(sampler: Sampler, members: list[Submodel], u: float) -> Draw:
    """Every exit of one drawn rank."""
    ranks = list(dict.fromkeys(m.rank for m in members))
    rank = ranks[int(u * len(ranks))]
    return every(sampler, [m for m in members if m.rank == rank], u)


def sandwich(sampler: Sampler, members: list[Submodel], u: float) -> Draw:
    """The largest and one of the others, half the weight each."""
    if len(members) == 1:
        return ((members[0], 1.0),)
    return ((members[-1], 0.5), (members[int(u * (len(members) - 1))], 0.5))
