"""Runs as curves: for each method and seed a value at each rank, and what its trainings took."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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

    def over(self, ranks: Collection[int | None]) -> list[Paid]:
        """What these ranks cost: of a search the trainings of these alone."""
        return [paid for paid in self.paid.values() if paid.rank is None or paid.rank in ranks]

    @property
    def seconds(self) -> float:
        """Of all trainings."""
        return sum(paid.seconds for paid in self.paid.values())


Curves = dict[str, dict[int, Curve]]  # method -> seed -> curve


def curves(
    records: Sequence[dict[str, Any]], metric: str, beside: Sequence[dict[str, Any]] = (), alike: Sequence[str] = ()
) -> Curves:
    """The curves of one task's finished runs; LoRAs that measure their own rank alone make up one, the search.

    A LoRA that measures lower ranks too gives a search of several ranks its own, where that has none. A run's cuts are
    methods beside it, and cost no training of their own. The names tell these methods from those `beside` them too, but
    not by the settings in `alike`.
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
    of = labels.of_search(loras, every, alike)  # names among all LoRAs, whose points may have shorter ones
    several = {name for name, seeds in found.items() if len({rank for c in seeds.values() for rank in c.values}) > 1}
    search_of = {of[run]: column for run, column in points.items() if column in several}
    for record in loras:
        search = found.get(search_of.get(of[record["run_id"]], ""), {}).get(record["config"]["seed"])
        rank = record["config"]["adapter"]["r"]
        whole = [row for row in record["submodels"] if row["rank"] == rank]
        if record["run_id"] in ids and search and whole and rank not in search.values:
            search.put(whole[0], metric)
            search.pay(record, rank)
    return found


def shared_ranks(found: Curves) -> list[int]:
    """The ranks over which methods are held against each other: those that the search and every nested method have.

    Where there is neither, those that every method has. One with a single rank leaves the others theirs.
    """
    measured = {name: {r for c in seeds.values() for r in c.values if r} for name, seeds in found.items()}
    several = {name: ranks for name, ranks in measured.items() if len(ranks) > 1} or measured
    first = [r for name, r in several.items() if SEARCH in name or any(w.startswith(DYLORA) for w in name.split())]
    return sorted(set.intersection(*(first or several.values()))) if several else []


def left_aside(found: Curves, ranks: Sequence[int]) -> str:
    """A sentence on ranks of a search that are not among these, and on methods that lack some that are."""
    of = {name: sorted({r for c in seeds.values() for r in c.values if r}) for name, seeds in found.items()}
    points = {rank for name, own in of.items() if SEARCH in name and len(own) > 1 for rank in own} - {*ranks}
    few = [f"{name} ({', '.join(map(str, own))})" for name, own in of.items() if len(own) > 1 and {*ranks} - {*own}]
    said = (
        [f" The search's ranks {', '.join(map(str, sorted(points)))} are left aside: others lack them."]
        if points
        else []
    )
    said += [f" Measured at fewer of these ranks: {'; '.join(few)}."] if few else []
    return "".join(said)
