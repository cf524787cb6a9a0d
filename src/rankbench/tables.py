"""Records -> comparison tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rankbench.checks import times, unit
from rankbench.config import LATER, VOLATILE
from rankbench.record import Paths, load_records, load_runs
from rankbench.sources import RequestError


def labels(
    records: list[dict[str, Any]], beside: list[dict[str, Any]] | None = None, alike: Sequence[str] = ()
) -> dict[str, str]:
    """A name for each run: its adapter, and as few of the settings that differ as tell the methods apart.

    Runs that differ in the seed alone share a name; task and model are named where there are several. What a run began
    from is looked for among these records and those `beside` them. Settings in `alike` tell no methods apart.
    """
    by_id = {record["run_id"]: record for record in [*(beside or []), *records]}
    flat = {r["run_id"]: _whole(r["config"]) | _content(r) | _start(r, by_id) | dict.fromkeys(alike) for r in records}
    shared = [key for key in ("task.name", "model.name") if len({config[key] for config in flat.values()}) > 1]
    by_adapter: dict[tuple[Any, ...], list[str]] = {}
    for run_id, config in flat.items():
        by_adapter.setdefault((*(config[key] for key in shared), config["adapter.name"]), []).append(run_id)
    named = {}
    for words, runs in by_adapter.items():
        keys = _telling({run: flat[run] for run in runs})
        for run in runs:
            settings = [_setting(key, flat[run].get(key)) for key in keys]
            named[run] = " ".join([*map(str, words), *settings])
    return named


def title(records: list[dict[str, Any]]) -> str:
    """What a picture of these records is of: tasks, models, and the number of scored examples."""
    tasks = sorted(
        {f"{r['config']['task']['name']} ({r['submodels'][0]['n']} examples)" for r in records if r["submodels"]}
    )
    return ", ".join([*tasks, *sorted({r["config"]["model"]["name"] for r in records})])


def curve_long(path: Paths, metric: str | None = None) -> pd.DataFrame:
    """Metric against rank over any runs: columns label, metric, rank, depth, mean, std, n (seeds), one row each.

    Without `metric`, each run's own first metric, named in the label where runs differ in it. `std` is the sample
    standard deviation (n - 1) over seeds. Raises RequestError when no finished run has the metric.
    """
    records = load_records(path)
    runs = load_runs(path)
    done = runs[(runs["status"] == "done") & runs["metric"].notna()]
    if done.empty:
        raise RequestError("none of these runs is done, so there is nothing to compare yet")
    if metric is None:
        done = done[done["metric"] == done.groupby("run_id")["metric"].transform("first")]
    elif metric not in set(done["metric"]):
        raise RequestError(f"--metric {metric}: these runs have {', '.join(dict.fromkeys(done['metric']))}")
    else:
        done = done[done["metric"] == metric]
    several = done["metric"].nunique() > 1
    cut = done["adapter"].str.partition("+")[2]
    names = done["run_id"].map(labels(records)) + cut.where(cut == "", " " + cut)
    names += " " + done["metric"] if several else ""
    grouped = done.assign(label=names).groupby(["label", "metric", "rank", "depth"], dropna=False, sort=False)["value"]
    return grouped.agg(["mean", "std", "count"]).rename(columns={"count": "n"}).reset_index()


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
    wide = wide[list(dict.fromkeys(long["label"]))].fillna("-")
    depths, ranks = (any(place[i] is not None for place in wide.index) for i in (0, 1))
    wide = wide.set_axis([_place(depth, rank, depths and ranks) for depth, rank in wide.index], axis="index")
    wide.index.name = "rank x depth" if depths and ranks else "depth" if depths else "rank"
    wide.columns.name = ", ".join(dict.fromkeys(long["metric"]))
    wide.attrs["seeds"] = int(long["n"].iloc[0]) if alike else None
    return wide


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


def render(table: pd.DataFrame, form: str, width: int | None = None) -> str:
    """The table as Markdown, CSV or LaTeX, ending in a newline.

    With a `width`, in characters, Markdown that is wider goes on in tables below it: the same rows, further columns.
    """
    if width is not None and form == "md":
        return "\n".join(render(part, form) for part in _folded(table, width))
    flat = table.reset_index()
    head = [str(column) for column in flat.columns]
    rows = [[str(value) for value in row] for row in flat.itertuples(index=False)]
    if form == "csv":
        return flat.to_csv(index=False, lineterminator="\n")
    if form == "latex":
        lines = [" & ".join(_latex(c) for c in line) + r" \\" for line in [head, *rows]]
        body = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
        return "\n".join([*body, r"\bottomrule", r"\end{tabular}"]) + "\n"
    widths = _widths(table)
    pad = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, *rows]]
    rule = ["-" * (width - 1) + ":" for width in widths]
    return "\n".join("| " + " | ".join(line) + " |" for line in [pad[0], rule, *pad[1:]]) + "\n"


def _folded(table: pd.DataFrame, width: int) -> list[pd.DataFrame]:
    """The columns in as few tables as are at most `width` characters of Markdown; a wider column stands alone."""
    index, *columns = _widths(table)
    parts: list[list[int]] = []
    left = 0
    for place, size in enumerate(columns):
        needed = size + 3  # a cell takes three characters beside its text, and a line one more
        if not parts or needed > left:
            parts.append([])
            left = width - index - 4
        parts[-1].append(place)
        left -= needed
    return [table.iloc[:, part] for part in parts] or [table]


def _widths(table: pd.DataFrame) -> list[int]:
    """Characters of the index and of each column, its head included."""
    flat = table.reset_index()
    return [max(len(str(cell)) for cell in (name, *flat.iloc[:, place])) for place, name in enumerate(flat.columns)]


def _cell(mean: float, std: float, n: int, digits: int, alike: bool) -> str:
    spread = "" if n == 1 else f" ± {std:.{digits}f}"
    return f"{mean:.{digits}f}{spread}" + ("" if alike else f" ({n})")


def _content(record: dict[str, Any]) -> dict[str, Any]:
    """What a run was trained and scored on, wherever it lay: runs on other data are not seeds of one method."""
    splits = (record.get("data") or {}).get("splits") or {}
    files = "".join(str(split.get("sha256")) for _, split in sorted(splits.items()))
    weights = (record.get("backbone") or {}).get("fingerprint")
    return {"task.data": hashlib.sha256(files.encode()).hexdigest()[:6] if files else None, "model.weights": weights}


def _start(record: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For a run that began from another one: how that was trained, rather than which one of its seeds it was."""
    body = by_id.get(Path(record["config"]["adapter"].get("start_from") or "").name)
    if body is None:
        return {}
    return {"adapter.start_from": "a run"} | {f"start.{key}": value for key, value in _whole(body["config"]).items()}


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, those that came after it at the value that means what was before them."""
    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in LATER.items()} | _flatten(
        config
    )


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _telling(configs: dict[str, dict[str, Any]]) -> list[str]:
    """The fewest keys, training settings given up first, that separate these runs as all keys but the seed do."""

    def groups(keys: list[str]) -> set[tuple[str, ...]]:
        found: dict[tuple[Any, ...], list[str]] = {}
        for run, config in configs.items():
            found.setdefault(tuple(config.get(key) for key in keys), []).append(run)
        return {tuple(runs) for runs in found.values()}

    every = {key for config in configs.values() for key in config if not _silent(key)}
    keys = sorted(key for key in every if len({config.get(key) for config in configs.values()}) > 1)
    target = groups(keys)
    for key in sorted(keys, key=lambda key: (not key.startswith("model."), not key.startswith("train."), key)):
        fewer = [other for other in keys if other != key]
        if groups(fewer) == target:
            keys = fewer
    return keys


def _silent(key: str) -> bool:
    key = key.removeprefix("start.")
    return key in ("seed", "task.data_dir", "model.path") or any(key == v or key.startswith(v + ".") for v in VOLATILE)


def _setting(key: str, value: Any) -> str:
    """`learning_rate=0.001`, but `frozen_grad`: a word tells by itself which setting it is of."""
    if isinstance(value, str) and value.isidentifier():
        return value
    return f"{key.split('.')[-1]}={value:g}" if isinstance(value, float) else f"{key.split('.')[-1]}={value}"


def _latex(text: str) -> str:
    for mark in "_%&#$":
        text = text.replace(mark, "\\" + mark)
    return text.replace("±", r"$\pm$")
