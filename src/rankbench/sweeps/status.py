"""How the runs in a folder stand, read from the folders alone: no process is asked, nothing heavy is loaded."""

from __future__ import annotations

import argparse
import json
import logging
import re
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.records import lock, record
from rankbench.system.files import expanded, walk
from rankbench.system.progress import clock

log = logging.getLogger("rankbench")

STATES = ("done", "running", "queued", "stopped", "missing", "refused", "oom", "failed")
SWEEPS = ".multirun"  # where a runs folder keeps its sweeps' lists
WIDTH, LINES = 80, 3


@dataclass(frozen=True)
class Standing:
    """A run, which of STATES it is in, in a line what there is to say of that, and the settings that tell it apart."""

    run_id: str
    state: str
    note: str = ""
    asked: str = ""


@dataclass(frozen=True)
class Listed:
    """What a sweep asked for: its runs with their settings, why any left no record, and who waits for them."""

    runs: Mapping[str, Sequence[str]]
    refused: Mapping[str, str]
    launcher: dict[str, Any] | None

    @property
    def waits(self) -> bool:
        """Whether the call that started the sweep still lives; known on the machine that it was made on alone."""
        try:
            owner = lock.Owner(**(self.launcher or {}))
            return owner.machine == lock.machine() and lock.alive(owner, 0.0)
        except (TypeError, ValueError, OverflowError):  # damaged, or of another version
            return False


def main(words: list[str]) -> None:
    """`rankbench status [RUNS ...]`: a line for every run, and how many there are of each state."""
    parser = argparse.ArgumentParser(prog="rankbench status", description="How the runs in a folder stand.")
    parser.add_argument("runs", nargs="*", default=["runs"], help="folders of runs, or single runs (default: runs)")
    found = [standing for place in parser.parse_args(words).runs for standing in standings(expanded(place))]
    print(table(found))


def standings(place: Path) -> list[Standing]:
    """Every run under a folder and every one that its sweeps ask for, by id. Raises RequestError where it is none."""
    if not place.is_dir():
        raise RequestError(f"{place} is no folder; give the folder that holds the runs")
    found: dict[str, Standing] = {}
    for one in map(standing, folders(place)):  # of copies of one run the done one counts, else the one that runs
        if one.run_id not in found or _foremost(one) < _foremost(found[one.run_id]):
            found[one.run_id] = one
    for sweep in sweeps(place):
        found |= {s.run_id: s for s in of_sweep(sweep, found)}
    return [found[run_id] for run_id in sorted(found)]


def folders(place: Path) -> Iterator[Path]:
    """The folders of runs under a folder, itself among them."""
    for folder, inside, files in walk(place):
        if {"config.yaml", "record.json"} & {*inside, *files}:
            yield folder.absolute()
            inside.clear()
        inside[:] = sorted(name for name in inside if not name.startswith("."))


def _foremost(one: Standing) -> int:
    return STATES.index(one.state)


def standing(folder: Path) -> Standing:
    """How the run in a folder stands."""
    file = folder / "record.json"
    state, reason = _recorded(file)
    if state == "done":
        return Standing(folder.name, "done")
    owner = lock.holder(folder)
    if owner:
        return Standing(folder.name, "running", _progress(folder, f"on {owner.host}"))
    if state:
        return Standing(folder.name, state, reason)
    steps = [int(file.name.removeprefix("step-")) for file in folder.glob("checkpoints/step-*")]
    total = _read(folder / "checkpoints" / "progress.json").get("steps")
    kept = f"step {max(steps)}{f'/{total}' if total else ''} kept" if steps else "before its first checkpoint"
    damaged = "; its record.json is not a record" if file.exists() else ""
    return Standing(folder.name, "stopped", kept + damaged)


def of_sweep(sweep: Listed, found: Mapping[str, Standing]) -> list[Standing]:
    """A sweep's runs, of which `found` have folders; the others were refused, wait for their turn or never started."""
    rows = []
    for run_id, asked in zip(sweep.runs, apart_by(list(sweep.runs.values())), strict=True):
        known = found.get(run_id) or Standing(run_id, "missing")
        reason = sweep.refused.get(run_id, "")
        if known.state in ("stopped", "missing") and sweep.waits:
            known = replace(known, state="queued")
        elif known.state == "missing" and reason:
            known = replace(known, state="refused", note=reason)
        elif known.state == "stopped" and reason:
            known = replace(known, note=f"{known.note}; {reason}")
        rows.append(replace(known, asked=asked))
    return rows


def apart_by(jobs: Sequence[Sequence[str]]) -> list[str]:
    """For each job of a sweep the settings that not all of them share, in words."""
    shared = set.intersection(*map(set, jobs)) if jobs else set()
    return [" ".join(in_words(word) for word in words if word not in shared) for words in jobs]


def in_words(setting: str) -> str:
    """A job's setting as people read it: `candidate=dylora` for `sweeps/candidate@_global_=dylora`."""
    return re.sub(r"^\+*sweeps/(\w+)@_global_=", r"\1=", setting)


def sweeps(place: Path) -> Iterator[Listed]:
    """The lists that sweeps have left in a runs folder; one that cannot be read is named and left out."""
    for file in sorted((place / SWEEPS).glob("*.json")):
        try:
            yield _listed(json.loads(file.read_text()))
        except FileNotFoundError:
            continue  # another process has just replaced or removed it
        except (OSError, ValueError) as error:
            log.warning("%s is no list of a sweep (%s), so what it asked for is not counted; remove it", file, error)


def _listed(kept: Any) -> Listed:
    """A sweep's list as its file holds it. Raises ValueError where it is another thing."""
    listed = Listed(kept["runs"], kept.get("refused") or {}, kept.get("launcher")) if _named(kept, "runs") else None
    if listed is None or not _named(listed.runs) or not _named(listed.refused):
        raise ValueError("its runs are missing")
    words = [asked for asked in listed.runs.values() if isinstance(asked, list)]
    texts = [*(word for asked in words for word in asked), *listed.refused.values()]
    if len(words) < len(listed.runs) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its runs are damaged")
    return listed


def _named(value: Any, *names: str) -> bool:
    """Whether a value is one of things by their names, these among them."""
    return isinstance(value, dict) and all(name in value for name in names)


def table(found: Iterable[Standing]) -> str:
    """A line for each run, the troubled last, and below them how many are in each state; 80 columns wide."""
    rows = sorted(found, key=lambda s: (STATES.index(s.state), s.run_id))
    if not rows:
        return "no runs"
    lines = []
    for s in rows:
        lines.append(f"{s.state:<8} {s.run_id}"[:WIDTH])
        for text in filter(None, (s.asked, s.note)):
            if len(lines[-1]) + 2 + len(text) <= WIDTH:
                lines[-1] += f"  {text}"
            else:
                lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9)[:LINES]
    counts = Counter(s.state for s in rows)
    return "\n".join([*lines, ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])])


def _recorded(file: Path) -> tuple[str | None, str]:
    """The record's status and the reason of a failure; of a done run only that much is looked for."""
    try:
        text = file.read_text()
    except (OSError, ValueError):
        return None, ""
    found = re.search(r'(?m)^ "status": "(\w+)"', text)  # a record is written with one blank before its own keys
    if found and found[1] == "done":
        return "done", ""
    kept = record.read(file.parent)
    if kept is None or (kept["status"] == "done" and record.damage(kept)):
        return None, ""
    reason = str(kept.get("reason") or kept.get("error") or "").strip()
    state = kept["status"] if kept["status"] in STATES else "failed"
    return state, reason.splitlines()[0] if reason else ""


def _progress(folder: Path, where: str) -> str:
    file = folder / "checkpoints" / "progress.json"
    known = _read(file)
    step, steps, left = (known.get(key) for key in ("step", "steps", "seconds_left"))
    if not isinstance(step, int) or not isinstance(steps, int):
        return where
    if step >= steps:
        return f"{where}, measuring"
    note = f"step {step}/{steps}"
    if not isinstance(left, int | float):
        return f"{note} {where}"
    return f"{note}, {clock(max(0, left - (time.time() - file.stat().st_mtime)))} left"


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
