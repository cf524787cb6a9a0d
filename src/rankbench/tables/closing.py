"""What stands below a table: what its names leave out, what must be said beside its scores, and which runs it lacks."""

from __future__ import annotations

from typing import Any

from rankbench.records.notes import notes
from rankbench.tables import labels
from rankbench.tables.shown import Shown, left_out


def lines(given: list[dict[str, Any]], shown: Shown) -> list[str]:
    """What must be said beside the scores of the runs shown, each sentence once, and which of those given are not."""
    records = [record for record in given if record["run_id"] in shown]
    if not records:
        return left_out(given, shown)
    if len(records) == 1:
        return [*notes(records[0], shown[records[0]["run_id"]]), *left_out(given, shown)]
    names = labels.columns(records)
    said: dict[str, dict[str, None]] = {}
    for record in records:
        for note in notes(record, shown[record["run_id"]]):
            said.setdefault(note, {})[f"{names[record['run_id']]} seed {record['config']['seed']}"] = None
    everyone = {f"{names[record['run_id']]} seed {record['config']['seed']}" for record in records}
    told = [note if set(who) == everyone else f"{', '.join(who)}: {note}" for note, who in said.items()]
    return [*labels.legend(records, shown), *told, *left_out(given, shown)]
