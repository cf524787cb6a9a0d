"""A task's data: read the splits and refuse what would train on the wrong thing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.metrics import undefined
from rankbench.settings.sources import Source, fetch, locate
from rankbench.settings.task import Task
from rankbench.system.files import sha256
from rankbench.system.memo import Last
from rankbench.system.seeds import generator
from rankbench.tasks.class_weights import class_weights
from rankbench.tasks.columns import check_columns
from rankbench.tasks.hold_out import hold_out
from rankbench.tasks.labels import Classes, counts
from rankbench.tasks.questions import questions
from rankbench.tasks.reading import called, read, split_files
from rankbench.tasks.references import groups_of, merged, paired
from rankbench.tasks.shots import examples_of, files_of
from rankbench.tasks.splits import Split, check_numbers, classes_of, labelled, of_one_class, responses, roles_of

log = logging.getLogger("rankbench")


@dataclass(frozen=True)
class Data:
    """A task's splits, with what its record says of their origin."""

    train: Split
    validation: tuple[Split, ...]
    label_names: tuple[str, ...] | None
    origin: dict[str, Any]
    test: tuple[Split, ...] = ()  # scored once, at the end
    kind: str = "classification"
    unlike: str = ""  # why its labels seem to be no classes
    class_weights: tuple[float, ...] | None = None  # by which the training loss weighs rows; None for none
    said: tuple[tuple[int, str], ...] = ()  # what is to be said wherever it is loaded: level of the log, and line

    @property
    def num_labels(self) -> int | None:
        """Outputs of the head: one for a value, two for a start and an end; None for a language model's own."""
        if self.kind == "causal_lm":
            return None
        if self.kind == "question_answering":
            return 2
        return len(self.label_names) if self.label_names else 1


_last: Last[Data] = Last()


def load(task: Task, classes: Sequence[str] | None = None) -> Data:
    """Read and check every split of the task. Raises RequestError for anything that would train on wrong data.

    `classes` are those of a finished run whose model is to read the data: labels are matched with them by name.
    What was read last is given again while the task and the content of its files are the same: do not change it.
    """
    source = locate("task", task)
    inside = f"{task.hub_config}/" if task.hub_config else ""
    patterns = [f"{inside}{name}-*.parquet" for name in task.files]
    root = fetch("task", task, source, patterns)
    files = split_files(task, root / inside if source.kind == "hub" else root)
    try:
        sums = {name: sha256(*places) for name, places in files.items()}
        if task.shots:
            sums["shots"] = sha256(*files_of(task))
    except OSError as error:
        raise RequestError(f"{error.filename} cannot be read: {error.strerror}") from error
    data = _last.of(repr((task, source, files, sums, classes)), lambda: _load(task, source, files, sums, classes))
    for level, line in data.said:
        log.log(level, "%s", line)
    return data


def _load(
    task: Task, source: Source, files: dict[str, list[Path]], sums: dict[str, str], known: Sequence[str] | None
) -> Data:
    frames = {name: read(places, task.encoding) for name, places in files.items()}
    for name, frame in frames.items():
        check_columns(frame, task, called(files[name]))
    said = [
        (logging.WARNING, f"task.{key}={share:g} holds nothing out: {called(files[names[0]])} is there")
        for key, share, names in (
            ("validation_fraction", task.validation_fraction, task.validation_splits),
            ("test_fraction", task.test_fraction, task.test_splits),
        )
        if share and names[0] in files
    ]
    lacking = [name for name in (*task.validation_splits, *task.test_splits) if name not in files]
    if lacking:
        held, lines = hold_out(frames[task.train_split], task, called(files[task.train_split]), lacking)
        frames |= held
        said += [(logging.INFO, line) for line in lines]
    from_of = {name: name if name in files else task.train_split for name in frames}
    file_of = {name: called(files[source]) for name, source in from_of.items()}
    training = frames[task.train_split]
    classes = Classes(tuple(known)) if known else None
    if classes is None and task.kind == "classification":
        classes = classes_of(training, task, file_of[task.train_split])
    splits = {}
    for name, frame in frames.items():
        if task.references_columns:
            frame = (paired if name == task.train_split else merged)(frame, task, file_of[name])
        limit = task.max_train_examples if name == task.train_split else task.max_eval_examples
        if limit is not None and limit < len(frame):
            # Fixed, not seeded: every seed and every method sees the same examples.
            rows = np.sort(generator(0, f"subset/{name}").permutation(len(frame))[:limit])
            frame = frame.iloc[rows]
        if task.extracts:
            splits[name] = questions(name, frame, task, file_of[name])
        elif task.kind == "causal_lm":
            shown = None if name == task.train_split else examples_of(task)
            splits[name] = responses(name, frame, task, file_of[name], shown)
        else:
            splits[name] = labelled(name, frame, task, classes, file_of[name])
        if name != task.train_split:
            groups = groups_of(frame, task, file_of[name])
            splits[name] = replace(splits[name], groups=groups or splits[name].groups)
            check_numbers(splits[name], task, file_of[name])
    label_names = classes.names if classes else None
    weights = None
    if classes and task.class_weights is not None:
        weights = class_weights(task.class_weights, classes, splits[task.train_split].labels)
    if classes:
        roles = roles_of(task, classes)
        splits = {name: replace(split, roles=roles) for name, split in splits.items()}
    origin = {
        "source": source.kind,
        "location": task.package if source.kind == "package" else source.hub or task.data_dir,
        "revision": source.revision,
        "label_names": list(label_names) if label_names else None,
        **(
            {"positive_label": label_names[roles.positive]}
            if label_names and of_one_class(task, len(label_names))
            else {}
        ),
        **({"class_weights": dict(zip(label_names, weights, strict=True))} if label_names and weights else {}),
        **({"undefined": nothing} if (nothing := _undefined(task, splits)) else {}),
        **({"shots": {"file": called(files_of(task)), "sha256": sums["shots"]}} if task.shots else {}),
        "splits": {
            name: {
                "file": file_of[name],
                "sha256": sums[from_of[name]],
                "rows": len(split),
                **({"labels": counts(split.labels.tolist(), label_names)} if label_names else {}),
                **({"references": sum(map(len, split.references))} if task.references_columns else {}),
                **({"groups": dict(Counter(split.groups))} if split.groups else {}),
            }
            for name, split in splits.items()
        },
    }
    return Data(
        train=splits[task.train_split],
        validation=tuple(splits[name] for name in task.validation_splits),
        label_names=label_names,
        origin=origin,
        test=tuple(splits[name] for name in task.test_splits),
        kind=task.kind,
        unlike=classes.unlike if classes else "",
        class_weights=weights,
        said=tuple(said),
    )


def _undefined(task: Task, splits: Mapping[str, Split]) -> dict[str, dict[str, str]]:
    """Of each split to score the metrics that say nothing of it, and why."""
    found: dict[str, dict[str, str]] = {}
    for name in (*task.validation_splits, *task.test_splits) if task.kind in ("classification", "regression") else ():
        labels = set(splits[name].labels.tolist())
        why = {metric: undefined(metric, labels, splits[name].roles) for metric in task.metrics}
        found[name] = {metric: reason for metric, reason in why.items() if reason}
    return {name: reasons for name, reasons in found.items() if reasons}
