"""Comparisons over ranks: the search against one nested run, the papers' ablations, GLUE, and a leaderboard."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from rankbench.errors import RequestError
from rankbench.records.record import Paths, load_records
from rankbench.settings.methods import DYLORA
from rankbench.settings.metrics import rises, times, unit
from rankbench.tables import baselines, labels
from rankbench.tables.comparisons import published
from rankbench.tables.comparisons.bests import areas, bests, metric_name, spread_of
from rankbench.tables.comparisons.curves import Curve, Curves, curves, ranks_of, shared_ranks
from rankbench.tables.comparisons.paired import paired
from rankbench.tables.labels import SEARCH
from rankbench.tables.layout import Block, deviation, frame, spread
from rankbench.tables.shown import by, first_metric, having, scored

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GLUE = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")  # DyLoRA's Table 2, in its order
GLUE_METRIC = {"mrpc": "f1", "qqp": "accuracy"}  # what the paper averages where a task has several


def pictures(path: Paths, metric: str | None = None) -> list[Figure]:
    """The curves of one task's runs, the search as points on top, and what each rank costs against what it scores."""
    from rankbench.tables import plots

    records, metric = _asked(of_one(load_records(path)), metric)
    rows = [
        {
            "label": name,
            "rank": rank,
            "depth": None,
            "mean": statistics.mean(values),
            "std": deviation(values),
            "n": len(values),
            "parameters": statistics.mean(c.trainable[rank] for c in seeds.values() if rank in c.values),
        }
        for name, seeds in curves(records, metric).items()
        for rank in sorted({r for c in seeds.values() for r in c.values}, key=_last)
        for values in [[c.values[rank] for c in seeds.values() if rank in c.values]]
    ]
    if all(row["rank"] is None for row in rows):
        return []
    table, named = pd.DataFrame(rows).astype({"rank": "Int64"}), labels.title(records)
    searched = sorted(label for label in table["label"].unique() if label.startswith(SEARCH))
    return [
        plots.curve(table, metric, named, apart=searched, lines=baselines.lines(records, metric)),
        plots.pareto(table.dropna(subset=["rank"]), metric, named, rises(metric)),
    ]


def lora_search_vs_dylora(path: Paths, metric: str | None = None, margin: float = 0.5) -> list[Block]:
    """The search over LoRA ranks against one nested run and the cuts of one LoRA: curve, best, cost, and tests by seed.

    Each "best" and area is over the same ranks, those that the search and every nested run have, and the search pays
    for these. `margin`, in points or nats, is the difference that counts as none. Raises RequestError when the runs are
    of several tasks or models, or none is done.
    """
    records, metric = _asked(of_one(load_records(path)), metric)
    found = curves(records, metric)
    ranks = shared_ranks(found)
    nested = sorted(name for name in found if name.startswith(DYLORA))  # plain DyLoRA first
    what = f"{records[0]['config']['task']['name']}, {records[0]['config']['model']['name']}"
    return [
        Block(
            f"{what}: {unit(metric)} at each rank{_over(found)}.",
            _whole_curve(found, metric),
            by(records, metric),
            "method",
        ),
        bests(found, metric, ranks, nested),
        *paired(found, metric, ranks, margin),
        *published.dylora("5", "seconds"),
    ]


def qdylora_vs_qlora(path: Paths, metric: str | None = None, margin: float = 0.5) -> list[Block]:
    """One QDyLoRA against a QLoRA for each rank, as `lora_search_vs_dylora` has it."""
    made = lora_search_vs_dylora(path, metric, margin)
    return [block for block in made if not block.caption.startswith(published.NOT_OURS)] + published.qdylora()


def _whole_curve(found: Curves, metric: str) -> pd.DataFrame:
    ranks = sorted({rank for seeds in found.values() for curve in seeds.values() for rank in curve.values}, key=_last)
    most = max(len(seeds) for seeds in found.values())
    rows = {
        "whole" if rank is None else str(rank): [
            spread_of([times(metric) * c.values[rank] for c in seeds.values() if rank in c.values], metric, most)
            for seeds in found.values()
        ]
        for rank in ranks
    }
    return frame(rows, list(found), "rank")


def distribution(path: Paths, metric: str | None = None) -> list[Block]:
    """Rank distributions and updates of DyLoRA beside each other (DyLoRA Table 4)."""
    return [*_ablation(path, metric), *published.dylora("4")]


def loss(path: Paths, metric: str | None = None) -> list[Block]:
    """A drawn rank against all ranks in every step (DyLoRA Table 7)."""
    return [*_ablation(path, metric), *published.dylora("7")]


def _ablation(path: Paths, metric: str | None) -> list[Block]:
    records = [r for r in of_one(load_records(path)) if r["config"]["adapter"]["name"] in DYLORA]
    if not records:
        raise RequestError("none of these runs is of adapter=dylora; give the runs of the sweep")
    records, metric = _asked(records, metric)
    found = curves(records, metric)
    seconds = {name: [spread([c.seconds for c in seeds.values()], 0), f"{len(seeds)}"] for name, seeds in found.items()}
    what = f"{records[0]['config']['task']['name']}, {records[0]['config']['model']['name']}"
    return [
        Block(
            f"{what}: {unit(metric)} at each rank{_over(found)}.",
            _whole_curve(found, metric),
            by(records, metric),
            "method",
        ),
        Block("What a training took.", frame(seconds, ["seconds", "seeds"], "method")),
    ]


def glue(path: Paths, metric: str | None = None) -> list[Block]:
    """Tasks beside each other, a block a method and a row a rank (DyLoRA Table 2); tasks without runs show as "-".

    The first block has the area under each curve. The average is over the tasks that every row of the block has, and
    says of how many.
    """
    by_task: dict[str, list[dict[str, Any]]] = {}
    records = load_records(path)
    done = scored(records) if metric is None else having(records, metric)
    for record in done:
        by_task.setdefault(record["config"]["task"]["name"], []).append(record)
    models = sorted({record["config"]["model"]["name"] for record in done})
    given = dict.fromkeys(record["config"]["task"]["name"] for record in records)
    tasks = [*(task for task in GLUE if task in given), *(task for task in given if task not in GLUE)]
    by_method: dict[str, dict[str, dict[int, Curve]]] = {}
    metrics: dict[str, str] = {}
    shown: dict[str, str] = {}
    for task in (task for task in tasks if task in by_task):
        own, metrics[task] = _asked(by_task[task], metric or _of_paper(task, by_task[task]))
        shown |= by(own, metrics[task])
        for model in models:
            of_model = [record for record in own if record["config"]["model"]["name"] == model]
            for name, seeds in curves(of_model, metrics[task]).items():
                by_method.setdefault(name if len(models) == 1 else f"{model} {name}", {})[task] = seeds
    used = ", ".join(f"{task} {unit(metrics[task])}" for task in tasks if task in metrics)
    over = {task: shared_ranks({name: of[task] for name, of in by_method.items() if task in of}) for task in metrics}
    table = {
        name: [_area(of_task.get(task, {}), over.get(task, []), metrics.get(task)) for task in tasks]
        for name, of_task in by_method.items()
    }
    said = [f"{task} over {', '.join(map(str, ranks))}" for task, ranks in over.items() if len(ranks) > 1]
    caption = f"AURAC, the mean of each curve over log2 rank: {used}. Ranks: {'; '.join(said) or 'none shared'}."
    blocks = [Block(caption, frame(table, tasks, "method"), shown)]
    for name, of_task in by_method.items():
        ranks = sorted({r for seeds in of_task.values() for c in seeds.values() for r in c.values}, key=_last)
        alike = len({(times(metrics[task]), rises(metrics[task])) for task in of_task}) == 1
        rows = {
            "whole" if rank is None else str(rank): _glue_row(of_task, tasks, metrics, rank, alike) for rank in ranks
        }
        head = [*tasks, *([f"average of {len(of_task)}"] if alike else [])]
        blocks.append(Block(f"{name}: {used}{_over(of_task)}.", frame(rows, head, "rank")))
    return [*blocks, *published.dylora("2", "2 best")]


def _of_paper(task: str, records: Sequence[dict[str, Any]]) -> str | None:
    """The metric that the paper averages, where one of these runs has it."""
    wanted = GLUE_METRIC.get(task)
    return wanted if any(wanted in record["submodels"][0]["metrics"] for record in records) else None


def _glue_row(
    of_task: dict[str, dict[int, Curve]], tasks: Sequence[str], metrics: dict[str, str], rank: int | None, alike: bool
) -> list[str]:
    """The values at a rank, and their average where the metrics are `alike`, of one unit and direction."""
    means, cells = [], []
    most = max(map(len, of_task.values()))
    for task in tasks:
        values = [c.values[rank] for c in of_task.get(task, {}).values() if rank in c.values]
        cells.append(spread_of([times(metrics[task]) * v for v in values], metrics[task], most) if values else "-")
        means += [times(metrics[task]) * statistics.mean(values)] if values else []
    if alike:
        whole = [statistics.mean(means)] if len(means) == len(of_task) else []
        cells.append(spread_of(whole, metrics[next(iter(of_task))]))
    return cells


def _area(seeds: dict[int, Curve], ranks: list[int], metric: str | None) -> str:
    """The area under the curve over seeds, of those that measured all of these ranks."""
    found = [times(metric or "") * area for area in areas(list(seeds.values()), ranks)]
    return spread_of(found, metric, len(seeds)) if found and metric else "-"


def flop(path: Paths, metric: str | None = None) -> list[Block]:
    """Pruned ranks against nested ones, with what trains and what the whole model holds (DyLoRA Table 3).

    The two counts answer different questions: a LoRA trains little beside a frozen model, FLOP makes the model smaller.
    """
    records, metric = _asked(of_one(load_records(path)), metric)
    rows = {}
    for name, seeds in curves(records, metric).items():
        for rank in sorted({rank for curve in seeds.values() for rank in curve.values}, key=_last):
            own = [curve for curve in seeds.values() if rank in curve.values]
            rows[name if rank is None else f"{name}, rank {rank}"] = [
                spread_of([times(metric) * curve.values[rank] for curve in own], metric),
                f"{statistics.mean(curve.trainable[rank] for curve in own) / 1e6:.3f}",
                f"{statistics.mean(curve.total[rank] for curve in own) / 1e6:.2f}",
                spread([curve.took([rank] if rank else []) for curve in own], 0),
            ]
    what = f"{records[0]['config']['task']['name']}, {records[0]['config']['model']['name']}"
    head = [metric.replace("_", " "), "trained, millions", "whole, millions", "seconds"]
    ours = Block(f"{what}: {unit(metric)}.", frame(rows, head, "method"), by(records, metric))
    return [ours, *published.dylora("3")]


def leaderboard(path: Paths, metric: str | None = None) -> list[Block]:
    """Every method of every task at its largest rank, best first: value, area under its curve, parameters, seconds.

    Without `metric`, runs of one task that are scored by different ones stand in blocks of their own.
    """
    alike: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    records = load_records(path)
    for record in scored(records) if metric is None else having(records, metric):
        config = record["config"]
        chosen = metric or first_metric(record)
        alike.setdefault((config["task"]["name"], config["model"]["name"], chosen), []).append(record)
    blocks = []
    for (task, model, chosen), records in sorted(alike.items()):
        lines = []
        for name, seeds in curves(records, chosen).items():
            top = max((rank for c in seeds.values() for rank in c.values), key=_last)
            ends = [c for c in seeds.values() if top in c.values]
            value = [times(chosen) * c.values[top] for c in ends]
            area = [times(chosen) * one for one in areas(list(seeds.values()), ranks_of(seeds))]
            cells = [
                *(
                    "whole" if top is None else str(top),
                    spread_of(value, chosen),
                    spread_of(area, chosen, len(ends)),
                    str(len(ends)),
                ),
                f"{statistics.mean(c.trainable[top] for c in ends):,.0f}",
                spread([c.seconds for c in ends], 0),
            ]
            lines.append((statistics.mean(value) * (-1 if rises(chosen) else 1), name, cells))
        rows = {name: cells for _, name, cells in sorted(lines)}
        head = ["rank", metric_name(chosen), "AURAC", "seeds", "trained", "seconds"]
        caption = f"{task}, {model}: {unit(chosen)}, best first; AURAC is over the ranks that each method measured."
        blocks.append(Block(caption, frame(rows, head, "method"), by(records, chosen)))
    return blocks


def of_one(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The done runs among these. Raises RequestError where there are none, or they are of several tasks or models."""
    done = scored(records)
    for key in ("task", "model"):
        names = sorted({record["config"][key]["name"] for record in done})
        if len(names) > 1:
            raise RequestError(f"these runs are of several {key}s ({', '.join(names)}); give the runs of one")
    return done


def _asked(records: list[dict[str, Any]], metric: str | None) -> tuple[list[dict[str, Any]], str]:
    """The metric that was asked for, or the first run's, and the runs that have it. Raises RequestError for none."""
    chosen = metric or first_metric(records[0])
    return having(records, chosen), chosen


def _last(rank: int | None) -> int:
    return 10**9 if rank is None else rank


def _over(found: Mapping[str, dict[int, Curve]]) -> str:
    seeds = {len(by_seed) for by_seed in found.values()}
    if seeds == {1}:
        return ", one seed"
    return ", mean ± standard deviation over seeds" + (f" ({seeds.pop()})" if len(seeds) == 1 else "")
