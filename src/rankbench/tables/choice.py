"""Which rank to ship: the smallest within a margin of the best, as far as stored predictions and seeds tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rankbench.errors import RequestError
from rankbench.records.finished import kept
from rankbench.records.record import Paths, places, read, records_by_folder
from rankbench.settings.metrics import METRICS, base, times, unit
from rankbench.tables import closing, costs, exporting, metric_sums, reported, shown, stats
from rankbench.tables.layout import Block, chance, render, said
from rankbench.tables.measured import Measured, Member, Runs, measure

ERROR = 0.05  # the chance that an interval misses, over all pairs together
MADE = 0.04  # the chance that they are made for: with few examples up to one in a hundred more misses
RESAMPLES = 10_000
SPLITS = 1000


def text(made: Sequence[Block], closing: Sequence[str], form: str, width: int | None = None) -> str:
    """What `choose_rank` found, as Markdown, CSV or LaTeX; `width` is that of `layout.as_text`."""
    return "\n".join([render(made, form, width), *(said(line, form) for line in closing)]) + "\n"


@dataclass(frozen=True)
class Chosen:
    """An answer: the table, which sub-model to ship, what must be said beside it, and the lines that ship it.

    `member` is the one named, or the best where none is.
    """

    blocks: list[Block]
    answer: list[str]
    told: list[str]
    ship: list[str]
    runs: Runs
    measured: Measured
    member: Member

    @property
    def lines(self) -> list[str]:
        """All that is said below the table."""
        return [*self.answer, *self.told, *self.ship]


def choose_rank(paths: Paths, metric: str | None = None, margin: float = 0.5) -> tuple[list[Block], list[str]]:
    """The table of `chosen`, and all of its lines."""
    made = chosen(paths, metric, margin)
    return made.blocks, made.lines


def chosen(paths: Paths, metric: str | None = None, margin: float = 0.5) -> Chosen:
    """The sub-models of finished runs held to the best of them, and lines that name the one to ship.

    They are ranks, exits and pairs, of any methods that were scored on the same examples, cuts of a LoRA among them.
    Named is the smallest (of the model, then of what was trained) that lies within `margin` of the best, whichever is
    the best, in the units people read: points for shares and correlations, nats for a loss. All intervals hold together
    at 95 % over all pairs (`stats.all_pairs`), so this holds though the best was picked on these examples; where
    a method has several seeds, over seeds too. Where the data do not tell, that is said, with the margin that they do
    tell. Raises RequestError when no run is done, there is one sub-model, predictions are missing or do not give the
    recorded metric, and where runs were scored on other examples.
    """
    if not 0 < margin < np.inf:
        raise RequestError(f"--margin {margin:g}: no interval lies within that; give one above 0, such as 0.5")
    given, runs, of = measured(paths, metric)
    found, halves = Found.of(of, margin), stats.split_half(of.sums, SPLITS)
    told = [] if of.undefined else [_honest(of, found, halves), *_area(of, found)]
    by = shown.by(list(runs.values()), of.metric)
    return Chosen(
        [_block(runs, of, found, halves, margin)],
        [_answer(of, found, margin), *(_of_named(of, found.within[0]) if found.within else [])],
        [*told, *closing.lines(list(given.values()), by)],
        exporting.lines(paths, of, found.within, found.told),
        runs,
        of,
        of.members[found.within[0] if found.within else found.best],
    )


def measured(paths: Paths, metric: str | None) -> tuple[Runs, Runs, Measured]:
    """The runs in these places, those of them that have the metric, and what it says of them.

    Raises RequestError where they cannot be held against each other, as `choose_rank` says.
    """
    given = _given(paths)
    done = shown.scored(list(given.values()))
    metric = metric or shown.first_metric(done[0])
    having = shown.having(done, metric) if len(done) > 1 else done
    runs = {folder: record for folder, record in given.items() if record in having}
    return given, runs, measure(runs, metric)


def _given(paths: Paths) -> Runs:
    """The runs in these places by folder. Raises RequestError for none, and where they are of several tasks."""
    given = places(paths)
    if len(given) == 1 and (given[0] / "record.json").exists():
        folder = given[0]
        record = read(folder)
        if record is None or record["status"] != "done" or (folder / "adapter").exists():
            return {folder: kept(folder)[0]}
    found = records_by_folder(given)
    tasks = dict.fromkeys(str(record["config"]["task"]["name"]) for record in found.values())
    if len(tasks) > 1:
        raise RequestError(f"these runs are of several tasks ({', '.join(tasks)}); keep one by --task")
    return found


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
    told: tuple[float, int] | None  # the least margin, in tenths of a digit, within which one surely is, and which

    @classmethod
    def of(cls, measured: Measured, margin: float, resamples: int = RESAMPLES) -> Found:
        """All of it, from the predictions."""
        sums, factor = measured.sums, times(measured.metric)
        pairs = stats.all_pairs(sums, 1 - MADE, resamples, trainings=measured.trainings)
        low, high = (pairs.low, pairs.high) if sums.rises else (-pairs.high, -pairs.low)
        others = ~np.eye(len(low), dtype=bool)
        least = factor * np.where(others, low, np.inf).min(1)
        most = factor * np.where(others, high, np.inf).min(1)
        best = int((pairs.value * (1 if sums.rises else -1)).argmax())
        answering = ~np.array(measured.idle) & (measured.undefined is None)
        within = [int(i) for i in np.flatnonzero((least > -margin) & answering)]
        asked = np.delete((pairs.high - pairs.difference)[best], best)[np.delete(most >= -margin, best)]
        wide = factor * float(asked.max(initial=0))
        return cls(pairs, best, least, most, within, wide, _decided(least, answering, 1 if factor > 1 else 3))


def _decided(least: metric_sums.Reals, answering: metric_sums.Truths, digits: int) -> tuple[float, int] | None:
    """The least margin of so many digits within which a sub-model surely lies, and the smallest that does."""
    if not answering.any():
        return None
    step = 10.0**-digits
    margin = round((math.floor(max(0.0, -least[answering].max()) / step) + 1) * step, digits)
    return margin, int(np.flatnonzero((least > -margin) & answering)[0])


def _block(runs: Runs, measured: Measured, found: Found, halves: stats.Halves, margin: float) -> Block:
    """A row for each sub-model: its value, and what is known of its difference from the best."""
    members, factor, digits, best = measured.members, times(measured.metric), _digits(measured), found.best
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
            for place in range(len(members))
        ],
        "best of half": [f"{100 * share:.0f} %" for share in halves.chosen],
        "parameters": [f"{member.sub['parameters']['trainable']:,}" for member in members],
    }
    for column in ("minus best", "interval", "p"):
        rows[column][best] = "-"
    if measured.kind == "candidate":
        family = {"candidate": [str(member) for member in members]}
    else:
        keys = [key for key in ("rank", "depth") if any(member.sub[key] is not None for member in members)]
        family = {key: [str(member.sub[key]) for member in members] for key in keys}
    frame = pd.DataFrame(family | rows).set_index(next(iter(family)))
    record = next(iter(runs.values()))
    models = ", ".join(dict.fromkeys(other["config"]["model"]["name"] for other in runs.values()))
    return Block(
        f"{record['config']['task']['name']}, {models}, {measured.sums.n} examples"
        f"{_over(measured)}: every {measured.kind} less {members[best]}, the best on them, with intervals and p that "
        f"hold together at {100 * (1 - ERROR):.0f} % over all pairs ({RESAMPLES:,} paired resamples"
        f"{' of examples and seeds' if measured.trainings else ''}), whether it is within {margin:g} of the best, "
        "whichever that is (? where the examples do not tell), how often each was the best of a random half of the "
        "examples, and trained parameters.",
        frame,
        shown.by(list(runs.values()), measured.metric),
    )


def _over(measured: Measured) -> str:
    """How many seeds a value is the mean of."""
    seeds = sorted({len(member.trained) for member in measured.members})
    if seeds == [1]:
        return ""
    return f", the mean of {seeds[0]} seeds" if len(seeds) == 1 else f", the mean of {seeds[0]} to {seeds[-1]} seeds"


def _answer(measured: Measured, found: Found, margin: float) -> str:
    members, digits, sure = measured.members, _digits(measured), f"{100 * (1 - ERROR):.0f} %"
    if measured.undefined:
        return f"No {measured.kind} is named: {measured.metric} is undefined, since {measured.undefined}."
    if not found.within and found.told is None:
        of = METRICS[base(measured.metric) or ""]
        one = "class" if of.kind == "classification" else "value"
        does = "scores 0 on every example" if of.of_texts else f"answers one {one} for every example"
        return f"No {measured.kind} is named: every {measured.kind} {does}."
    if not found.within and found.told is not None:
        maybe = int((found.most >= 0).sum())
        top = times(measured.metric) * found.pairs.value[found.best]
        return (
            f"These {measured.sums.n} examples do not tell which {measured.kind} is within {margin:g} of the best. "
            f"{members[found.best].begun} scores best, {top:.{digits}f}; {maybe} of {len(members)} may be the best. "
            f"{_more(measured, found, margin)} A margin of {found.told[0]:g} these {measured.sums.n} can tell: it "
            f"would be {members[found.told[1]]}."
        )
    chosen = found.within[0]
    first, least = members[chosen].begun, found.least[chosen]
    if least > 0:
        return f"{first}: better than every other {measured.kind}, at {sure}."
    return (
        f"{first}: the smallest {measured.kind} within {margin:g} of the best, whichever that is, at {sure}; at most "
        f"{abs(least):.{digits + 1}f} worse."
    )


def _of_named(measured: Measured, place: int) -> list[str]:
    """What the sub-model that is named costs, and what test splits say of it."""
    return [*reported.lines(measured, place), costs.line(measured.members[place])]


def _more(measured: Measured, found: Found, margin: float) -> str:
    """What would tell differences of the margin: more examples, and where seeds differ more seeds."""
    needed = _rounded(measured.sums.n * (found.wide / margin) ** 2)
    also = ", and the more seeds the better" if measured.trainings else ""
    return f"Some {needed:,} examples would tell differences of {margin:g}{also}."


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
    area = times(measured.metric) * stats.aurac([member.rank or 0 for member in measured.members], found.pairs.value)
    return [f"Mean over log2 of the rank (area under the curve): {area:.{_digits(measured)}f}."]


def _digits(measured: Measured) -> int:
    return 1 if times(measured.metric) > 1 else 3
