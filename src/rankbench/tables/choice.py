"""Which rank to ship: the smallest within a margin of the best, as far as a run's stored predictions tell."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankbench.errors import RequestError
from rankbench.records.finished import kept
from rankbench.records.notes import notes
from rankbench.records.record import load_records, read
from rankbench.settings.metrics import METRICS, base, times, unit
from rankbench.tables import metric_sums, stats
from rankbench.tables.layout import Block, chance, render, said
from rankbench.tables.measured import Measured, Submodel, measure

ERROR = 0.05  # the chance that an interval misses, over all pairs together
MADE = 0.04  # the chance that they are made for: with few examples up to one in a hundred more misses
RESAMPLES = 10_000
SPLITS = 1000


def text(made: Sequence[Block], closing: Sequence[str], form: str, width: int | None = None) -> str:
    """What `choose_rank` found, as Markdown, CSV or LaTeX; `width` is that of `layout.as_text`."""
    return "\n".join([render(made, form, width), *(said(line, form) for line in closing)]) + "\n"


def choose_rank(folder: Path, metric: str | None = None, margin: float = 0.5) -> tuple[list[Block], list[str]]:
    """The ranks, exits or pairs of a finished run held to the best of them, and lines that name the one to ship.

    That is the smallest (fewest layers, then lowest rank) that lies within `margin` of the best, whichever is the best,
    in the units people read: points for shares and correlations, nats for a loss. All intervals hold together at 95 %
    over all pairs (`stats.all_pairs`), so this holds though the best was picked on these examples. Where the data do
    not tell, that is said, with how many examples would. Raises RequestError when the run is not done, has one
    sub-model, or its predictions are missing or do not give the recorded metric.
    """
    if not 0 < margin < np.inf:
        raise RequestError(f"--margin {margin:g}: no interval lies within that; give one above 0, such as 0.5")
    record, note = _run(folder)
    measured = measure(folder, record, metric)
    found, halves = Found.of(measured, margin), stats.split_half(measured.sums, SPLITS)
    told = [] if measured.undefined else [_honest(measured, found, halves), *_area(measured, found)]
    return [_block(record, measured, found, halves, margin)], [
        _answer(measured, found, margin),
        *told,
        *notes(record, measured.metric),
        *_export(folder, note, measured, found),
    ]


@dataclass(frozen=True)
class Found:
    """What the examples tell: all `pairs`, and of each sub-model the `gain` (k,) over the best, at least and at most.

    In the units people read, more is better: a gain of at least -0.3 is at most 0.3 behind the best, whichever that is.
    """

    pairs: stats.Pairs
    best: int  # the best on these examples
    least: metric_sums.Reals
    most: metric_sums.Reals
    within: list[int]  # surely within the margin, and not of one answer alone
    wide: float  # half the widest interval of the best less another that may be within the margin

    @classmethod
    def of(cls, measured: Measured, margin: float, resamples: int = RESAMPLES) -> Found:
        """All of it, from the predictions."""
        sums, factor = measured.sums, times(measured.metric)
        pairs = stats.all_pairs(sums, 1 - MADE, resamples)
        low, high = (pairs.low, pairs.high) if sums.rises else (-pairs.high, -pairs.low)
        others = ~np.eye(len(low), dtype=bool)
        least = factor * np.where(others, low, np.inf).min(1)
        most = factor * np.where(others, high, np.inf).min(1)
        best = int((pairs.value * (1 if sums.rises else -1)).argmax())
        answering = ~np.array(measured.idle) & (measured.undefined is None)
        within = [int(i) for i in np.flatnonzero((least > -margin) & answering)]
        asked = np.delete((pairs.high - pairs.difference)[best], best)[np.delete(most >= -margin, best)]
        wide = factor * float(asked.max(initial=0))
        return cls(pairs, best, least, most, within, wide)


def _run(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The record, and what adapter/rankbench.json says of what was trained; None where adapter/ was not kept."""
    record = read(folder)
    if record is None or record["status"] != "done" or (folder / "adapter").exists():
        return kept(folder)
    return load_records(folder / "record.json")[0], None


def _words(sub: Submodel) -> str:
    return " at ".join(f"{key} {sub[key]}" for key in ("rank", "depth") if sub[key] is not None)


def _block(record: dict[str, Any], measured: Measured, found: Found, halves: stats.Halves, margin: float) -> Block:
    """A row for each sub-model: its value, and what is known of its difference from the best."""
    subs, factor, digits, best = measured.submodels, times(measured.metric), _digits(measured), found.best
    pairs = found.pairs

    def signed(value: float) -> str:
        return f"{round(factor * value, digits) + 0.0:+.{digits}f}"  # 0 has no minus

    rows = {
        unit(measured.metric): [f"{factor * value:.{digits}f}" for value in pairs.value],
        "minus best": [signed(value) for value in pairs.difference[:, best]],
        "interval": [
            f"{signed(low)} to {signed(high)}"
            for low, high in zip(pairs.low[:, best], pairs.high[:, best], strict=True)
        ],
        "p": [chance(p) for p in pairs.p[:, best]],
        f"within {margin:g}": [
            "yes" if place in found.within else "no" if found.most[place] < -margin else "?"
            for place in range(len(subs))
        ],
        "best of half": [f"{100 * share:.0f} %" for share in halves.chosen],
        "parameters": [f"{sub['parameters']['trainable']:,}" for sub in subs],
    }
    for column in ("minus best", "interval", "p"):
        rows[column][best] = "-"
    family = [key for key in ("rank", "depth") if any(sub[key] is not None for sub in subs)]
    frame = pd.DataFrame({key: [str(sub[key]) for sub in subs] for key in family} | rows).set_index(family[0])
    return Block(
        f"{record['config']['task']['name']}, {record['config']['model']['name']}, {measured.sums.n} examples: every "
        f"{measured.kind} less {_words(subs[best])}, the best on them, with intervals and p that hold together at "
        f"{100 * (1 - ERROR):.0f} % over all pairs ({RESAMPLES:,} paired resamples), whether it is within {margin:g} "
        "of the best, whichever that is (? where the examples do not tell), how often each was the best of a random "
        "half of the examples, and trained parameters.",
        frame,
    )


def _answer(measured: Measured, found: Found, margin: float) -> str:
    subs, digits, sure = measured.submodels, _digits(measured), f"{100 * (1 - ERROR):.0f} %"
    if measured.undefined:
        return f"No {measured.kind} is named: {measured.metric} is undefined, since {measured.undefined}."
    if not found.within and all(measured.idle):
        one = "one class" if METRICS[base(measured.metric) or ""].kind == "classification" else "one value"
        return f"No {measured.kind} is named: every {measured.kind} answers {one} for every example."
    if not found.within:
        maybe = int((found.most >= 0).sum())
        top = times(measured.metric) * found.pairs.value[found.best]
        needed = _rounded(measured.sums.n * (found.wide / margin) ** 2)
        return (
            f"These {measured.sums.n} examples do not tell which {measured.kind} is within {margin:g} of the best. "
            f"{_words(subs[found.best]).capitalize()} scores best, {top:.{digits}f}; {maybe} of {len(subs)} may be the "
            f"best. Some {needed:,} examples would tell differences of {margin:g}."
        )
    chosen = found.within[0]
    first, least = _words(subs[chosen]).capitalize(), found.least[chosen]
    if least > 0:
        return f"{first}: better than every other {measured.kind}, at {sure}."
    return (
        f"{first}: the smallest {measured.kind} within {margin:g} of the best, whichever that is, at {sure}; at most "
        f"{abs(least):.{digits + 1}f} worse."
    )


def _rounded(n: float) -> int:
    """Up, to two digits."""
    step = 10 ** max(0, math.floor(math.log10(max(n, 1))) - 1)
    return math.ceil(n / step) * step


def _honest(measured: Measured, found: Found, halves: stats.Halves) -> str:
    factor, digits, values = times(measured.metric), _digits(measured), found.pairs.value
    top = values.max() if measured.sums.rises else values.min()
    lost = factor * halves.optimism
    return (
        f"Chosen on one half of the examples and scored on the other ({SPLITS:,} splits), the best {measured.kind} has "
        f"{factor * halves.score:.{digits}f} ± {factor * halves.std:.{digits}f}, {'worse' if lost >= 0 else 'better'} "
        f"by {abs(lost):.{digits}f} than on the half that chose it: the honest figure beside the table's best, "
        f"{factor * top:.{digits}f}."
    )


def _area(measured: Measured, found: Found) -> list[str]:
    if measured.kind != "rank":
        return []
    area = times(measured.metric) * stats.aurac([sub["rank"] for sub in measured.submodels], found.pairs.value)
    return [f"Mean over log2 of the rank (area under the curve): {area:.{_digits(measured)}f}."]


def _export(folder: Path, note: dict[str, Any] | None, measured: Measured, found: Found) -> list[str]:
    """The command that ships the answer; where that was not trained, the smallest within the margin that was.

    Without an answer that of the best on these examples, unless the metric says nothing of it.
    """
    subs = measured.submodels
    within = found.within or ([] if measured.undefined or measured.idle[found.best] else [found.best])
    if not within:
        return ["So there is nothing here to ship."]
    if note is None:
        return [f"{folder} holds no adapter/, so nothing can be exported from here; copy it there, or run it again."]
    ready = [subs[place] for place in within if _trained(note, subs[place])]
    chosen = subs[within[0]]
    lines = []
    if chosen not in ready:
        svd = " (--svd cuts the trained rank down to another adapter than the one measured)"
        lines = [f"{_words(chosen).capitalize()} was measured and not trained, so it cannot be exported as it is"]
        lines[0] += (svd if chosen["rank"] is not None else "") + "."
        lines.append(
            f"The smallest trained one within the margin, {_words(ready[0])}:" if ready else "No trained one is within."
        )
    for sub in ready[:1]:
        options = [word for key in ("rank", "depth") if sub[key] is not None for word in (f"--{key}", str(sub[key]))]
        lines.append(f"    rankbench export {shlex.quote(str(folder))} {' '.join(options)} --to DIR")
    return lines


def _trained(note: dict[str, Any], sub: Submodel) -> bool:
    return all(
        sub[key] is None or sub[key] in note.get(trained, [])
        for key, trained in (("rank", "trained_ranks"), ("depth", "trained_exits"))
    )


def _digits(measured: Measured) -> int:
    return 1 if times(measured.metric) > 1 else 3
