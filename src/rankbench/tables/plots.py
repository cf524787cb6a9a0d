"""Pictures, one function each, for the command line and the notebooks alike."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rankbench.settings.metrics import times, unit
from rankbench.system import markup
from rankbench.tables import hover

# Okabe and Ito's palette, told apart by the colour-blind; markers repeat the distinction.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
LINES = ("-", "--", ":", "-.")
DASHES = ((0, (6, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)), (0, (3, 6)))  # of level lines
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
NAME = 28  # characters of a line in a legend
SIZE = (7.6, 4.0)  # inches, the legend among them
LINE = 0.14  # inches of a line in a legend
AXIS, CHARACTER = 4.8, 0.09  # inches of an axis beside its legend, and of a character below it


def draw(table: pd.DataFrame, metric: str, title: str, lines: Mapping[str, float] | None = None) -> Figure | None:
    """The picture that fits the family: a curve over ranks or exits, a heat map over pairs; None where it has neither.

    `table` is `tables.curve_long`'s: columns label, rank, depth, mean, std, n, in the metric's own unit; every picture
    shows them as people read the metric, a share x 100. Of several methods over pairs the first is drawn. `lines` are
    those of `curve`, where a whole model's score is one too.
    """
    pairs = table.dropna(subset=["rank", "depth"])
    if len(pairs):
        label = pairs["label"].iloc[0]
        return heat_map(pairs[pairs["label"] == label], metric, f"{title}, {label}")
    for axis in ("rank", "depth"):
        if table[axis].notna().any():
            whole = table[["rank", "depth"]].isna().all(axis=1)
            return curve(table[table[axis].notna() | whole], metric, title, axis, lines=lines)
    return None


def heat_map(table: pd.DataFrame, metric: str, title: str) -> Figure:
    """Metric of each pair, depth upwards and rank to the right, its value written in the cell.

    `table` is as in `draw`, of one method.
    """
    grid = _as_read(table, metric).pivot(index="depth", columns="rank", values="mean").sort_index(ascending=False)
    figure = Figure(figsize=(1.6 + 0.62 * grid.shape[1], 1.4 + 0.42 * grid.shape[0]), dpi=150, layout="constrained")
    axes: Axes = figure.subplots()
    values = grid.to_numpy(dtype=float)
    image = axes.imshow(values, cmap="cividis", aspect="auto")
    axes.set_xticks(range(grid.shape[1]), [str(int(rank)) for rank in grid.columns])
    axes.set_yticks(range(grid.shape[0]), [str(int(depth)) for depth in grid.index])
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < middle else "black"
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("rank b")
    axes.set_ylabel("depth d")
    axes.set_title(markup.picture(title), fontsize=9)
    figure.colorbar(image, label=_named(metric))
    return figure


def curve(
    table: pd.DataFrame,
    metric: str,
    title: str,
    axis: str = "rank",
    apart: Sequence[str] = (),
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Metric against log2 of the rank (or depth), a line a method with a band of one standard deviation over seeds.

    `table` is as in `draw`, or has `steps`, those of all trainings, for an axis. Methods in `apart` trained a model for
    each rank: points with error bars on top, and no line between them. A row without the axis is a whole model: a thin
    level line, as are `lines`, scores by their names in the metric's own unit. Where such a line lies far from the
    curves, the legend alone says so.
    """
    table = _as_read(table, metric)
    levels = {_seeds(row["label"], row["n"]): row["mean"] for _, row in table[table[axis].isna()].iterrows()}
    levels |= {name: times(metric) * value for name, value in (lines or {}).items()}
    table = table.dropna(subset=[axis]).astype({axis: int})
    figure, axes = _figure()
    faint = min(0.15, 0.6 / max(1, table["label"].nunique()))
    spreads: set[str] = set()  # how a deviation over seeds is drawn
    for i, (label, rows) in enumerate(table.groupby("label", sort=False)):
        rows = rows.sort_values(axis)
        colour, marker, line = _style(i)
        several = rows["n"] > 1
        name = _legend(_seeds(label, *rows["n"]))
        bars = rows[several]
        if label in apart:
            dots: dict[str, Any] = {"fmt": marker, "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6}
            spread = rows["std"].where(several) if several.any() else None
            drawn = axes.errorbar(
                rows[axis], rows["mean"], spread, color="black", label=name, zorder=5, capsize=3, **dots
            )
            hover.says(drawn.lines[0], _said(rows, axis))
            spreads |= {"bar"} if several.any() else set()
            continue
        (dotted,) = axes.plot(rows[axis], rows["mean"], line, color=colour, marker=marker, markersize=5, label=name)
        hover.says(dotted, _said(rows, axis))
        if several.all():
            low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
            axes.fill_between(rows[axis].astype(float), low, high, color=colour, alpha=faint, linewidth=0)
            spreads.add("band")
        elif several.any():  # a band would narrow to nothing at a point of one seed
            axes.errorbar(bars[axis], bars["mean"], bars["std"], fmt="none", ecolor=colour, capsize=3, zorder=5)
            spreads.add("bar")
    if axis != "depth":
        axes.set_xscale("log", base=2)
    _ticks(axes, [int(place) for place in table[axis].unique()], float if axis == "depth" else math.log2)
    _levels(axes, levels)
    axes.set_xlabel({"rank": "rank b", "depth": "depth d", "steps": "steps of all trainings"}[axis])
    axes.set_ylabel(_named(metric))
    axes.set_title(markup.picture(title), fontsize=10)
    axes.grid(alpha=0.25)
    kinds = " or ".join(sorted(spreads))
    _beside(axes, f"mean; {kinds}: one standard deviation over seeds" if kinds else None)
    return figure


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, dpi=150, layout="constrained")
    return figure, figure.subplots()


def _beside(axes: Axes, title: str | None) -> None:
    """The legend to the right of the axes, over none of the lines; the picture is as tall as it asks for."""
    wrapped = title and textwrap.fill(title, NAME)
    legend = axes.legend(
        fontsize=8,
        frameon=False,
        handlelength=2.6,
        title=wrapped,
        title_fontsize=8,
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
    )
    names = [text.get_text() for text in legend.get_texts()]
    lines = sum(name.count("\n") + 1 for name in [*names, wrapped or ""])
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.set_figheight(max(figure.get_figheight(), LINE * (lines + 0.5 * len(names)) + 0.6))


def _legend(name: str) -> str:
    """A name in as many lines as it takes."""
    hard = "\N{NO-BREAK SPACE}"
    joined = re.sub(r"\([\d to]+ seeds\)$", lambda n: n[0].replace(" ", hard), markup.on_one_line(name))
    lines = textwrap.wrap(joined, NAME) or [name]
    return "\n".join(markup.picture(line.replace(hard, " ")) for line in lines)


def _seeds(label: Any, *counts: float) -> str:
    """A name with the seeds of its points, where some point has several."""
    few, most = int(min(counts)), int(max(counts))
    return f"{label} ({most if few == most else f'{few} to {most}'} seeds)" if most > 1 else str(label)


def _said(rows: pd.DataFrame, axis: str) -> list[str]:
    """What each point says: its method, place and value, with the deviation where there are several seeds."""
    return [
        f"{label}, {axis} {int(place)}: {mean:.4g}" + (f" ± {std:.2g} ({int(n)} seeds)" if n > 1 else "")
        for label, place, mean, std, n in rows[["label", axis, "mean", "std", "n"]].itertuples(index=False)
    ]


def _ticks(axes: Axes, places: list[int], at: Any) -> None:
    """A tick at each place, labelled where there is room: the ends, then 1, 2, 4, 8, then 3, 6, 12, then the others."""
    places = sorted(places)

    def last(place: int) -> tuple[bool, int, int]:
        odd = place // (place & -place)
        return place not in (places[0], places[-1]), min(odd, 5), place

    wide = (at(places[-1]) - at(places[0])) or 1
    kept: list[int] = []
    for place in sorted(places, key=last):
        room = wide * CHARACTER * (len(str(places[-1])) + 1) / AXIS
        if all(abs(at(place) - at(other)) >= room for other in kept):
            kept.append(place)
    axes.set_xticks(sorted(kept), [str(place) for place in sorted(kept)])
    axes.set_xticks(places, minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Thin level lines; those that lie further from the curves than these are high are in the legend alone."""
    axes.autoscale_view()
    low, high = axes.get_ylim()
    near = {name: value for name, value in levels.items() if 2 * low - high <= value <= 2 * high - low}
    for i, (name, value) in enumerate(sorted(levels.items(), key=lambda pair: -pair[1])):
        far = "" if name in near else ", below" if value < low else ", above"
        label = _legend(f"{name}: {value:.4g}{far}")
        drawn = axes.axhline(value, color="0.35", linewidth=0.9, linestyle=DASHES[i % len(DASHES)], label=label)
        hover.says(drawn, [f"{name}: {value:.4g}"])
    ends = [low, high, *near.values()]
    edge = 0.04 * (max(ends) - min(ends))
    axes.set_ylim(min(ends) - edge * (min(ends) < low), max(ends) + edge * (max(ends) > high))


def pareto(table: pd.DataFrame, metric: str, title: str, rises: bool = True) -> Figure:
    """Cost against quality: a point for each method and rank, its trained parameters to the right, metric upwards.

    `table` has the columns label, rank, parameters, mean (in the metric's own unit). The line joins the points that no
    other beats in both.
    """
    table = _as_read(table, metric)
    figure, axes = _figure()
    for i, (label, rows) in enumerate(table.groupby("label", sort=False)):
        colour, marker, _ = _style(i)
        name = _legend(str(label))
        dots = axes.scatter(rows["parameters"], rows["mean"], color=colour, marker=marker, s=28, label=name, zorder=3)
        costs = [f", {round(number):,} parameters" for number in rows["parameters"]]
        points = rows.assign(std=0.0, n=1)
        hover.says(dots, [said + cost for said, cost in zip(_said(points, "rank"), costs, strict=True)])
        ends = rows.iloc[[0, -1]] if len(rows) > 1 else rows
        for _, row in ends.iterrows():
            at = (row["parameters"], row["mean"])
            axes.annotate(f"{row['rank']}", at, textcoords="offset points", xytext=(4, 4), fontsize=7, color=colour)
    best = front(table["parameters"].to_numpy(float), table["mean"].to_numpy(float), rises)
    order = table.iloc[best].sort_values("parameters")
    axes.step(order["parameters"], order["mean"], where="post", color="0.6", linewidth=1, label="not beaten")
    axes.set_xscale("log")
    axes.set_xlabel("trained parameters")
    axes.set_ylabel(_named(metric))
    axes.set_title(markup.picture(title), fontsize=10)
    axes.grid(alpha=0.25)
    _beside(axes, "numbers: the first and last rank")
    return figure


def _style(i: int) -> tuple[str, str, str]:
    """Colour, marker and line of the i-th curve: no two alike, and beyond the colours other lines and markers."""
    again = i // len(COLOURS)
    return COLOURS[i % len(COLOURS)], MARKERS[(i + again) % len(MARKERS)], LINES[again % len(LINES)]


def front(cost: np.ndarray, quality: np.ndarray, rises: bool = True) -> list[int]:
    """The places that no other beats: as cheap and better, or cheaper and as good."""
    gain = quality if rises else -quality
    return [
        i
        for i in range(len(cost))
        if not any(
            cost[j] <= cost[i] and gain[j] >= gain[i] and (cost[j] < cost[i] or gain[j] > gain[i])
            for j in range(len(cost))
        )
    ]


def _as_read(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table with its means and deviations multiplied as in tables; by each row's metric where there are several."""
    factors = table["metric"].map(times) if "metric" in table else times(metric)
    return table.assign(**{key: factors * table[key] for key in ("mean", "std") if key in table})


def _named(metric: str) -> str:
    return markup.picture(", ".join(map(unit, metric.split(", "))).replace("_", " "))


def save(figure: Figure, file: Path) -> None:
    """Write the picture; the suffix chooses the format (png, svg, pdf)."""
    write(figure, file, file.suffix.removeprefix("."))


def write(figure: Figure, to: Path | IO[Any], form: str) -> None:
    """Write the picture to a file or a stream as png, svg or pdf; the same records draw the same bytes.

    In an SVG a point says its values where the pointer rests on it.
    """
    dates = {"svg": "Date", "pdf": "CreationDate"}
    settings: dict[str, Any] = {"metadata": {dates[form]: None}} if form in dates else {}
    drawn = io.StringIO() if form == "svg" else to
    with rc_context({"svg.hashsalt": "rankbench"}):
        figure.savefig(drawn, format=form, **settings)
    if isinstance(drawn, io.StringIO):
        text = hover.titled(drawn.getvalue())
        to.write_text(text, encoding="utf-8") if isinstance(to, Path) else to.write(text)
