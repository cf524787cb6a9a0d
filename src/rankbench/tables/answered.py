"""The page of `choose_rank`: which sub-model to ship and how, then all that the answer rests on."""

from __future__ import annotations

import html
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.tables import classes, labels, page
from rankbench.tables.choice import Chosen
from rankbench.tables.exporting import best_folder
from rankbench.tables.layout import Block, figure, frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = ("task", "model", "quantization", "arithmetic", "generation", "adapter", "sampler", "train", "evaluate")
MIB = 2**20
Record = dict[str, Any]


def answered(made: Chosen, drawn: Sequence[Figure]) -> str:
    """One HTML page that needs no other file."""
    records = list(made.runs.values())
    first = records[0]["config"]
    title = f"{first['task']['name']}, {first['model']['name']}: which {made.measured.kind} to ship"
    lead, *more = made.answer
    return page.document(
        title,
        [
            f"<h1>{html.escape(title)}</h1>",
            f'<section class="answer"><p class="lead">{html.escape(lead)}</p>',
            *map(page.line, [*more, *made.ship]),
            "</section>",
            *map(page.svg, drawn),
            *map(figure, made.blocks),
            *map(page.line, made.told),
            *_part("What it costs", [cost(records)]),
            *_part("By class", [Block(f"{_whose(made)}: {one.caption}", one.frame) for one in _by_class(made)]),
            *_part("Settings", [settings(records)], "words"),
            *_part("Data", [data(records)]),
        ],
    )


def _part(title: str, blocks: Sequence[Block], kind: str = "") -> Iterator[str]:
    if blocks:
        yield f"<h2>{title}</h2>"
        yield from (figure(block, kind) for block in blocks)


def cost(records: Sequence[Record]) -> Block:
    """What each method's trainings took, and what they trained."""
    names = labels.columns(list(records))
    rows: dict[str, list[str]] = {}
    for name in dict.fromkeys(names[record["run_id"]] for record in records):
        own = [record for record in records if names[record["run_id"]] == name]
        took = [record.get("training") or {} for record in own]
        seconds = [float(one["seconds"]) for one in took if one.get("seconds") is not None]
        peaks = [one["peak_memory_bytes"] for one in took if one.get("peak_memory_bytes")]
        trained = [sub["parameters"]["trainable"] for record in own for sub in record["submodels"]]
        rows[name] = [
            str(len(own)),
            f"{statistics.mean(seconds):,.1f}" if seconds else "-",
            f"{sum(seconds):,.1f}" if seconds else "-",
            f"{max(peaks) / MIB:,.0f} MiB" if peaks else "-",
            f"{min(trained):,}" + (f" to {max(trained):,}" if max(trained) > min(trained) else ""),
        ]
    made = [record.get("environment") or {} for record in records]
    where = dict.fromkeys(f"{one.get('device', '?')} in {one.get('precision', '?')}" for one in made)
    head = ["trainings", "seconds a training", "seconds in all", "peak memory", "trained parameters"]
    return Block(f"What training took on {'; '.join(where)}.", frame(rows, head, "method"))


def settings(records: Sequence[Record]) -> Block:
    """What was asked for: a row for each group of settings, several values where the runs differ."""
    rows = {}
    for group in GROUPS:
        found: dict[str, dict[str, None]] = {}
        for record in records:
            for key, value in _flat(record["config"].get(group) or {}):
                if f"{group}.{key}" not in labels.ELSEWHERE and value not in (None, "", [], {}):
                    found.setdefault(key, {})[_word(value)] = None
        if found:
            rows[group] = ["; ".join(f"{key}={' or '.join(values)}" for key, values in found.items())]
    rows["seed"] = [", ".join(map(str, sorted({record["config"].get("seed", 0) for record in records})))]
    made = dict.fromkeys(str((record.get("environment") or {}).get("rankbench", "?")) for record in records)
    return Block(f"What was asked of rankbench {', '.join(made)}.", frame(rows, ["asked for"], "group"))


def _flat(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", of) for inner, of in _flat(value))
        else:
            yield key, value


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def data(records: Sequence[Record]) -> Block:
    """Rows and labels of each split; runs on other training data have rows of their own."""
    rows: dict[str, list[str]] = {}
    for record in records:
        of = record.get("data") or {}
        for name, split in (of.get("splits") or {}).items():
            counts = split.get("labels") or {}
            told = ", ".join(f"{label}: {count:,}" for label, count in counts.items()) if counts else "-"
            own = [str(split.get("file", "-")), f"{split['rows']:,}" if "rows" in split else "-", told]
            others = [key for key in rows if key.split(" (")[0] == name]
            if not any(rows[key] == own for key in others):
                rows[f"{name} ({len(others) + 1})" if others else name] = own
    places = dict.fromkeys(str((record.get("data") or {}).get("location") or "") for record in records)
    where = ", ".join(place for place in places if place)
    return Block(f"What was read{f' from {where}' if where else ''}.", frame(rows, ["file", "rows", "labels"], "split"))


def _whose(made: Chosen) -> str:
    """The training that answers: its member, and which of its seeds."""
    seeds = made.member.trained
    folder = best_folder(made.measured, made.member)
    best = next(seed for seed, one in seeds.items() if one.folder == folder)
    return f"{made.member}" + (f", the best of its seeds, {best}" if len(seeds) > 1 else "")


def _by_class(made: Chosen) -> list[Block]:
    """The classes by the answer's best training; none where there are no classes."""
    member = made.member
    folder: Path = best_folder(made.measured, member)
    try:
        return classes.blocks(made.runs[folder], folder, member.rank, member.depth, member.cut or None)
    except (RequestError, LookupError):
        return []
