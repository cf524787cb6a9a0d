"""Runs as curves: for each method and seed a value at each rank, and what its trainings took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rankbench.records import tested
from rankbench.tables import labels
from rankbench.tables.labels import OF_SEARCH, is_search, of_search


@dataclass
class Curve:
    """A method on one task with one seed: a value for each rank (None: the whole), and what its trainings took."""

    values: dict[int | None, float] = field(default_factory=dict)
    trainable: dict[int | None, int] = field(default_factory=dict)
    total: dict[int | None, int] = field(default_factory=dict)
    test: dict[int | None, dict[str, float]] = field(default_factory=dict)  # by metric, where there are test splits
    seconds: float = 0.0
    steps: int = 0
    trainings: int = 0

    def put(self, row: dict[str, Any], metric: str) -> None:
        """Take a record's entry in."""
        self.values[row["rank"]] = row["metrics"][metric]
        self.trainable[row["rank"]] = row["parameters"]["trainable"]
        self.total[row["rank"]] = row["parameters"]["total"]
        self.test[row["rank"]] = tested.values(row, metric)

    def pay(self, record: dict[str, Any]) -> None:
        """Count a record's training."""
        self.seconds += record["training"]["seconds"]
        self.steps += record["training"]["steps"]
        self.trainings += 1


Curves = dict[str, dict[int, Curve]]  # method -> seed -> curve


def curves(records: Sequence[dict[str, Any]], metric: str) -> Curves:
    """The curves of one task's finished runs; LoRAs that measure their own rank alone make up one, the search.

    A LoRA that measures lower ranks too gives the search its own rank, where that has none. A run's cuts are methods
    beside it, and cost no training of their own.
    """
    having = [r for r in records if r["status"] == "done" and r["submodels"] and metric in r["submodels"][0]["metrics"]]
    own = {record["run_id"]: is_search(record) for record in having}
    found: Curves = {}
    searches: dict[str, str] = {}
    for searched in (True, False):
        group = [record for record in having if own[record["run_id"]] is searched]
        names = labels.labels(group, having, OF_SEARCH if searched else OF_SEARCH[1:])
        for record in group:
            label = names[record["run_id"]]
            if searched:
                label = searches[record["run_id"]] = of_search(label)
            for row in [*record["submodels"], *record.get("cuts", ())]:
                column = f"{label} {row['cut']}" if "cut" in row else label
                found.setdefault(column, {}).setdefault(record["config"]["seed"], Curve()).put(row, metric)
            for column in {label} | {f"{label} {row['cut']}" for row in record.get("cuts", ())}:
                found[column][record["config"]["seed"]].pay(record)
    loras = [record for record in having if record["config"]["adapter"]["name"] == "lora"]
    names = labels.labels(loras, having, OF_SEARCH)
    column_of = {names[run]: column for run, column in searches.items()}  # the names among the searched may be shorter
    for record in loras:
        search = found.get(column_of.get(names[record["run_id"]], ""), {}).get(record["config"]["seed"])
        rank = record["config"]["adapter"]["r"]
        whole = [row for row in record["submodels"] if row["rank"] == rank]
        if search and whole and rank not in search.values:
            search.put(whole[0], metric)
            search.pay(record)
    return found
