"""Pictures, one function each, for the command line and the notebooks alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankbench.settings.metrics import times, unit
from rankbench.system import markup

# Okabe and Ito's palette, told apart by the colour-blind; markers repeat the distinction.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
LINES = ("-", "--", ":", "-.")
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def draw(table: pd.DataFrame, metric: str, title: str) -> Figure | None:
    """The picture that fits the family: a curve over ranks or exits, a heat map over pairs; None where it has neither.

    `table` is `tables.curve_long`'s: columns label, rank, depth, mean, std, n, in the metric's own unit; every picture
    shows them as people read the metric, a share x 100. Of several methods over pairs the first is drawn.
    """
    pairs = table.dropna(subset=["rank", "depth"])
    if len(pairs):
        label = pairs["label"].iloc[0]
        return heat_map(pairs[pairs["label"] == label], metric, f"{title}, {label}")
    for axis in ("rank", "depth"):
        rows = table.dropna(subset=[axis])
        if len(rows):
            return curve(rows, metric, title, axis)
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


def curve(table: pd.DataFrame, metric: str, title: str, axis: str = "rank", apart: Sequence[str] = ()) -> Figure:
    """Metric against rank (or depth), a line a method with a band of one standard deviation over seeds.

    `table` is as in `draw`. Methods in `apart` trained a model for each rank: points with error bars on top, and no
    line between them.
    """
    table = _as_read(table, metric)
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes: Axes = figure.subplots()
    for i, (label, rows) in enumerate(table.groupby("label", sort=False)):
        rows = rows.sort_values(axis)
        colour, marker, line = _style(i)
        seeds = int(rows["n"].max())
        name = markup.picture(f"{label} ({seeds} seeds)" if seeds > 1 else str(label))
        if label in apart:
            bars = rows["std"].fillna(0) if seeds > 1 else None
            dots: dict[str, Any] = {"fmt": marker, "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6}
            axes.errorbar(rows[axis], rows["mean"], bars, color="black", label=name, zorder=5, capsize=3, **dots)
            continue
        axes.plot(rows[axis], rows["mean"], line, color=colour, marker=marker, markersize=5, label=name)
        if seeds > 1:
            low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
            axes.fill_between(rows[axis].astype(float), low, high, color=colour, alpha=0.15, linewidth=0)
    ranks = sorted(table[axis].unique())
    if axis == "rank" and len(ranks) > 1 and max(ranks) > 16:
        axes.set_xscale("log", base=2)
        ranks = [r for r in ranks if r & (r - 1) == 0]
    axes.set_xticks(ranks, [str(r) for r in ranks])
    axes.set_xlabel({"rank": "rank b", "depth": "depth d"}[axis])
    axes.set_ylabel(_named(metric))
    axes.set_title(markup.picture(title), fontsize=10)
    axes.grid(alpha=0.25)
    bands = "mean; band: one standard deviation over seeds" if table["n"].max() > 1 else None
    axes.legend(fontsize=8, frameon=False, title=bands, title_fontsize=8)
    return figure


def pareto(table: pd.DataFrame, metric: str, title: str, rises: bool = True) -> Figure:
    """Cost against quality: a point for each method and rank, its trained parameters to the right, metric upwards.

    `table` has the columns label, rank, parameters, mean (in the metric's own unit). The line joins the points that no
    other beats in both.
    """
    table = _as_read(table, metric)
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes: Axes = figure.subplots()
    for i, (label, rows) in enumerate(table.groupby("label", sort=False)):
        colour, marker, _ = _style(i)
        name = markup.picture(str(label))
        axes.scatter(rows["parameters"], rows["mean"], color=colour, marker=marker, s=28, label=name, zorder=3)
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
    axes.legend(fontsize=8, frameon=False, title="numbers: the first and last rank", title_fontsize=8)
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


def write(figure: Figure, to: Path | IO[str], form: str) -> None:
    """Write the picture to a file or a stream as png, svg or pdf; the same records draw the same bytes."""
    dates = {"svg": "Date", "pdf": "CreationDate"}
    settings: dict[str, Any] = {"metadata": {dates[form]: None}} if form in dates else {}
    with rc_context({"svg.hashsalt": "rankbench"}):
        figure.savefig(to, format=form, **settings)
