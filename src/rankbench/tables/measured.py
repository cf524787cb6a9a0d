"""What one metric says of the sub-models of many runs, by their records and their stored predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rankbench.errors import RequestError
from rankbench.records import tested
from rankbench.records.notes import one_answer
from rankbench.settings.metrics import CORRELATIONS, MATCHES, METRICS, ClassRoles, undefined
from rankbench.tables import labels, metric_sums
from rankbench.tables.shown import no_such
from rankbench.tables.stats import Trainings

Submodel = dict[str, Any]  # as the record holds it
Place = tuple[str, int, int]  # how rank R was cut, depth, rank; empty or 0 for none
Runs = dict[Path, dict[str, Any]]  # folder -> record
AGAIN = "copy it there from where the run was done, or run it again with fresh=true"


@dataclass(frozen=True)
class Trained:
    """One training's entry of a sub-model: the run's folder, its record, and what that holds."""

    folder: Path
    record: dict[str, Any]
    sub: Submodel


@dataclass(frozen=True)
class Member:
    """A sub-model of a method: its `label`, empty where there is one method, and what each seed's training measured."""

    label: str
    cut: str
    trained: dict[int, Trained]

    @property
    def sub(self) -> Submodel:
        """Its first seed's entry."""
        return next(iter(self.trained.values())).sub

    @property
    def rank(self) -> int | None:
        """None for a whole model."""
        return self.sub["rank"]

    @property
    def depth(self) -> int | None:
        """None for all layers."""
        return self.sub["depth"]

    @property
    def size(self) -> tuple[int, int, int]:
        """What "smallest" means: parameters of the model without its adapter, those trained, then the rank."""
        parameters = self.sub["parameters"]
        return parameters["total"] - parameters.get("adapter", 0), parameters["trainable"], self.rank or 0

    def __str__(self) -> str:
        place = " at ".join(f"{key} {self.sub[key]}" for key in ("rank", "depth") if self.sub[key] is not None)
        return ", ".join(filter(None, [self.label, place]))

    @property
    def begun(self) -> str:
        """Its name at the start of a sentence; a method's stays as it is written."""
        return str(self) if self.label else str(self).capitalize()


@dataclass(frozen=True)
class Measured:
    """What one metric says of sub-models, smallest first; their metric is the mean over their seeds."""

    metric: str
    members: list[Member]
    sums: metric_sums.Resampled
    idle: list[bool]  # which have one answer for every example
    undefined: str | None  # why the metric says nothing
    trainings: list[Trainings]  # how the seeds spread, where there are several

    @property
    def kind(self) -> str:
        """What tells these sub-models apart."""
        if any(member.label for member in self.members):
            return "candidate"
        rank, depth = (any(member.sub[key] is not None for member in self.members) for key in ("rank", "depth"))
        return "pair" if rank and depth else "exit" if depth else "rank"


def measure(runs: Runs, metric: str) -> Measured:
    """What a metric says of the sub-models of these done runs, the cuts of a LoRA among them.

    Runs of one method that differ in the seed alone are one training each of its members. Raises RequestError where
    there is one sub-model, where predictions are missing or do not give the metric, and where the runs were scored on
    other examples.
    """
    if sum(len(_entries(record)) for record in runs.values()) < 2:
        raise RequestError(
            f"{', '.join(map(str, runs))} measured one sub-model alone, so there is nothing to choose from"
        )
    read = {folder: _read(folder, record, metric) for folder, record in runs.items()}
    _refuse_other_examples(runs, read)
    members = _members(runs)
    first = next(iter(read.values()))
    own = [(trained, read[trained.folder]) for member in members for trained in member.trained.values()]
    places = [(member.cut, member.depth or 0, member.rank or 0) for member in members for _ in member.trained]
    columns = {
        key: np.stack([one.columns[key][one.places.index(place)] for (_, one), place in zip(own, places, strict=True)])
        for key in first.columns
    }
    roles = _roles(next(iter(runs.values())))
    every = metric_sums.sums(first.metric, columns, first.references, roles)
    idle = [one_answer(trained.sub) is not None for trained, _ in own]
    if "scores" in columns:  # which may tell examples apart that are given one class
        idle = [bool((said == said[0]).all()) for said in columns["scores"]]
    if first.metric in CORRELATIONS:  # older records do not say it of a regression
        idle = [one or len(set(said)) == 1 for one, said in zip(idle, columns["prediction"].tolist(), strict=True)]
    reached = every.whole()
    if METRICS[first.metric].of_texts and METRICS[first.metric].rises and not np.any(reached):
        idle = [True] * len(idle)  # nothing was right, of none of them
    ends = np.cumsum([len(member.trained) for member in members])
    parts = [range(end - len(member.trained), end) for end, member in zip(ends, members, strict=True)]
    known = set() if METRICS[first.metric].of_texts else set(first.references.tolist())
    return Measured(
        metric,
        members,
        _means(every, parts),
        [all(idle[place] for place in part) for part in parts],
        undefined(first.metric, known, roles),
        _trainings(members, parts, reached),
    )


def _means(every: metric_sums.Sums | metric_sums.Ranked, parts: Sequence[range]) -> metric_sums.Resampled:
    """The metric of each member as the mean of those of its trainings."""
    share = np.zeros((parts[-1].stop, len(parts)))
    for place, part in enumerate(parts):
        share[part, place] = 1 / len(part)
    return every if len(parts) == len(share) else metric_sums.Means(every, share)


def _trainings(members: Sequence[Member], parts: Sequence[range], values: metric_sums.Reals) -> list[Trainings]:
    """Members trained with the same several seeds, together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, member in enumerate(members):
        if len(member.trained) > 1:
            groups.setdefault(tuple(member.trained), []).append(place)
    return [Trainings(places, np.stack([values[parts[place]] for place in places], 1)) for places in groups.values()]


def _members(runs: Runs) -> list[Member]:
    """Every sub-model of every method, smallest first. Raises RequestError for one that two runs trained alike."""
    records = list(runs.values())
    apart = len(records) > 1 or any(record.get("cuts") for record in records)
    named = labels.columns(records) if apart else {}
    found: dict[tuple[str, Place], Member] = {}
    for folder, record in runs.items():
        for sub in _entries(record):
            cut = sub.get("cut", "")
            label = " ".join(filter(None, [named.get(record["run_id"], ""), cut]))
            member = found.setdefault((label, _place(sub)), Member(label, cut, {}))
            seed = (record.get("config") or {}).get("seed", 0)
            if seed in member.trained:
                told = f"{member.trained[seed].folder} and {folder} are of one method and one seed ({seed})"
                raise RequestError(f"{told}; leave one of them out")
            member.trained[seed] = Trained(folder, record, sub)
    members = [Member(m.label, m.cut, dict(sorted(m.trained.items()))) for m in found.values()]
    return sorted(members, key=lambda member: (member.size, member.label))


def _entries(record: dict[str, Any]) -> list[Submodel]:
    """The sub-models of a record, and those cut out of rank R, but for R itself, where nothing is cut."""
    whole = max((sub["rank"] or 0 for sub in record["submodels"]), default=0)
    largest = record["config"].get("adapter", {}).get("r") or whole
    return [*record["submodels"], *(row for row in record.get("cuts") or [] if row["rank"] != largest)]


@dataclass(frozen=True)
class _Read:
    """A run's predictions: `columns` (k, n) in the order of `places`, and what they are scored against."""

    metric: str  # without its split's name
    places: list[Place]
    columns: dict[str, npt.NDArray[Any]]
    index: npt.NDArray[Any]
    references: npt.NDArray[Any]


def _read(folder: Path, record: dict[str, Any], metric: str) -> _Read:
    """The predictions of a run. Raises RequestError where they are missing or do not give the metric."""
    have = list(record["submodels"][0]["metrics"])
    if metric not in have:
        raise no_such(metric, have, "this run has")
    file = folder / "predictions.parquet"
    if not file.exists():
        raise RequestError(f"{folder} lacks predictions.parquet, which tells noise from difference; {AGAIN}")
    entries = sorted([*record["submodels"], *(record.get("cuts") or [])], key=_place)
    places = [_place(sub) for sub in entries]
    try:
        known, columns, references = _columns(tested.chosen_by(pd.read_parquet(file), record), metric, places)
    except (LookupError, ValueError, OSError, StopIteration) as error:
        raise RequestError(f"{file} is not of this run, or damaged ({error}); {AGAIN}") from error
    index = columns["index"][0]
    if known in MATCHES and known not in columns:
        columns[known] = metric_sums.right(known, columns["prediction"], references)
    columns = {key: columns[key] for key in metric_sums.needs(known)}
    values = metric_sums.sums(known, columns, references, _roles(record)).whole()
    if not np.allclose(values, [sub["metrics"][metric] for sub in entries], rtol=1e-6):
        if known in MATCHES:  # who accepts more texts finds more right: the same number means the same answers
            raise RequestError(
                f"--metric {metric}: these questions accept several texts and this older predictions.parquet keeps the "
                "first, so it does not tell which answers were right; use --metric loss, or repeat it with fresh=true"
            )
        raise RequestError(f"{file} does not give the {metric} of the record; {AGAIN}")
    return _Read(known, places, columns, index, references)


def _refuse_other_examples(runs: Runs, read: dict[Path, _Read]) -> None:
    """Refuse runs that were scored on other examples than the first, or number their classes or tokens otherwise."""
    (first, record), *others = runs.items()
    mine, said = read[first], record.get("data") or {}
    for folder, other in others:
        its, theirs = read[folder], other.get("data") or {}
        alike = np.array_equal(its.index, mine.index) and np.array_equal(its.references, mine.references)
        keys = ("label_names", "positive_label")
        if not alike or any(theirs.get(key) != said.get(key) for key in keys) or _digests(other) != _digests(record):
            raise RequestError(
                f"{first} and {folder} were scored on other examples ({len(mine.index)} and {len(its.index)}), so "
                "they cannot be held against each other; give the runs over one data set"
            )
        if mine.metric in metric_sums.LOSSES and not np.array_equal(
            its.columns["tokens"][0], mine.columns["tokens"][0]
        ):
            raise RequestError(
                f"{mine.metric} is of a token, and {first} and {folder} have other tokens for the same responses "
                "(another tokenizer, or task.max_length); compare them by another metric"
            )


def _digests(record: dict[str, Any]) -> list[str]:
    """The digests of the files that were scored to choose by."""
    splits, test = ((record.get("data") or {}).get("splits") or {}).items(), tested.splits(record)
    return [str(s.get("sha256")) for name, s in sorted(splits) if name.startswith("validation") and name not in test]


def _roles(record: dict[str, Any]) -> ClassRoles:
    """The classes and the positive one, as the record names them; class 1 of two in older ones."""
    data = record.get("data") or {}
    names = data.get("label_names") or ["0", "1"]
    positive = data.get("positive_label")
    return ClassRoles(len(names), names.index(positive) if positive in names else 1)


def _columns(
    frame: pd.DataFrame, metric: str, places: list[Place]
) -> tuple[str, dict[str, npt.NDArray[Any]], npt.NDArray[Any]]:
    """The metric without its split's name, its columns (k, n) in the order of `places`, and the references (n,).

    Raises LookupError or ValueError when the frame does not hold the same examples for each place.
    """
    names = {str(split): f"_{str(split).removeprefix('validation_')}" for split in frame["split"].unique()}
    base, frame = _of_group(frame, metric)
    if len(names) > 1:
        split = next(n for n, end in names.items() if base.endswith(end) and base.removesuffix(end) in METRICS)
        base, frame = base.removesuffix(names[split]), frame[frame["split"] == split]
    if "cut" not in frame:
        frame = frame.assign(cut="")
    frame = frame.fillna({"rank": 0, "depth": 0, "cut": ""}).sort_values(["cut", "depth", "rank", "index"])
    shape = len(places), -1
    answered = ("prediction",) if base in MATCHES and base not in frame else metric_sums.needs(base)
    if "reference" not in frame and not {"prediction", "scores"} & set(answered):
        frame = frame.assign(reference="")  # texts that nobody else may read were taken out, and sums need none
    keys = ("cut", "depth", "rank", "index", "reference", *(key for key in answered if key != "scores"))
    found: dict[str, npt.NDArray[Any]] = {key: frame[key].to_numpy().reshape(shape) for key in keys}
    if "scores" in answered:
        of_class = [f"score_{number}" for number in range(sum(str(name).startswith("score_") for name in frame))]
        found["scores"] = frame[of_class].to_numpy().reshape(*found["index"].shape, len(of_class))
    for key in ("index", "reference"):
        if (found[key] != found[key][0]).any():
            raise ValueError(f"its sub-models differ in {key}")
    if [*zip(*(found[key][:, 0] for key in ("cut", "depth", "rank")), strict=True)] != places:
        raise ValueError("it has other sub-models than the record")
    return base, found, found["reference"][0]


def _of_group(frame: pd.DataFrame, metric: str) -> tuple[str, pd.DataFrame]:
    """The metric without the name of a group of rows, and the group's rows; both as they are where it has none."""
    groups = set(frame["group"].dropna()) if "group" in frame and metric not in METRICS else set()
    group = max((str(group) for group in groups if metric.endswith(f"_{group}")), key=len, default=None)
    return (metric, frame) if group is None else (metric.removesuffix(f"_{group}"), frame[frame["group"] == group])


def _place(sub: Submodel) -> Place:
    """How it was cut, its depth and its rank."""
    return sub.get("cut", ""), sub["depth"] or 0, sub["rank"] or 0
