"""The command that exports a sub-model of an answer, or why there is none."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from rankbench.records.finished import kept
from rankbench.records.record import Paths
from rankbench.tables.measured import Measured, Member

FEW = 4  # places are named in a command, more are not
SVD = {"svd": "--svd", "svd_global": "--svd-global"}  # the cuts that `rankbench export` makes


def lines(paths: Paths, measured: Measured, within: list[int], told: tuple[float, int] | None) -> list[str]:
    """The command that ships the first sub-model `within` the margin that can be exported, and why not one before it.

    Where none is within it, the command that takes the margin which the examples `told`, if any.
    """
    if not within and (measured.undefined or told is None):
        return ["So there is nothing here to ship."]
    if not within and told is not None:
        places = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        runs = shlex.join(map(str, places)) if len(places) < FEW else "RUNS"
        words = shlex.join(["--metric", measured.metric, "--margin", f"{told[0]:g}"])
        return ["Nothing is named for export. To take that margin:", f"    rankbench table choose_rank {runs} {words}"]
    said, chosen = [], measured.members[within[0]]
    ready = [(measured.members[place], _command(measured, place)) for place in within]
    ready = [(member, command) for member, command in ready if command]
    if not ready or ready[0][0] is not chosen:
        said.append(_why_not(chosen, best_folder(measured, chosen)))
        said += [f"The smallest within the margin that can be exported, {member}:" for member, _ in ready[:1]]
        said += [] if ready else ["None within the margin can be exported."]
    if ready and len(ready[0][0].trained) > 1:
        said.append(f"Of its {len(ready[0][0].trained)} seeds the one that scores best:")
    return [*said, *(f"    {command}" for _, command in ready[:1])]


def _why_not(member: Member, folder: Path) -> str:
    """Why no command exports this member of the run in a folder."""
    if not (folder / "adapter").exists():
        return f"{folder} holds no adapter/, so nothing can be exported from it; copy it there, or run it again."
    if member.cut:
        return f"{member.begun} is a cut that was measured alone: no export makes it."
    svd = " (--svd cuts the trained rank down to another adapter than the one measured)" if member.rank else ""
    return f"{member.begun} was measured and not trained, so it cannot be exported as it is{svd}."


def best_folder(measured: Measured, member: Member) -> Path:
    """The folder of the training of a member, of all its seeds, that scores best."""
    sign = 1 if measured.sums.rises else -1
    trained = member.trained.values()
    return max(trained, key=lambda one: sign * one.sub["metrics"][measured.metric]).folder


def _command(measured: Measured, place: int) -> str | None:
    """The command that exports a member; None where there is none."""
    member = measured.members[place]
    folder = best_folder(measured, member)
    if not (folder / "adapter").exists() or (member.cut and member.cut not in SVD):
        return None
    note = kept(folder)[1]
    trained = (("rank", "trained_ranks"), ("depth", "trained_exits"))
    if not member.cut and any(member.sub[key] not in [None, *note.get(has, [])] for key, has in trained):
        return None
    options = [word for key, _ in trained if member.sub[key] is not None for word in (f"--{key}", str(member.sub[key]))]
    return shlex.join(
        ["rankbench", "export", str(folder), *options, *filter(None, [SVD.get(member.cut)]), "--to", "DIR"]
    )
