"""What stands below a table: what its names leave out, what must be said beside its scores, and which runs it lacks."""

from __future__ import annotations

from typing import Any

from rankbench.records.notes import RANK_0, notes, read, without_adapter
from rankbench.settings.metrics import unit
from rankbench.tables import labels
from rankbench.tables.baselines import by_method
from rankbench.tables.shown import Shown, left_out


def lines(given: list[dict[str, Any]], shown: Shown) -> list[str]:
    """What must be said beside the scores of the runs shown, each sentence once, and which of those given are not."""
    records = [record for record in given if record["run_id"] in shown]
    if not records:
        return left_out(given, shown)
    if len(records) == 1:
        metric = shown[records[0]["run_id"]]
        return [*notes(records[0], metric), *without_adapter(records[0], [metric]), *left_out(given, shown)]
    names = labels.columns(records)
    said: dict[str, dict[str, None]] = {}
    for record in records:
        for note in notes(record, shown[record["run_id"]]):
            said.setdefault(note, {})[f"{names[record['run_id']]} seed {record['config']['seed']}"] = None
    everyone = {f"{names[record['run_id']]} seed {record['config']['seed']}" for record in records}
    told = [note if set(who) == everyone else f"{', '.join(who)}: {note}" for note, who in said.items()]
    return [*labels.legend(records, shown), *told, *_without_adapter(records, shown), *left_out(given, shown)]


def _without_adapter(records: list[dict[str, Any]], shown: Shown) -> list[str]:
    """What the backbone scores with each method's adapter switched off, the mean over its runs."""
    found = []
    for metric in dict.fromkeys(shown[record["run_id"]] for record in records):
        alike = [record for record in records if shown[record["run_id"]] == metric]
        if means := by_method(alike, metric).get(RANK_0):
            each = ", ".join(f"{name} {read(metric, value)}" for name, value in means.items())
            found.append(f"Baseline: rank 0 (the adapter off), {unit(metric)}: {each}.")
    return found
