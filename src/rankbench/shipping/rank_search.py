"""A rank for each layer under a budget, chosen greedily by a loss: plain numbers, no model in sight."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Loss = Callable[[Sequence[int]], float]  # the ranks of all layers -> what they score, less is better


@dataclass(frozen=True)
class Chosen:
    """Ranks, one for each layer, their loss, what they cost in parameters, and how many losses were asked for."""

    ranks: list[int]
    loss: float
    cost: int
    evaluations: int


def steps(largest: int, budget: int, trained: Sequence[int] | None = None) -> list[int]:
    """The ranks that a layer may take: 0, the powers of two, the budget and the largest; with `trained` only those."""
    powers = {2**i for i in range(largest.bit_length())}
    return sorted({0} | {rank for rank in powers | {budget, largest} if trained is None or rank in trained})


def choose(costs: Sequence[int], grid: Sequence[int], budget: int, loss: Loss) -> Chosen:
    """Ranks of low loss that cost at most `budget` parameters: from the largest down, then up into what is left.

    `costs` has what one rank costs in each layer, `grid` the ranks of a layer, rising from 0. Each step down takes the
    layer whose next lower rank adds least loss for every parameter saved; each step up the one that takes away most
    loss for every parameter, as long as it fits and helps. A candidate's loss is asked for again only when it comes
    first in the queue (lazy greedy, Minoux 1978), so most of them are asked for once or twice.
    """
    asked = 0

    def ask(ranks: Sequence[int]) -> float:
        nonlocal asked
        asked += 1
        return loss(ranks)

    places = [len(grid) - 1] * len(costs)

    def spent(at: Sequence[int]) -> int:
        return sum(cost * grid[place] for cost, place in zip(costs, at, strict=True))

    now = ask([grid[place] for place in places])

    def walk(way: int, goes_on: Callable[[], bool], allowed: Callable[[list[int]], bool]) -> None:
        """Steps of all layers up (1) or down (-1) the grid, the cheapest in loss first, while `goes_on`."""
        nonlocal now, places
        taken = 0
        queue: list[tuple[float, int, int, float]] = []

        def offer(layer: int) -> None:
            moved = [place + way * (i == layer) for i, place in enumerate(places)]
            if not 0 <= moved[layer] < len(grid) or not allowed(moved):
                return
            after = ask([grid[place] for place in moved])
            heapq.heappush(queue, ((after - now) / abs(spent(moved) - spent(places)), layer, taken, after))

        if goes_on():
            for layer in range(len(costs)):
                offer(layer)
        while queue and goes_on():
            gain, layer, seen, after = heapq.heappop(queue)
            if seen < taken:
                offer(layer)
            elif way > 0 and gain >= 0:
                return
            else:
                places = [place + way * (i == layer) for i, place in enumerate(places)]
                now, taken = after, taken + 1
                offer(layer)

    walk(-1, lambda: spent(places) > budget, lambda moved: True)
    walk(1, lambda: spent(places) < budget, lambda moved: spent(moved) <= budget)
    return Chosen([grid[place] for place in places], now, spent(places), asked)
