"""Which rank to ship: the smallest that is surely within a margin of the best, from a run's stored predictions."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rankbench.errors import RequestError
from rankbench.records.finished import kept
from rankbench.records.record import load_records, read
from rankbench.settings.metrics import MATCHES, METRICS, times, unit
from rankbench.tables import metric_sums, stats
from rankbench.tables.layout import COMMENT, Block, chance, render

ERROR = 0.05  # the chance, over all differences together, that an interval misses
RESAMPLES = 10_000
SPLITS = 1000

Submodel = dict[str, Any]  # as the record holds it


@dataclass(frozen=True)
class Measured:
    """What one metric says of a run's sub-models, smallest first: what it sums, and for a share what was right."""

    metric: str
    submodels: list[Submodel]
    sums: metric_sums.Sums
    right: metric_sums.Truths | None

    @property
    def kind(self) -> str:
        """What tells these sub-models apart."""
        rank, depth = (any(sub[key] is not None for sub in self.submodels) for key in ("rank", "depth"))
        return "pair" if rank and depth else "exit" if depth else "rank"


def text(made: Sequence[Block], closing: Sequence[str], form: str, width: int | None = None) -> str:
    """What `choose_rank` found, as Markdown, CSV or LaTeX; `width` is that of `layout.as_text`."""
    return "\n".join([render(made, form, width), *(_wrapped(line, COMMENT[form]) for line in closing)]) + "\n"


def choose_rank(folder: Path, metric: str | None = None, margin: float = 0.5) -> tuple[list[Block], list[str]]:
    """The ranks, exits or pairs of a finished run held to the best of them, and lines that name the one to ship.

    That is the smallest (fewest layers, then lowest rank) whose difference from the best has its whole interval above
    -margin, in the units people read: points for shares and correlations, nats for a loss. The intervals hold together
    at 95 % (paired bootstrap, each widened by Bonferroni). That the best was picked on these examples makes its lead
    look larger, so the answer errs towards a larger rank. Raises RequestError when the run is not done, has one
    sub-model, or its predictions are missing or do not give the recorded metric.
    """
    stats.not_worse(0, margin)
    record, note = _run(folder)
    measured = _measured(folder, record, metric)
    subs, sums = measured.submodels, measured.sums
    best = int((sums.whole() * (1 if sums.rises else -1)).argmax())
    found = stats.bootstrap(sums, best, 1 - ERROR / (len(subs) - 1), RESAMPLES)
    halves = stats.split_half(sums, SPLITS)
    worst = times(measured.metric) * (found.low if sums.rises else -found.high)
    within = [int(place) for place in np.flatnonzero(stats.not_worse(worst, margin))]
    block = _block(record, measured, best, found, halves, within, margin)
    closing = [_answer(measured, best, within[0], -worst, margin), _honest(measured, found, halves)]
    return [block], [*closing, *_area(measured, found), *_export(folder, note, subs, within)]


def _wrapped(line: str, mark: str) -> str:
    """A sentence in lines of at most 80 characters; a command, which is indented, in one."""
    return mark + line if line.startswith(" ") else textwrap.fill(line, 80, initial_indent=mark, subsequent_indent=mark)


def _run(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The record, and what adapter/rankbench.json says of what was trained; None where adapter/ was not kept."""
    record = read(folder)
    if record is None or record["status"] != "done" or (folder / "adapter").exists():
        return kept(folder)
    return load_records(folder / "record.json")[0], None


def _measured(folder: Path, record: dict[str, Any], metric: str | None) -> Measured:
    subs = sorted(record["submodels"], key=_place)
    if len(subs) < 2:
        raise RequestError(f"{folder} measured one sub-model alone, so there is nothing to choose from")
    have = list(subs[0]["metrics"])
    chosen = metric or have[0]
    if chosen not in have:
        raise RequestError(f"--metric {chosen}: this run has {', '.join(have)}")
    file = folder / "predictions.parquet"
    again = "copy it there from where the run was done, or run it again with fresh=true"
    if not file.exists():
        raise RequestError(f"{folder} lacks predictions.parquet, which tells noise from difference; {again}")
    try:
        base, columns, references = _columns(pd.read_parquet(file), chosen, [_place(sub) for sub in subs])
    except (LookupError, ValueError, OSError, StopIteration) as error:
        raise RequestError(f"{file} is not of this run, or damaged ({error}); {again}") from error
    if base in MATCHES and base in columns:  # any accepted text counted, of which the file keeps the first alone
        base, columns, references = "accuracy", {"prediction": columns[base]}, np.ones_like(references, dtype=bool)
    sums = metric_sums.sums(base, columns, references)
    if not np.allclose(sums.whole(), [sub["metrics"][chosen] for sub in subs], rtol=1e-6):
        if base in MATCHES:  # who accepts more texts finds more right: the same number means the same answers
            raise RequestError(
                f"--metric {chosen}: these questions accept several texts and this older predictions.parquet keeps the "
                "first, so it does not tell which answers were right; use --metric loss, or repeat it with fresh=true"
            )
        raise RequestError(f"{file} does not give the {chosen} of the record; {again}")
    right = metric_sums.right(base, columns["prediction"], references) if base in metric_sums.SHARES else None
    return Measured(chosen, subs, sums, right)


def _columns(
    frame: pd.DataFrame, metric: str, places: list[tuple[int, int]]
) -> tuple[str, dict[str, npt.NDArray[Any]], npt.NDArray[Any]]:
    """The metric without its split's name, its columns (k, n) in the order of `places`, and the references (n,).

    Raises LookupError or ValueError when the frame does not hold the same examples for each place.
    """
    names = {str(split): f"_{str(split).removeprefix('validation_')}" for split in frame["split"].unique()}
    base = metric
    if len(names) > 1:
        split = next(name for name, suffix in names.items() if metric.removesuffix(suffix) in METRICS)
        base, frame = metric.removesuffix(names[split]), frame[frame["split"] == split]
    if "cut" in frame:  # other ways to cut rank R down, which stand beside the trained ones
        frame = frame[frame["cut"].isna()]
    frame = frame.fillna({"rank": 0, "depth": 0}).sort_values(["depth", "rank", "index"])
    shape = len(places), -1
    answered = (base,) if base in MATCHES and base in frame else metric_sums.needs(base)
    found = {key: frame[key].to_numpy().reshape(shape) for key in ("depth", "rank", "index", "reference", *answered)}
    for key in ("index", "reference"):
        if (found[key] != found[key][0]).any():
            raise ValueError(f"its sub-models differ in {key}")
    if [*zip(found["depth"][:, 0], found["rank"][:, 0], strict=True)] != places:
        raise ValueError("it has other sub-models than the record")
    return base, found, found["reference"][0]


def _place(sub: Submodel) -> tuple[int, int]:
    return sub["depth"] or 0, sub["rank"] or 0


def _words(sub: Submodel) -> str:
    return " at ".join(f"{key} {sub[key]}" for key in ("rank", "depth") if sub[key] is not None)


def _block(
    record: dict[str, Any],
    measured: Measured,
    best: int,
    found: stats.Differences,
    halves: stats.Halves,
    within: list[int],
    margin: float,
) -> Block:
    """A row for each sub-model: its value, and what is known of its difference from the best."""
    subs, factor, digits = measured.submodels, times(measured.metric), _digits(measured)
    p = found.p if measured.right is None else stats.mcnemar(measured.right, measured.right[best])
    others = [place for place in range(len(subs)) if place != best]
    adjusted = dict(zip(others, stats.holm(p[others]), strict=True))
    rows = {
        unit(measured.metric): [f"{factor * value:.{digits}f}" for value in found.value],
        "minus best": [f"{factor * value:+.{digits}f}" for value in found.difference],
        "interval": [
            f"{factor * low:+.{digits}f} to {factor * high:+.{digits}f}"
            for low, high in zip(found.low, found.high, strict=True)
        ],
        "p": [chance(adjusted[place]) if place in adjusted else "-" for place in range(len(subs))],
        f"within {margin:g}": ["yes" if place in within else "no" for place in range(len(subs))],
        "best of half": [f"{100 * share:.0f} %" for share in halves.chosen],
        "parameters": [f"{sub['parameters']['trainable']:,}" for sub in subs],
    }
    rows["minus best"][best] = rows["interval"][best] = "-"
    family = [key for key in ("rank", "depth") if any(sub[key] is not None for sub in subs)]
    frame = pd.DataFrame({key: [str(sub[key]) for sub in subs] for key in family} | rows).set_index(family[0])
    test = "the same resamples" if measured.right is None else "McNemar's exact test"
    return Block(
        f"{record['config']['task']['name']}, {record['config']['model']['name']}, {measured.sums.n} examples: every "
        f"{measured.kind} less the best, {_words(subs[best])}, with intervals that hold together at "
        f"{100 * (1 - ERROR):.0f} % ({RESAMPLES:,} paired resamples, Bonferroni), p by {test} (Holm), how often each "
        "was the best of a random half of the examples, and trained parameters.",
        frame,
    )


def _answer(measured: Measured, best: int, chosen: int, behind: metric_sums.Reals, margin: float) -> str:
    first, last = _words(measured.submodels[chosen]), _words(measured.submodels[best])
    if chosen == best == 0:
        return f"{first.capitalize()}: the best, and the smallest."
    if chosen == best:
        return f"{first.capitalize()}: the best, and no smaller {measured.kind} is surely within {margin:g} of it."
    lag = max(0.0, float(behind[chosen]))
    return (
        f"{first.capitalize()}: the smallest {measured.kind} surely within {margin:g} of the best, {last}; "
        f"at most {lag:.{_digits(measured) + 1}f} worse."
    )


def _honest(measured: Measured, found: stats.Differences, halves: stats.Halves) -> str:
    factor, digits = times(measured.metric), _digits(measured)
    top = found.value.max() if measured.sums.rises else found.value.min()
    return (
        f"Chosen on one half of the examples and scored on the other ({SPLITS:,} splits), the best {measured.kind} has "
        f"{factor * halves.score:.{digits}f} ± {factor * halves.std:.{digits}f}, worse by "
        f"{factor * halves.optimism:.{digits}f} than on the half that chose it: the honest figure beside the "
        f"table's best, {factor * top:.{digits}f}."
    )


def _area(measured: Measured, found: stats.Differences) -> list[str]:
    if measured.kind != "rank":
        return []
    area = times(measured.metric) * stats.aurac([sub["rank"] for sub in measured.submodels], found.value)
    return [f"Mean over log2 of the rank (area under the curve): {area:.{_digits(measured)}f}."]


def _export(folder: Path, note: dict[str, Any] | None, subs: list[Submodel], within: list[int]) -> list[str]:
    """The command that ships the answer; where that was not trained, the smallest within the margin that was."""
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
