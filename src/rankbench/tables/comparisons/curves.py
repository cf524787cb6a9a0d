"""Runs as curves: for each method and seed a value at each rank, and what its trainings took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankbench.records import tested
from rankbench.settings.methods import DYLORA
from rankbench.tables import labels
from rankbench.tables.labels import OF_SEARCH, SEARCH, is_search


@dataclass(frozen=True)
class Paid:
    """What a training took; `rank` is that of a search's point, None where the training is of a whole curve."""

    rank: int | None
    seconds: float
    steps: int


@dataclass
class Curve:
    """A method on one task with one seed: a value for each rank (None: the whole), and what its trainings took."""

    values: dict[int | None, float] = field(default_factory=dict)
    trainable: dict[int | None, int] = field(default_factory=dict)
    total: dict[int | None, int] = field(default_factory=dict)
    test: dict[int | None, dict[str, float]] = field(default_factory=dict)  # by metric, where there are test splits
    paid: dict[str, Paid] = field(default_factory=dict)  # by training

    def put(self, row: dict[str, Any], metric: str) -> None:
        """Take a record's entry in."""
        self.values[row["rank"]] = row["metrics"][metric]
        self.trainable[row["rank"]] = row["parameters"]["trainable"]
        self.total[row["rank"]] = row["parameters"]["total"]
        self.test[row["rank"]] = tested.values(row, metric)

    def pay(self, record: dict[str, Any], rank: int | None = None) -> None:
        """Count a record's training, once however often it was measured."""
        took = record["training"]
        self.paid.setdefault(labels.training(record), Paid(rank, took["seconds"], took["steps"]))

    def among(self, ranks: Collection[int]) -> list[int | None]:
        """Its own of these ranks, smallest first; where it has none of them, all of its own."""
        every = sorted(self.values, key=lambda rank: rank or 0)
        return [rank for rank in every if rank in ranks] or every

    def over(self, ranks: Collection[int]) -> list[Paid]:
        """What it has of these ranks cost: of a search the trainings of these alone."""
        own = self.among(ranks)
        return [paid for paid in self.paid.values() if paid.rank is None or paid.rank in own]

    def took(self, ranks: Collection[int]) -> float:
        """The seconds of these trainings."""
        return sum(paid.seconds for paid in self.over(ranks))

    @property
    def seconds(self) -> float:
        """Of all trainings."""
        return sum(paid.seconds for paid in self.paid.values())


Curves = dict[str, dict[int, Curve]]  # method -> seed -> curve


def curves(
    records: Sequence[dict[str, Any]], metric: str, beside: Sequence[dict[str, Any]] = (), alike: Sequence[str] = ()
) -> Curves:
    """The curves of one task's finished runs; LoRAs that measure their own rank alone make up one, the search.

    A LoRA that measures lower ranks too gives a search its own, where that has none and does not become one of two
    ranks by it. A run's cuts are methods beside it, and cost no training of their own. The names tell these methods
    from those `beside` them too, but not by the settings in `alike`.
    """
    every = [r for r in [*records, *beside] if r["status"] == "done" and r["submodels"]]
    every = list({r["run_id"]: r for r in every if metric in r["submodels"][0]["metrics"]}.values())
    ids = {record["run_id"] for record in records}
    own, loras = [r for r in every if is_search(r)], [r for r in every if r["config"]["adapter"]["name"] == "lora"]
    found: Curves = {}
    points = labels.of_search(own, every, alike)
    names = points | labels.labels([r for r in every if r["run_id"] not in points], every, (*OF_SEARCH[1:], *alike))
    for record in (r for searched in (True, False) for r in every if (r["run_id"] in points) is searched):
        if record["run_id"] not in ids:
            continue
        label, seed, cuts = names[record["run_id"]], record["config"]["seed"], record.get("cuts", ())
        for row in [*record["submodels"], *cuts]:
            column = f"{label} {row['cut']}" if "cut" in row else label
            found.setdefault(column, {}).setdefault(seed, Curve()).put(row, metric)
        for column in {label} | {f"{label} {row['cut']}" for row in cuts}:
            found[column][seed].pay(record, record["config"]["adapter"]["r"] if record["run_id"] in points else None)
    of = labels.of_search(loras, every, alike, own)  # names among all LoRAs, whose points may have shorter ones
    search_of = {of[run]: column for run, column in points.items() if column in found}
    lenders: dict[str, list[dict[str, Any]]] = {}
    for record in loras:
        if record["run_id"] in ids and of[record["run_id"]] in search_of:
            lenders.setdefault(search_of[of[record["run_id"]]], []).append(record)
    for column, alike_but_rank in lenders.items():
        _lend(alike_but_rank, found[column], metric)
    return found


def _lend(loras: list[dict[str, Any]], search: dict[int, Curve], metric: str) -> None:
    """Give a search the ranks that LoRAs of its settings have and it lacks, if it then has more than two."""
    if len(ranks_of(search)) < 2 and len({record["config"]["adapter"]["r"] for record in loras}) < 3:
        return  # one rank alone is no search because a LoRA of another has cuts
    for record in loras:
        rank, curve = record["config"]["adapter"]["r"], search.get(record["config"]["seed"])
        whole = [row for row in record["submodels"] if row["rank"] == rank]
        if curve and whole and rank not in curve.values:
            curve.put(whole[0], metric)
            curve.pay(record, rank)


def ranks_of(seeds: Mapping[int, Curve]) -> list[int]:
    """A method's ranks: those that more than half of its seeds have, or where there are none, any."""
    often = Counter(rank for curve in seeds.values() for rank in curve.values if rank)
    return sorted(rank for rank, times in often.items() if 2 * times > len(seeds)) or sorted(often)


def shared_ranks(found: Curves) -> list[int]:
    """The ranks over which methods are held against each other: those that searches and nested methods all have.

    Where there are neither, those that every method has. One with a single rank leaves the others theirs.
    """
    measured = {name: {*ranks_of(seeds)} for name, seeds in found.items()}
    several = {name: ranks for name, ranks in measured.items() if len(ranks) > 1} or measured
    first = [r for name, r in several.items() if SEARCH in name or any(w.startswith(DYLORA) for w in name.split())]
    return sorted(set.intersection(*(first or several.values()))) if several else []


def complete(seeds: Mapping[int, Curve], ranks: Collection[int]) -> list[Curve]:
    """The curves that have all that their method has of these ranks."""
    own = {*ranks_of(seeds)} & {*ranks}
    return [curve for curve in seeds.values() if own <= {*curve.values}]


def left_aside(found: Curves, ranks: Sequence[int]) -> str:
    """Sentences on ranks of searches that are not among these, on methods that lack some, and on seeds that do."""
    if not ranks:
        return ""
    of = {name: ranks_of(seeds) for name, seeds in found.items()}
    points = {rank for name, own in of.items() if SEARCH in name and {*own} & {*ranks} for rank in own} - {*ranks}
    lacking = {name: own for name, own in of.items() if own and {*ranks} - {*own} and (own[1:] or own[0] not in ranks)}
    gone = {name: lost for name, seeds in found.items() if (lost := len(seeds) - len(complete(seeds, ranks)))}
    said = {
        f"A search's ranks {_listed(sorted(points))} are left aside: others lack them.": points,
        f"Measured at other ranks: {'; '.join(f'{name} ({_listed(own)})' for name, own in lacking.items())}.": lacking,
        f"Seeds left out, which lack a rank: {_listed(f'{n} of {name}' for name, n in gone.items())}.": gone,
    }
    return "".join(f" {sentence}" for sentence, there in said.items() if there)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
