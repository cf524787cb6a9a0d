"""A task's data: read the splits and refuse what would train on the wrong thing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shlex
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.metrics import METRICS, ClassRoles, of_positive, undefined
from rankbench.settings.sources import Source, fetch, locate
from rankbench.settings.task import Task
from rankbench.system.files import sha256
from rankbench.system.memo import Last
from rankbench.system.seeds import generator
from rankbench.tasks.columns import check_columns, columns_of
from rankbench.tasks.labels import (
    NOT_CLASSES,
    Classes,
    classes_found,
    classes_named,
    counts,
    number,
    with_point,
    written,
)
from rankbench.tasks.reading import called, read, split_files

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("rankbench")


@dataclass(frozen=True)
class Split:
    """Labelled texts: `texts` one or two columns of n strings, `labels` (n,), `index` the row in the file (n,).

    For a causal_lm task `texts` are the prompts and the responses, `references` the accepted answers of each row, and
    `labels` are empty. `roles` say which of its classes is the positive one.
    """

    name: str
    texts: tuple[list[str], ...]
    labels: np.ndarray
    index: np.ndarray
    references: tuple[tuple[str, ...], ...] = ()
    roles: ClassRoles = field(default_factory=ClassRoles)

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Data:
    """A task's splits, with what its record says of their origin."""

    train: Split
    validation: tuple[Split, ...]
    label_names: tuple[str, ...] | None
    origin: dict[str, Any]
    kind: str = "classification"
    unlike: str = ""  # why its labels seem to be no classes

    @property
    def num_labels(self) -> int | None:
        """Outputs of the head: one for a regression; None for a language model under its own head."""
        if self.kind == "causal_lm":
            return None
        return len(self.label_names) if self.label_names else 1


_last: Last[Data] = Last()


def load(task: Task, classes: Sequence[str] | None = None) -> Data:
    """Read and check every split of the task. Raises RequestError for anything that would train on wrong data.

    `classes` are those of a finished run whose model is to read the data: labels are matched with them by name.
    What was read last is given again while the task and the content of its files are the same: do not change it.
    """
    source = locate("task", task)
    names = [task.train_split] if task.validation_fraction else [task.train_split, *task.validation_splits]
    inside = f"{task.hub_config}/" if task.hub_config else ""
    patterns = [f"{inside}{name}-*.parquet" for name in names]
    root = fetch("task", task, source, patterns)
    files = split_files(task, root / inside if source.kind == "hub" else root)
    try:
        sums = {name: sha256(*places) for name, places in files.items()}
    except OSError as error:
        raise RequestError(f"{error.filename} cannot be read: {error.strerror}") from error
    return _last.of(repr((task, source, files, sums, classes)), lambda: _load(task, source, files, sums, classes))


def _load(
    task: Task, source: Source, files: dict[str, list[Path]], sums: dict[str, str], known: Sequence[str] | None
) -> Data:
    frames = {name: read(places, task.encoding) for name, places in files.items()}
    for name, frame in frames.items():
        check_columns(frame, task, called(files[name]))
    held = len(frames) == 1
    if task.validation_fraction and not held:
        log.warning(
            "task.validation_fraction=%g holds nothing out: %s is there",
            task.validation_fraction,
            called(files[task.validation_splits[0]]),
        )
    if held:
        frames = _hold_out(frames[task.train_split], task, called(files[task.train_split]))
    file_of = {name: called(files[task.train_split if held else name]) for name in frames}
    training = frames[task.train_split]
    classes = Classes(tuple(known)) if known else None
    if classes is None and task.kind == "classification":
        classes = _classes(training, task, file_of[task.train_split])
    splits = {}
    for name, frame in frames.items():
        limit = task.max_train_examples if name == task.train_split else task.max_eval_examples
        if limit is not None and limit < len(frame):
            # Fixed, not seeded: every seed and every method sees the same examples.
            rows = np.sort(generator(0, f"subset/{name}").permutation(len(frame))[:limit])
            frame = frame.iloc[rows]
        if task.kind == "causal_lm":
            splits[name] = _responses(name, frame, task, file_of[name])
        else:
            splits[name] = _labelled(name, frame, task, classes, file_of[name])
    label_names = classes.names if classes else None
    if classes:
        roles = _roles(task, classes)
        splits = {name: replace(split, roles=roles) for name, split in splits.items()}
    origin = {
        "source": source.kind,
        "location": task.package if source.kind == "package" else source.hub or task.data_dir,
        "revision": source.revision,
        "label_names": list(label_names) if label_names else None,
        **({"positive_label": label_names[roles.positive]} if label_names and _asks(task, len(label_names)) else {}),
        **({"undefined": nothing} if (nothing := _undefined(task, splits)) else {}),
        "splits": {
            name: {
                "file": file_of[name],
                "sha256": sums[task.train_split if held else name],
                "rows": len(split),
                **({"labels": counts(split.labels.tolist(), label_names)} if label_names else {}),
            }
            for name, split in splits.items()
        },
    }
    return Data(
        train=splits[task.train_split],
        validation=tuple(splits[name] for name in task.validation_splits),
        label_names=label_names,
        origin=origin,
        kind=task.kind,
        unlike=classes.unlike if classes else "",
    )


def _undefined(task: Task, splits: Mapping[str, Split]) -> dict[str, dict[str, str]]:
    """Of each split to score the metrics that say nothing of it, and why."""
    found: dict[str, dict[str, str]] = {}
    for name in task.validation_splits if task.kind != "causal_lm" else ():
        labels = set(splits[name].labels.tolist())
        why = {metric: undefined(metric, labels, splits[name].roles) for metric in task.metrics}
        found[name] = {metric: reason for metric, reason in why.items() if reason}
    return {name: reasons for name, reasons in found.items() if reasons}


def _hold_out(frame: pd.DataFrame, task: Task, file: str) -> dict[str, pd.DataFrame]:
    """Validation by a hash of the text: the same rows whatever the seed, and equal texts on one side."""
    if len(task.validation_splits) > 1:
        raise RequestError("task.validation_fraction holds out one split; name one in task.validation_splits")
    columns = columns_of(*(task.prompts or []), task.response) if task.kind == "causal_lm" else task.text_columns
    texts = ["\x1f".join(map(_or_empty, row)) for row in frame[columns].itertuples(index=False, name=None)]
    draws = {text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") / 2**64 for text in texts}
    if task.validation_stratified:
        chosen = _of_each_class(texts, frame[task.label_column].tolist(), draws, task.validation_fraction)
    else:
        chosen = {text for text, draw in draws.items() if draw < task.validation_fraction}
    held = np.array([text in chosen for text in texts])
    if held.all() or not held.any():
        raise RequestError(
            f"task.validation_fraction={task.validation_fraction} of {len(frame)} rows leaves nothing to "
            f"{'train on' if held.all() else 'score'}; change it"
        )
    repeated = f"; its {len(frame):,} rows have {len(draws):,} texts" if len(draws) < len(frame) else ""
    log.info(
        "hold out %s of %s rows of %s (%.0f %%%s) by a hash of each text, so that equal texts stay together%s",
        *(f"{held.sum():,}", f"{len(frame):,}", file, 100 * held.mean()),
        *(", that share of each class" if task.validation_stratified else "", repeated),
    )
    return {task.train_split: frame[~held], task.validation_splits[0]: frame[held]}


def _or_empty(value: Any) -> str:
    """A cell as text; nothing for what is not there."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _of_each_class(texts: list[str], labels: list[Any], draws: dict[str, float], fraction: float) -> set[str]:
    """Texts in the order of their draws, of each class until the nearest to that share of its rows is reached."""
    rows: dict[str, int] = {}
    label_of: dict[str, str] = {}
    for text, value in zip(texts, labels, strict=True):
        rows[text] = rows.get(text, 0) + 1
        label_of[text] = min(label_of.get(text, str(written(value))), str(written(value)))
    wanted: dict[str, float] = {}
    for text, label in label_of.items():
        wanted[label] = wanted.get(label, 0.0) + fraction * rows[text]
    chosen = set()
    for text in sorted(draws, key=lambda text: draws[text]):
        if rows[text] / 2 <= wanted[label_of[text]]:
            chosen.add(text)
            wanted[label_of[text]] -= rows[text]
    return chosen


def _responses(name: str, frame: pd.DataFrame, task: Task, file: str) -> Split:
    """Prompts and responses from the templates; the accepted answers are the response and its aliases."""
    templates = [(template, columns_of(template)) for template in task.prompts or []]
    prompts, responses, references = [], [], []
    for row, values in zip(frame.index, frame.to_dict("records"), strict=True):
        filled = {str(key): text for key, value in values.items() if (text := _text(value)) is not None}
        fitting = [template for template, columns in templates if all(filled.get(c, "").strip() for c in columns)]
        if not fitting:
            lacking = ", ".join(c for c in templates[-1][1] if not filled.get(c, "").strip())
            raise RequestError(f"{file} row {row} (from 0): {lacking} is empty, so no template of task.prompts fits")
        wrong = [column for column in columns_of(task.response) if column not in filled]
        if wrong:
            found = values[wrong[0]]
            what = "is empty" if found is None else f"holds {found!r}, not text"
            raise RequestError(f"{file} row {row} (from 0): '{wrong[0]}' {what}; correct or remove the row")
        prompts.append(fitting[0].format(**filled))
        responses.append(task.response.format(**filled))
        references.append((responses[-1].strip(), *_aliases(values, task, file, row)))
    texts = (prompts, responses)
    return Split(name, texts, np.zeros(0, np.int64), frame.index.to_numpy(), tuple(references))


def _aliases(values: Mapping[Hashable, Any], task: Task, file: str, row: Any) -> list[str]:
    if task.aliases_column is None:
        return []
    aliases = values.get(task.aliases_column)
    if isinstance(aliases, str) and aliases.lstrip().startswith("["):  # a list as CSV can hold one
        with contextlib.suppress(ValueError):
            aliases = json.loads(aliases)
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise RequestError(
            f"{file} row {row} (from 0): '{task.aliases_column}' is {aliases!r}, not a list of texts; correct the row, "
            "or set task.aliases_column=null"
        )
    return [alias.strip() for alias in aliases if alias.strip()]


def _text(value: Any) -> str | None:
    """A cell as text; None for what is neither text, nor a number, nor a date."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | date):
        return None
    return str(value) if isinstance(value, date) or math.isfinite(value) else None


def _classes(frame: pd.DataFrame, task: Task, file: str) -> Classes:
    """The task's classes, from every row of the training split. Raises RequestError."""
    labels = frame[task.label_column].tolist()
    for row, value in zip(frame.index, labels, strict=True):
        if isinstance(value, list | dict | tuple | np.ndarray):
            what = "an object" if isinstance(value, dict) else "a list"
            raise RequestError(
                f"{file} row {row} (from 0): label {value!r} is {what}, and every row has one class; correct it"
            )
        if written(value) is None:
            raise RequestError(
                f"{file} row {row} (from 0) has no label in '{task.label_column}'; correct or remove the row"
            )
    if task.label_names is not None:
        return classes_named(task.label_names, labels)
    return classes_found(labels, f"column '{task.label_column}' of {file}")


def _asks(task: Task, classes: int) -> list[str]:
    """The metrics that are of one class of so many; all that may be where the task says of which."""
    given = task.positive_label is not None
    return [name for name in task.metrics if of_positive(name, classes) or (given and METRICS[name].positive)]


def _roles(task: Task, classes: Classes) -> ClassRoles:
    """Which class is the positive one: that named, or the second of two that are named or are 0 and 1, no and yes.

    Raises RequestError where nothing says which, and a metric asks.
    """
    count, names = len(classes.names), ", ".join(classes.names[:8])
    if task.positive_label is not None:
        place = classes.by_name(task.positive_label)
        if place is None:
            raise RequestError(f"task.positive_label={task.positive_label} is none of the classes ({names})")
        return ClassRoles(count, place)
    known = count == 2 and (classes.given or classes.names in (("0", "1"), ("-1", "1"), ("False", "True")))
    asking = [] if known else _asks(task, count)
    if asking:
        other = f", or take {asking[0]}_macro, the mean over all of them" if f"{asking[0]}_macro" in METRICS else ""
        raise RequestError(
            f"task.metrics has {', '.join(asking)}, which {'is' if len(asking) == 1 else 'are'} of one class ({names}):"
            f" say which with task.positive_label={shlex.quote(classes.names[0])}{other}"
        )
    return ClassRoles(count)


def _labelled(name: str, frame: pd.DataFrame, task: Task, classes: Classes | None, file: str) -> Split:
    column = frame[task.label_column].tolist()
    numbers: list[Any] = [number(value) for value in column] if classes is None else classes.numbers(column)
    if None in numbers:
        row = numbers.index(None)
        expected = "a number" if classes is None else classes.expected()
        mend = "correct the row"
        if classes is None and (comma := with_point(column[row])):
            mend = f"a number has a decimal point: write {comma}"
        if written(column[row]) is None:
            where = f"{file} row {frame.index[row]} (from 0)"
            raise RequestError(f"{where} has no label in '{task.label_column}'; correct or remove the row")
        if written(column[row]) == "-1":
            mend = "-1 marks a row without a label, as test splits of GLUE have: score validation"
        elif classes and not classes.given and name != task.train_split and task.validation_fraction:
            mend = "every row of that class was held out: task.validation_stratified=true leaves some to train on"
        if classes and classes.unlike:
            mend = f"{classes.unlike}; {NOT_CLASSES}"
        raise RequestError(f"{file} row {frame.index[row]} (from 0): label {column[row]!r} is not {expected}; {mend}")
    texts = tuple(frame[c].tolist() for c in task.text_columns)
    kind = np.float32 if classes is None else np.int64
    return Split(name, texts, np.array(numbers, kind), frame.index.to_numpy())
