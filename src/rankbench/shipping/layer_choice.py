"""What was chosen for the layers of a run, and how it is told: scores beside one rank everywhere, and each rank."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankbench.settings.metrics import times

if TYPE_CHECKING:
    from rankbench.shipping.adapter_files import Adapter
    from rankbench.shipping.heldout import Scored
    from rankbench.tasks.encoding import Encoded


@dataclass(frozen=True)
class Choice:
    """The rank of each layer, under the names that `adapter_files.Adapter.layers` has, and the adapter of those ranks.

    `cost` parameters of `budget`; `seen` are the mean losses of chosen and uniform on the half that chose, `halves` its
    rows and those of the other half, on which `scores` are.
    """

    rank: int
    svd: bool
    ranks: dict[str, int]
    adapter: Adapter
    cost: int
    budget: int
    evaluations: int
    halves: tuple[Encoded, Encoded]
    seen: tuple[float, float]
    scores: list[Scored]
    said: str


def text(choice: Choice) -> str:
    """What was chosen and what it scores, as Markdown of at most 80 columns."""
    from rankbench.shipping.heldout import RESAMPLES
    from rankbench.tables.layout import Block, frame, render

    first, second = choice.halves
    against = f"rank {choice.rank}"
    ways = list(choice.scores[0].values)
    rows = {_metric(row): [_value(row, row.values[way]) for way in ways] + [_interval(row)] for row in choice.scores}
    caption = (
        f"{choice.said}. A rank for each of {len(choice.ranks)} layers, {choice.cost:,} adapter parameters of the "
        f"{choice.budget:,} that {against} in every layer has, chosen greedily by the loss of {len(first)} rows of "
        f"{first.name} in {choice.evaluations} evaluations. Scores are those of the other {len(second)} rows, of the "
        f"chosen ranks and of one rank in every layer"
        + ("; global: the largest singular values of all layers together at those parameters" if choice.svd else "")
        + f". Interval: chosen less {against}, 95 % ({RESAMPLES:,} paired resamples)."
    )
    table = render([Block(caption, frame(rows, [*ways, "interval"], "score"))], "md")
    own, other = choice.seen
    seen = f"On the rows that chose, the loss is {own:.3f}, and {other:.3f} at {against} in every layer."
    return "\n".join([table, *textwrap.wrap(seen, 80), "", *_by_kind(choice.ranks)]) + "\n"


def _metric(row: Scored) -> str:
    return f"{row.metric} x {times(row.metric)}" if times(row.metric) > 1 else row.metric


def _value(row: Scored, value: float, sign: str = "") -> str:
    return f"{times(row.metric) * value:{sign}.{1 if times(row.metric) > 1 else 3}f}"


def _interval(row: Scored) -> str:
    return f"{_value(row, row.low, '+')} to {_value(row, row.high, '+')}"


def _by_kind(ranks: dict[str, int]) -> list[str]:
    """The ranks in lines, a list item for each kind of layer: those of one name in the order of their numbers."""
    from rankbench.shipping.adapter_files import inside_base

    kinds: dict[str, list[int]] = {}
    for name, rank in ranks.items():
        kinds.setdefault(re.sub(r"^.*\.\d+\.", "", inside_base(name)), []).append(rank)
    lines = ["Ranks, from the first layer to the last:", ""]
    for kind, own in kinds.items():
        lines += textwrap.wrap(f"- {kind}: {' '.join(map(str, own))}", 80, subsequent_indent="  ")
    return lines
