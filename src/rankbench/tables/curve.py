"""Records -> comparison tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from rankbench.records.record import Paths, load_records, load_runs
from rankbench.settings.metrics import times, unit
from rankbench.tables.labels import columns
from rankbench.tables.shown import Shown, first_metric, having, scored


def curve_long(path: Paths, metric: str | None = None) -> pd.DataFrame:
    """Metric against rank over any runs: columns label, metric, rank, depth, mean, std, n (seeds), one row each.

    Without `metric`, each run's own first metric, named in the label where runs differ in it. `std` is the sample
    standard deviation (n - 1) over seeds. Raises RequestError when no finished run has the metric.
    """
    records = taken(load_records(path), metric)
    chosen = shown(records, metric)
    runs = load_runs(path)
    done = runs[(runs["status"] == "done") & (runs["metric"] == runs["run_id"].map(chosen))]
    several = len(set(chosen.values())) > 1
    cut = done["adapter"].str.partition("+")[2]
    names = done["run_id"].map(columns(records)) + cut.where(cut == "", " " + cut)
    names += " " + done["metric"] if several else ""
    places = ["label", "metric", "rank", "depth"]
    of_seed = (
        done.assign(label=names).groupby([*places, "seed"], dropna=False, sort=False)["value"].mean().reset_index()
    )
    grouped = of_seed.groupby(places, dropna=False, sort=False)["value"]  # a training measured twice is one seed
    return grouped.agg(["mean", "std", "count"]).rename(columns={"count": "n"}).reset_index()


def taken(records: list[dict[str, Any]], metric: str | None) -> list[dict[str, Any]]:
    """The runs that a curve is of: those done, with the metric if one is asked for. Raises RequestError for none."""
    return scored(records) if metric is None else having(records, metric)


def shown(records: list[dict[str, Any]], metric: str | None) -> Shown:
    """Of each run the metric asked for, or its first."""
    return {record["run_id"]: metric or first_metric(record) for record in records}


def curve(path: Paths, metric: str | None = None) -> pd.DataFrame:
    """The curve as people read it: a row per rank or exit, a column per method, "mean ± std" over seeds.

    Shares and correlations are times 100, losses and perplexities as they are.

    Where the number of seeds differs, each cell ends in it: "mean ± std (n)". A sub-model that a method did not
    measure shows as "-". Raises RequestError as `curve_long` does.
    """
    long = curve_long(path, metric)
    alike = long["n"].nunique() == 1
    factors = long["metric"].map(times)
    cells = [
        _cell(factor * mean, factor * std, n, 1 if factor > 1 else 3, alike)
        for mean, std, n, factor in zip(long["mean"], long["std"], long["n"], factors, strict=True)
    ]
    long = long.assign(cell=cells)
    long["place"] = [
        tuple(None if pd.isna(n) else int(n) for n in pair) for pair in zip(long["depth"], long["rank"], strict=True)
    ]
    wide = long.pivot(index="place", columns="label", values="cell")
    whole = 10**9  # a whole model comes last
    wide = wide.loc[sorted(wide.index, key=lambda place: tuple(whole if n is None else n for n in place))]
    wide = wide[_in_order(dict.fromkeys(long["label"]))].fillna("-")
    depths, ranks = (any(place[i] is not None for place in wide.index) for i in (0, 1))
    wide = wide.set_axis([_place(depth, rank, depths and ranks) for depth, rank in wide.index], axis="index")
    wide.index.name = "rank x depth" if depths and ranks else "depth" if depths else "rank"
    wide.columns.name = ", ".join(dict.fromkeys(long["metric"]))
    wide.attrs["seeds"] = int(long["n"].iloc[0]) if alike else None
    return wide


def _in_order(names: Iterable[str]) -> list[str]:
    """Methods as they come, one method's ways by their numbers: r=2 before r=16."""
    names = list(names)
    come = {name.split()[0]: place for place, name in reversed(list(enumerate(names)))}

    def parts(name: str) -> list[tuple[float, str]]:
        found = re.split(r"(?<![\w.])(-?\d+(?:\.\d+)?(?:e-?\d+)?)(?![\w.])", name)
        return [(float(part), "") if place % 2 else (math.inf, part) for place, part in enumerate(found)]

    return sorted(names, key=lambda name: (come[name.split()[0]], parts(name)))


def _place(depth: int | None, rank: int | None, pair: bool) -> int | str:
    if pair:
        return f"{'whole' if rank is None else rank} x {'whole' if depth is None else depth}"
    if depth is not None:
        return depth
    return "whole" if rank is None else rank


def caption(table: pd.DataFrame) -> str:
    """What the cells of `curve` are."""
    seeds = table.attrs["seeds"]
    over = {None: "; over seeds: mean ± standard deviation (seeds)", 1: ", one seed"}
    metrics = ", ".join(map(unit, str(table.columns.name).split(", ")))
    return metrics + over.get(seeds, f"; mean ± standard deviation over {seeds} seeds")


def _cell(mean: float, std: float, n: int, digits: int, alike: bool) -> str:
    spread = "" if n == 1 else f" ± {std:.{digits}f}"
    return f"{mean:.{digits}f}{spread}" + ("" if alike else f" ({n})")
