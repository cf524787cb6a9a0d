"""Pictures, one function each, for the command line and the notebooks alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by the colour-blind; markers repeat the distinction.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def draw(table: pd.DataFrame, metric: str, title: str) -> Figure | None:
    """The picture that fits the family: a curve over ranks or exits, a heat map over pairs; None where it has neither.

    `table` is `tables.curve_long`'s: columns label, rank, depth, mean, std, n. Of several methods over pairs the first
    is drawn.
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
    """Metric of each pair, depth upwards and rank to the right, its value written in the cell."""
    grid = table.pivot(index="depth", columns="rank", values="mean").sort_index(ascending=False)
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
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, label=metric.replace("_", " "))
    return figure


def curve(table: pd.DataFrame, metric: str, title: str, axis: str = "rank") -> Figure:
    """Metric against rank (or depth), a line a method with a band of one standard deviation over seeds.

    `table` is `tables.curve_long`'s form: columns label, rank, depth, mean, std, n.
    """
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes: Axes = figure.subplots()
    for i, (label, rows) in enumerate(table.groupby("label", sort=False)):
        rows = rows.sort_values(axis)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        seeds = int(rows["n"].max())
        name = f"{label} ({seeds} seeds)" if seeds > 1 else str(label)
        axes.plot(rows[axis], rows["mean"], color=colour, marker=marker, markersize=5, label=name)
        if seeds > 1:
            low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
            axes.fill_between(rows[axis].astype(float), low, high, color=colour, alpha=0.15, linewidth=0)
    ranks = sorted(table[axis].unique())
    if axis == "rank" and len(ranks) > 1 and max(ranks) > 16:
        axes.set_xscale("log", base=2)
        ranks = [r for r in ranks if r & (r - 1) == 0]
    axes.set_xticks(ranks, [str(r) for r in ranks])
    axes.set_xlabel({"rank": "rank b", "depth": "depth d"}[axis])
    axes.set_ylabel(metric.replace("_", " "))
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    bands = "mean; band: one standard deviation over seeds" if table["n"].max() > 1 else None
    axes.legend(fontsize=8, frameon=False, title=bands, title_fontsize=8)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Write the picture; the suffix chooses the format (png, svg)."""
    settings: dict[str, Any] = {"metadata": {"Date": None}} if file.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": "rankbench"}):  # the same records draw the same bytes
        figure.savefig(file, **settings)
