"""What test splits say of the sub-model that was chosen, by which nothing was."""

from __future__ import annotations

import statistics

from rankbench.records import tested
from rankbench.settings.metrics import times, unit
from rankbench.tables.measured import Measured


def lines(measured: Measured, place: int) -> list[str]:
    """A sentence with the value of this sub-model on test splits, the mean over its seeds; none without such splits."""
    member = measured.members[place]
    own = [tested.values(one.sub, measured.metric) for one in member.trained.values()]
    shared = [name for name in own[0] if all(name in values for values in own)]
    if not shared:
        return []
    record = next(iter(member.trained.values())).record
    said = []
    for name in shared:
        value = times(name) * statistics.fmean(values[name] for values in own)
        count = tested.rows(record, name, member.sub["test_n"])
        said.append(f"{unit(name)} {value:.{1 if times(name) > 1 else 3}f} ({count:,} examples)")
    seeds = f", the mean of {len(own)} seeds" if len(own) > 1 else ""
    where = ", ".join(tested.splits(record))
    return [f"Reported on {where}, by which nothing was chosen: {member} has {', '.join(said)}{seeds}."]
