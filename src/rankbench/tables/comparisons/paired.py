"""Nested methods held to what they would replace, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rankbench.settings.evaluate import CUTS
from rankbench.settings.methods import DYLORA
from rankbench.settings.metrics import rises, times, unit
from rankbench.tables import stats
from rankbench.tables.comparisons.curves import Curve, Curves, ranks_of
from rankbench.tables.labels import SEARCH
from rankbench.tables.layout import Block, chance, frame

Summary = Callable[[dict[int, float]], float]  # values by rank -> what is compared


@dataclass(frozen=True)
class Pair:
    """Two methods, what of their curves is compared, and how they differ over so many seeds."""

    words: str
    of: str
    seeds: int
    found: stats.Mean


def paired(found: Curves, metric: str, ranks: Sequence[int], margin: float) -> list[Block]:
    """A row for each nested method and rival: their mean difference over seeds, its interval, p, and if it is none.

    The rivals are the search and the SVD cuts of one LoRA, or where there is neither every other method. Both of a pair
    are taken at the seeds and the ranks (of `ranks`, if any) that both have; no block where no pair has two seeds.
    Raises RequestError unless the margin is above 0.
    """
    pairs = [pair for pair in _pairs(found, metric, ranks) if pair is not None]
    if not pairs:
        return []
    digits = 1 if times(metric) > 1 else 3
    adjusted = stats.holm([pair.found.p for pair in pairs])
    rows = {
        f"{pair.words}, {pair.of}": [
            f"{pair.found.mean:+.{digits}f}",
            f"{pair.found.low:+.{digits}f} to {pair.found.high:+.{digits}f}",
            chance(pair.found.p),
            chance(p),
            "yes" if stats.equivalent(pair.found.low, pair.found.high, margin) else "no",
        ]
        for pair, p in zip(pairs, adjusted, strict=True)
    }
    head = ["difference", "interval", "p", "Holm", f"within {margin:g}"]
    return [Block(_caption(metric, margin, pairs), frame(rows, head, "methods"))]


def _pairs(found: Curves, metric: str, ranks: Sequence[int]) -> list[Pair | None]:
    nested = [name for name in found if name.startswith(DYLORA) and not name.endswith(CUTS)]
    searched = [name for name in found if name.startswith(SEARCH)]
    cut = [name for name in found if name.startswith("lora") and name.endswith(" svd")]
    others = [name for name in found if not name.startswith(DYLORA)]

    def area(values: dict[int, float]) -> float:
        return times(metric) * stats.aurac(list(values), list(values.values()))

    def best(values: dict[int, float]) -> float:
        return times(metric) * (max if rises(metric) else min)(values.values())

    asked: list[tuple[str, str, Summary]] = [("AURAC", name, area) for name in [*searched, *cut] or others]
    asked += [("best", name, best) for name in searched]
    return [
        _pair(f"{one} - {other}", of, found[one], found[other], ranks, read)
        for one in nested
        for of, other, read in asked
    ]


def _pair(
    words: str, of: str, one: dict[int, Curve], other: dict[int, Curve], ranks: Sequence[int], read: Summary
) -> Pair | None:
    """How two methods differ over the ranks that both have, at seeds with all of these; None below two of either."""
    places = [rank for rank in ranks_of(one) if rank in ranks_of(other) and (not ranks or rank in ranks)]
    seeds = [seed for seed in sorted({*one} & {*other}) if {*places} <= {*one[seed].values} & {*other[seed].values}]
    if len(seeds) < 2 or len(places) < 2:
        return None
    first, second = (
        [read({rank: method[seed].values[rank] for rank in places}) for seed in seeds] for method in (one, other)
    )
    return Pair(words, of, len(seeds), stats.permutation([a - b for a, b in zip(first, second, strict=True)]))


def _caption(metric: str, margin: float, pairs: Sequence[Pair]) -> str:
    better = "above" if rises(metric) else "below"
    few, many = min(pair.seeds for pair in pairs), max(pair.seeds for pair in pairs)
    seeds = f"{few} seeds" if few == many else f"{few} to {many} seeds"
    lowest = 2 / 2**few  # the observation and its mirror image, of all sign flips
    floor = f" With {few} seeds no p can be below {lowest:g}, however large the difference." if lowest > 0.05 else ""
    return (
        f"Paired by seed ({seeds}), over the ranks that both have: the first less the second, {unit(metric)} ({better} "
        "0 the first is better), with its 95 % interval (t), p by the sign flips of the seeds, the same with Holm's "
        f"correction over these rows, and whether the whole interval lies within {margin:g} of 0.{floor}"
    )
