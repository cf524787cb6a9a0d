"""Exits against methods: SFT, SFT with a head for each exit, and sorted fine-tuning side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rankbench.errors import RequestError
from rankbench.records.record import Paths, load_records
from rankbench.settings.metrics import base, rises, times, unit
from rankbench.tables import baselines, labels
from rankbench.tables.comparisons import published
from rankbench.tables.comparisons.ranks import of_one
from rankbench.tables.layout import Block, deviation, frame, spread
from rankbench.tables.shown import by, first_metric, having

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The papers' names of the methods over depth (Sorted LLaMA section 4), in the order of their columns.
DEPTH_METHODS = {"sft": "SFT", "early_exit": "SFT+ICT", "sorted_ft": "SoFT", "sorted_lora": "sorted LoRA"}
ALONE = "fine-tuned alone"


def soft_vs_early_exit(path: Paths, metric: str | None = None) -> list[Block]:
    """Exits against methods: quality, speed, parameters, what training cost, and the paper's figures apart.

    Runs of adapter=sft, early_exit, sorted_ft and sorted_lora (at its largest rank); a run of `model.layers` layers is
    the sub-model that was cut first and fine-tuned by itself. Cells are means, with the sample standard deviation over
    seeds where there are several; "-" where nothing was measured. Raises RequestError when no such run is done, or they
    are of several tasks or models.
    """
    runs = _over_depth(load_records(path))
    chosen, cells = _asked(runs, metric), _cells(runs)
    depths = sorted({depth for depth, _ in cells})
    columns = list(_methods(runs))
    compared = [run for group in _methods(runs).values() for run in group]

    def grid(caption: str, cell: Callable[[list[dict[str, Any]]], str]) -> Block:
        rows = [[cell(cells[depth, name]) if (depth, name) in cells else "-" for name in columns] for depth in depths]
        return Block(
            caption, pd.DataFrame(rows, pd.Index(depths, name="depth"), columns), by(compared, chosen), "method"
        )

    factor = times(chosen)
    record = runs[0]
    what = f"{record['config']['task']['name']}, {record['config']['model']['name']}"
    better = "" if rises(chosen) else ", lower is better"
    one_split = base(chosen) in (chosen, None)  # the record's n counts the rows of all splits
    of = f" of {record['submodels'][0]['n']} examples" if one_split else ""
    blocks = [
        grid(
            f"{what}: {unit(chosen)}{of} at each exit{_over_seeds(cells)}{better}.",
            lambda subs: spread([factor * sub["metrics"][chosen] for sub in subs], 1 if factor > 1 else 3),
        ),
        grid(f"{_speed_unit(runs)}; runs that shared a machine with others are slower.", _speed),
        grid(
            "Millions of parameters of the model cut at that depth.",
            lambda subs: f"{subs[0]['parameters']['total'] / 1e6:#.4g}",
        ),
        _training(_methods(runs), runs),
    ]
    measured = [block for block in blocks if not (block.frame == "-").all(axis=None)]
    return [*measured, *published.sorted_llama()]


def pictures(path: Paths, metric: str | None = None) -> list[Figure]:
    """Exits against methods, with the names of the table; models that were cut first and fine-tuned alone are points.

    Raises RequestError as `soft_vs_early_exit` does.
    """
    from rankbench.tables import plots

    runs = _over_depth(load_records(path))
    chosen = _asked(runs, metric)
    rows = [
        {
            "label": name,
            "rank": None,
            "depth": depth,
            "mean": statistics.mean(values),
            "std": deviation(values),
            "n": len(values),
        }
        for (depth, name), subs in _cells(runs).items()
        for values in [[sub["metrics"][chosen] for sub in subs]]
    ]
    table, order = pd.DataFrame(rows), list(_methods(runs))
    table = table.sort_values("label", key=lambda labels: labels.map(order.index), kind="stable")
    levels = baselines.lines(runs, chosen)
    return [plots.curve(table, chosen, labels.title(runs), "depth", apart=[ALONE], lines=levels)]


def _asked(runs: list[dict[str, Any]], metric: str | None) -> str:
    """The metric that was asked for, or the first. Raises RequestError where a run lacks it."""
    chosen = metric or first_metric(runs[0])
    have = having(runs, chosen)
    lacking = [run["run_id"] for run in runs if run not in have]
    if lacking:
        raise RequestError(f"--metric {chosen}: {lacking[0]} does not have it; leave it out, or score it alike")
    return chosen


def _cells(runs: list[dict[str, Any]]) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """(depth, method) -> the sub-models of its seeds."""
    names = {run["run_id"]: name for name, group in _methods(runs).items() for run in group}
    cells: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for run in runs:
        for sub in _largest_rank(run):
            cells.setdefault((sub["depth"], names[run["run_id"]]), []).append(sub)
    return cells


def _over_depth(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = [r for r in records if r["status"] == "done" and r["submodels"] and r["submodels"][0]["depth"] is not None]
    if not done:
        raise RequestError("none of these runs is done and has exits; train adapter=sft, early_exit and sorted_ft")
    return of_one(done)


def _methods(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each column: a method's, told apart by their settings where it was run in several ways."""
    found: dict[str, list[dict[str, Any]]] = {}
    for adapter, name in DEPTH_METHODS.items():
        own = [run for run in runs if run["config"]["adapter"]["name"] == adapter]
        cut = [run for run in own if run["config"]["model"].get("layers")]
        whole = [run for run in own if run not in cut]
        for run_id, label in labels.labels(whole, runs).items():
            column = " ".join([name, *label.split(" ")[1:]])
            found.setdefault(column, []).extend(run for run in whole if run["run_id"] == run_id)
        if cut:
            found.setdefault(ALONE, []).extend(cut)
    return {name: found[name] for name in sorted(found, key=lambda name: name == ALONE)}


def _largest_rank(run: dict[str, Any]) -> list[dict[str, Any]]:
    largest = max((sub["rank"] or 0) for sub in run["submodels"])
    subs = [sub for sub in run["submodels"] if (sub["rank"] or 0) == largest]
    return subs[-1:] if run["config"]["model"].get("layers") else subs


def _training(methods: dict[str, list[dict[str, Any]]], runs: list[dict[str, Any]]) -> Block:
    """A row a method: its trained examples, seconds and memory; early exits with the run they began from, if given."""
    by_id = {run["run_id"]: run for run in runs}
    rows = {}
    for name, group in methods.items():
        for layers in sorted({run["config"]["model"].get("layers") or 0 for run in group}):
            own = [run for run in group if (run["config"]["model"].get("layers") or 0) == layers]
            chains = [[run, *_began_from(run, by_id)] for run in own]
            rows[f"{name}, {layers} layers" if layers else name] = [
                spread([sum(_examples(run) for run in chain) for chain in chains], 0),
                spread([sum(run["training"]["seconds"] for run in chain) for chain in chains], 0),
                spread([max(run["training"]["peak_memory_bytes"] for run in chain) / 2**30 for chain in chains], 1),
            ]
    head = ["examples", "training seconds", "peak GiB"]
    device = ", ".join(sorted({run["environment"]["device"] for run in runs}))
    return Block(
        f"What training took on {device}; SFT+ICT with the SFT that it began from.", frame(rows, head, "method")
    )


def _began_from(run: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    start = run["config"]["adapter"].get("start_from")
    if start is None:
        return []
    if (body := by_id.get(Path(start).name)) is None:
        raise RequestError(f"{run['run_id']} began from {Path(start).name}, which is not among these runs; give it too")
    return [body]


def _examples(run: dict[str, Any]) -> float:
    return float(run["training"]["examples_per_second"] * run["training"]["seconds"])


def _speed(subs: list[dict[str, Any]]) -> str:
    return spread([_rate(sub) for sub in subs if "generated" not in sub or "tokens_per_second" in sub], 1)


def _rate(sub: dict[str, Any]) -> float:
    return float(sub.get("tokens_per_second") or sub["n"] / sub["eval_seconds"])


def _speed_unit(runs: list[dict[str, Any]]) -> str:
    if runs[0]["config"]["task"].get("prompts"):
        return "Generated tokens a second, one prompt at a time"
    return "Scored examples a second"


def _over_seeds(cells: dict[tuple[int, str], list[Any]]) -> str:
    seeds = {len(subs) for subs in cells.values()}
    if seeds == {1}:
        return ", one seed"
    return f", mean ± standard deviation over {'seeds' if len(seeds) > 1 else f'{seeds.pop()} seeds'}"
