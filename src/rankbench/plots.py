"""Pictures, one function each, for the command line and the notebooks alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by the colour-blind; markers repeat the distinction.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def curve(table: pd.DataFrame, metric: str, title: str) -> Figure:
    """Metric against rank, a line a method with a band of one standard deviation over seeds.

    `table` is `tables.curve`'s long form: columns label, rank, mean, std, n.
    """
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes: Axes = figure.subplots()
    for i, (label, rows) in enumerate(table.groupby("label", sort=False)):
        rows = rows.sort_values("rank")
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        seeds = int(rows["n"].max())
        name = f"{label} ({seeds} seeds)" if seeds > 1 else str(label)
        axes.plot(rows["rank"], rows["mean"], color=colour, marker=marker, markersize=5, label=name)
        if seeds > 1:
            low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
            axes.fill_between(rows["rank"].astype(float), low, high, color=colour, alpha=0.15, linewidth=0)
    ranks = sorted(table["rank"].unique())
    if len(ranks) > 1 and max(ranks) > 16:
        axes.set_xscale("log", base=2)
        ranks = [r for r in ranks if r & (r - 1) == 0]
    axes.set_xticks(ranks, [str(r) for r in ranks])
    axes.set_xlabel("rank b")
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
