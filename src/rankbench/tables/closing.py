"""What stands below a table: what its names leave out, what must be said beside its scores, and which runs it lacks."""

from __future__ import annotations

from typing import Any

from rankbench.records.notes import RANK_0, notes, read, without_adapter
from rankbench.settings.metrics import unit
from rankbench.tables import labels
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
    names = labels.columns(records)
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        metric = shown[record["run_id"]]
        for row in record.get("baselines") or []:
            if row["baseline"] == RANK_0 and metric in row["metrics"]:
                found.setdefault(metric, {}).setdefault(names[record["run_id"]], []).append(row["metrics"][metric])
    return [
        f"Baseline: rank 0 (the adapter off), {unit(metric)}: "
        + ", ".join(f"{name} {read(metric, sum(values) / len(values))}" for name, values in by_name.items())
        + "."
        for metric, by_name in found.items()
    ]
