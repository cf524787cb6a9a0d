"""Records -> comparison tables."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from rankbench.config import VOLATILE
from rankbench.record import Paths, load_records, load_runs
from rankbench.sources import RequestError

FORMATS = ("md", "csv", "latex")


def labels(records: list[dict[str, Any]]) -> dict[str, str]:
    """A name for each run: its adapter, and the settings in which runs of that adapter differ, seed aside."""
    flat = {record["run_id"]: _flatten(record["config"]) for record in records}
    by_adapter: dict[str, list[str]] = {}
    for run_id, config in flat.items():
        by_adapter.setdefault(config["adapter.name"], []).append(run_id)
    shared = {key for key in ("task.name", "model.name") if len({c[key] for c in flat.values()}) > 1}
    named = {}
    for adapter, runs in by_adapter.items():
        keys = sorted({key for run in runs for key in flat[run] if len({flat[r].get(key) for r in runs}) > 1})
        keys = [key for key in keys if key not in shared and not _silent(key)]
        # Settings that follow from another one that already tells the runs apart are noise: model.* beside model.name.
        keys = [key for key in keys if not any(key.startswith(name.split(".")[0] + ".") for name in shared)]
        for run in runs:
            parts = [flat[run][key] for key in sorted(shared)] + [adapter]
            parts += [f"{key.split('.')[-1]}={_word(flat[run].get(key))}" for key in keys]
            named[run] = " ".join(map(str, parts))
    return named


def curve_long(path: Paths, metric: str | None = None) -> pd.DataFrame:
    """Metric against rank over any runs: columns label, metric, rank, depth, mean, std, n (seeds), one row each.

    Without `metric`, the first of the records' metrics. `std` is the sample standard deviation (n - 1) over seeds.
    Raises RequestError when no finished run has that metric.
    """
    records = load_records(path)
    runs = load_runs(path)
    done = runs[(runs["status"] == "done") & runs["metric"].notna()]
    if done.empty:
        raise RequestError("none of these runs is done, so there is nothing to compare yet")
    known = list(dict.fromkeys(done["metric"]))
    metric = metric or known[0]
    if metric not in known:
        raise RequestError(f"--metric {metric}: these runs have {', '.join(known)}")
    done = done[done["metric"] == metric].assign(label=done["run_id"].map(labels(records)))
    grouped = done.groupby(["label", "metric", "rank", "depth"], dropna=False, sort=False)["value"]
    return grouped.agg(["mean", "std", "count"]).rename(columns={"count": "n"}).reset_index()


def curve(path: Paths, metric: str | None = None) -> pd.DataFrame:
    """The curve as people read it: a row per rank, a column per method, "mean ± std (n)" over seeds, times 100.

    A sub-model that a method did not measure shows as "-". Raises RequestError as `curve_long` does.
    """
    long = curve_long(path, metric)
    long = long.assign(cell=[_cell(*values) for values in zip(long["mean"], long["std"], long["n"], strict=True)])
    long["place"] = ["whole" if pd.isna(rank) else int(rank) for rank in long["rank"]]
    wide = long.pivot(index="place", columns="label", values="cell")
    wide = wide.loc[sorted(wide.index, key=lambda p: (p == "whole", p if p != "whole" else 0))]
    wide = wide[list(dict.fromkeys(long["label"]))].fillna("-")
    wide.index.name, wide.columns.name = "rank", str(long["metric"].iloc[0])
    return wide


def render(table: pd.DataFrame, form: str) -> str:
    """The table as Markdown, CSV or LaTeX, ending in a newline."""
    flat = table.reset_index()
    head = [str(column) for column in flat.columns]
    rows = [[str(value) for value in row] for row in flat.itertuples(index=False)]
    if form == "csv":
        return flat.to_csv(index=False, lineterminator="\n")
    if form == "latex":
        lines = [" & ".join(_latex(c) for c in line) + r" \\" for line in [head, *rows]]
        body = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
        return "\n".join([*body, r"\bottomrule", r"\end{tabular}"]) + "\n"
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    pad = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, *rows]]
    rule = ["-" * (width - 1) + ":" for width in widths]
    return "\n".join("| " + " | ".join(line) + " |" for line in [pad[0], rule, *pad[1:]]) + "\n"


def _cell(mean: float, std: float, n: int) -> str:
    return f"{100 * mean:.1f}" if n == 1 else f"{100 * mean:.1f} ± {100 * std:.1f} ({n})"


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _silent(key: str) -> bool:
    return key in ("seed", "task.data_dir", "model.path") or any(key == v or key.startswith(v + ".") for v in VOLATILE)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _latex(text: str) -> str:
    for mark in ("\\", "_", "%", "&", "#", "$"):
        text = text.replace(mark, "\\" + mark) if mark != "\\" else text
    return text.replace("±", r"$\pm$")
