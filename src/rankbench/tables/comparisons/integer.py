"""Fine-tuning in integers of several widths held to floats, over tasks: the study of Tayaranian et al. (2023)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.records.record import Paths, records_by_folder
from rankbench.settings.arithmetic import ROLES
from rankbench.settings.metrics import rises, times, unit
from rankbench.tables import labels, stats
from rankbench.tables.comparisons import published
from rankbench.tables.comparisons.bests import spread_of
from rankbench.tables.layout import Block, chance, frame
from rankbench.tables.measured import Measured, Member, Runs, measure
from rankbench.tables.metric_sums import Means
from rankbench.tables.shown import first_metric, having, scored

FLOAT = "float"
ALIKE = (
    "arithmetic.name",
    "arithmetic.scale",
    *(f"arithmetic.{of}.{role}" for of in ("bits", "rounding") for role in ROLES),
)
PAPER = {"mrpc": "f1"}  # of several metrics the one that GLUE's averages take


@dataclass(frozen=True)
class Task:
    """A method on one task in floats and in integers: `values[width]` by seed, and what tells noise from difference."""

    name: str
    metric: str
    places: int
    values: dict[str, dict[int, float]]
    sums: Means
    trainings: list[stats.Trainings]
    idle: list[str]  # the widths that have one answer for every example

    def of(self, widths: list[str]) -> tuple[Means, list[stats.Trainings]]:
        """The metric and the trainings of these widths alone, in this order."""
        own = list(self.values)
        at = [own.index(width) for width in widths]
        found = [
            ([(at.index(place), row) for row, place in enumerate(group.places) if place in at], group.values)
            for group in self.trainings
        ]
        return Means(self.sums, np.eye(len(own))[:, at]), [
            stats.Trainings([place for place, _ in rows], values[:, [row for _, row in rows]])
            for rows, values in found
            if rows
        ]


def integer(path: Paths, metric: str | None = None, margin: float = 0.5) -> list[Block]:
    """For each model and method: widths against tasks, and how each differs from floats on each task and on average.

    A method with ranks or exits counts by the mean over those that all its runs measured. `margin` is the difference
    that counts as none, in points or nats. Raises RequestError where no run in integers has one in floats beside it.
    """
    stats.not_worse(0.0, margin)
    records = records_by_folder(path)
    done = scored(list(records.values())) if metric is None else having(list(records.values()), metric)
    alike: dict[tuple[str, str], Runs] = {}
    for folder, record in records.items():
        if record in done:
            config = record["config"]
            alike.setdefault((config["task"]["name"], config["model"]["name"]), {})[folder] = record
    methods: dict[tuple[str, str], list[Task]] = {}
    lacking: dict[tuple[str, str], list[str]] = {}
    shown: dict[str, str] = {}
    for (task, model), runs in sorted(alike.items()):
        names = labels.labels(list(runs.values()), alike=(*ALIKE, *labels.OF_SEARCH[1:]))
        for method in dict.fromkeys(names.values()):
            own = {folder: record for folder, record in runs.items() if names[record["run_id"]] == method}
            found = _task(task, own, metric)
            if isinstance(found, str):
                lacking.setdefault((model, method), []).append(f"{task}: {found}")
            else:
                methods.setdefault((model, method), []).append(found)
                shown |= {record["run_id"]: found.metric for record in own.values()}
    if not methods:
        why = "; ".join(f"{method}, {said}" for (_, method), each in lacking.items() for said in each)
        raise RequestError(
            f"none of these runs in integers has its like in floats beside it ({why}); "
            "python -m rankbench -m +sweeps=integer_bits trains both"
        )
    blocks = []
    for (model, method), tasks in methods.items():
        left = lacking.get((model, method), [])
        blocks += [_values(f"{model}, {method}", tasks, left, shown), _differences(f"{model}, {method}", tasks, margin)]
    return [*blocks, *published.integer()]


def width(record: dict[str, Any]) -> str:
    """What a run computed in: `float`, `int8`, or with what differs from that name, `int8 activation=12`."""
    asked = record["config"].get("arithmetic") or {"name": FLOAT}
    name = str(asked["name"])
    if name == FLOAT:
        return FLOAT
    usual = {"weight": "nearest", "activation": "nearest", "gradient": "stochastic"}
    other = [f"{role}={bits}" for role, bits in asked["bits"].items() if f"int{bits}" != name]
    other += [f"{role}={how}" for role, how in asked["rounding"].items() if usual[role] != how]
    other += [f"scale={asked['scale']}"] if asked["scale"] != "row" else []
    return " ".join([name, *other])


def _bits(record: dict[str, Any]) -> int:
    """All bits of a run's arithmetic, by which widths stand in order."""
    asked = record["config"].get("arithmetic") or {"name": FLOAT}
    return 100 if asked["name"] == FLOAT else sum(asked["bits"].values())


def _task(name: str, runs: Runs, metric: str | None) -> Task | str:
    """A method on one task, or why nothing can be said."""
    runs = {of: record | {"config": record["config"] | {"evaluate": {}}} for of, record in runs.items()}  # one method
    order = sorted(runs.values(), key=_bits, reverse=True)
    widths = list(dict.fromkeys(width(record) for record in order))
    if widths[:1] != [FLOAT] or len(widths) < 2:
        return f"{', '.join(widths)} alone"
    have = order[0]["submodels"][0]["metrics"]
    metric = metric or (PAPER[name] if PAPER.get(name) in have else first_metric(order[0]))
    measured = measure(runs, metric)
    if measured.undefined:
        return measured.undefined
    members = [(place, member) for place, member in enumerate(measured.members) if not member.cut]
    of = {place: width(next(iter(member.trained.values())).record) for place, member in members}
    shared = set.intersection(*({(s["rank"], s["depth"]) for s in record["submodels"]} for record in runs.values()))
    if not shared:
        return "no rank or exit that all of its runs measured"
    share = np.zeros((len(measured.members), len(widths)))
    for place, member in members:
        if _where(member) in shared:
            share[place, widths.index(of[place])] = 1 / len(shared)
    values: dict[str, dict[int, float]] = {one: {} for one in widths}
    for record in runs.values():
        own = [sub["metrics"][metric] for sub in record["submodels"] if (sub["rank"], sub["depth"]) in shared]
        values[width(record)][record["config"]["seed"]] = statistics.mean(own)
    idle = [one for column, one in enumerate(widths) if all(np.array(measured.idle)[share[:, column] > 0])]
    return Task(name, metric, len(shared), values, Means(measured.sums, share), _trainings(measured, share), idle)


def _where(member: Member) -> tuple[int | None, int | None]:
    return member.rank, member.depth


def _trainings(measured: Measured, share: np.ndarray) -> list[stats.Trainings]:
    """How the seeds of each width spread, together where they are the same."""
    found = []
    for group in measured.trainings:
        weights = share[group.places]
        places = [int(place) for place in np.flatnonzero(weights.sum(0))]
        found += [stats.Trainings(places, (group.values @ weights)[:, places])] if places else []
    return found


def _widths(tasks: list[Task]) -> list[str]:
    """Every width, those of the task with the most first."""
    return list(dict.fromkeys(one for task in sorted(tasks, key=lambda task: -len(task.values)) for one in task.values))


def _averaged(tasks: list[Task]) -> list[str]:
    """The widths that have a mean over tasks: those of all of them, where all are in one unit."""
    alike = len({(times(task.metric), rises(task.metric)) for task in tasks}) == 1 and len(tasks) > 1
    return [one for one in tasks[0].values if all(one in task.values for task in tasks)] if alike else []


def _values(what: str, tasks: list[Task], lacking: list[str], shown: dict[str, str]) -> Block:
    averaged = _averaged(tasks)
    most = max(len(seeds) for task in tasks for seeds in task.values.values())
    rows = {}
    for one in _widths(tasks):
        of = [[times(task.metric) * value for value in task.values.get(one, {}).values()] for task in tasks]
        rows[one] = [spread_of(values, task.metric, most) for values, task in zip(of, tasks, strict=True)]
        if averaged:
            rows[one] += [
                spread_of([statistics.mean(map(statistics.mean, of))], tasks[0].metric) if one in averaged else "-"
            ]
    used = ", ".join(f"{task.name} {unit(task.metric)}" for task in tasks)
    counts = sorted({task.places for task in tasks})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    ranks = f", the mean over {number} ranks or exits" if counts[-1] > 1 else ""
    left = f" Not here: {'; '.join(lacking)}." if lacking else ""
    head = [*(task.name for task in tasks), *(["mean"] if averaged else [])]
    seeds = f", mean ± standard deviation over {most} seeds" if most > 1 else ", one seed"
    return Block(f"{what}: {used}{ranks}{seeds}.{left}", frame(rows, head, "width"), shown)


def _differences(what: str, tasks: list[Task], margin: float) -> Block:
    """A row for each width and task, then each width's mean over tasks."""
    found = [(task.name, task.metric, list(task.values), [task.of(list(task.values))], task.idle) for task in tasks]
    averaged = _averaged(tasks)
    if len(averaged) > 1:
        every = [task.of(averaged) for task in tasks]
        idle = [one for task in tasks for one in task.idle]
        found.append((f"mean of {len(tasks)}", tasks[0].metric, averaged, every, idle))
    rows = {}
    for name, metric, widths, parts, idle in found:
        pairs, factor = stats.pairs_of_means(parts), times(metric)
        digits = 1 if factor > 1 else 3
        for place, one in enumerate(widths[1:], 1):
            middle, low, high = (factor * of[place, 0] for of in (pairs.difference, pairs.low, pairs.high))
            rows[f"{one}, {name}"] = [
                f"{middle:+.{digits}f}",
                f"{low:+.{digits}f} to {high:+.{digits}f}",
                chance(pairs.p[place, 0]),
                "?" if {one, FLOAT} & {*idle} else "yes" if stats.equivalent(low, high, margin) else "no",
            ]
    few = [f"{one} of {task.name}" for task in tasks for one, seeds in task.values.items() if len(seeds) < 2]
    alone = f" One seed, whose luck no interval holds: {', '.join(few)}." if few else ""
    other = [
        f"{one} of {task.name} ({_listed(seeds)}; float {_listed(task.values[FLOAT])})"
        for task in tasks
        for one, seeds in task.values.items()
        if set(seeds) != set(task.values[FLOAT])
    ]
    alone += f" Of other seeds than floats: {', '.join(other)}." if other else ""
    alike = [f"{one} of {task.name}" for task in tasks for one in task.idle]
    alone += f" One answer for every example, which tells nothing (?): {', '.join(alike)}." if alike else ""
    return Block(
        f"{what}: each width less float, with an interval over examples and seeds and a p that hold together for all "
        f"widths of a row's task at 95 %, and whether the interval lies within {margin:g} of 0.{alone}",
        frame(rows, ["difference", "interval", "p", f"within {margin:g}"], "width, task"),
    )


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
