"""What a sub-model costs whoever ships it: parameters, memory and speed, beside its model and merged into it."""

from __future__ import annotations

from rankbench.tables.measured import Member

BYTES = 4  # of a weight in float32, as exports have it


def line(member: Member) -> str:
    """A sentence, with the speed where a run of its method measured it."""
    parameters = member.sub["parameters"]
    total = parameters["total"]
    if not parameters.get("adapter"):
        return f"It costs {total:,} parameters, {_size(total)} in float32."
    own = parameters["adapter"] + parameters["head"]
    said = f"It costs {own:,} parameters, {_size(own)} as an adapter, or {_size(total)} as a merged model (float32)."
    records = [one.record for one in member.trained.values()]
    speeds = [
        (record["forward_speed"], record["environment"]["device"]) for record in records if "forward_speed" in record
    ]
    if not speeds:
        return said
    speed, device = speeds[0]
    batch = f"{speed['rows']} rows of {speed['tokens'] // speed['rows']} tokens"
    return (
        f"{said} Merged it answers {speed['merged']:.0f} rows a second, unmerged {speed['unmerged']:.0f} "
        f"(at rank {speed['rank']}, {batch}; {device})."
    )


def _size(parameters: int) -> str:
    size = BYTES * parameters / 1e6
    return f"{size / 1000:.1f} GB" if size >= 1000 else f"{size:.1f} MB" if size >= 1 else f"{1000 * size:.0f} kB"
