"""A split's rows as texts with labels, or as prompts with responses."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.metrics import METRICS, ClassRoles, of_positive
from rankbench.settings.task import Separator, Task
from rankbench.tasks import chats
from rankbench.tasks.columns import filled, prompt_of, response_of, templates_of
from rankbench.tasks.labels import (
    NOT_CLASSES,
    Classes,
    classes_found,
    classes_named,
    number,
    with_point,
    written,
)
from rankbench.tasks.references import ACCEPTED
from rankbench.tasks.shots import Examples, Leads, leads_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Split:
    """Labelled texts: `texts` one or two columns of n strings, `labels` (n,), `index` the row in the file (n,).

    For a causal_lm task `texts` are the prompts and the responses, `references` the accepted answers of each row, and
    `labels` are empty; where the chat template makes the texts, `chats` are what it is given. `roles` say which of its
    classes is the positive one, `groups` of which group each row is, where the task has some. With `separated` the
    end-of-text token stands between prompt and response; `leads` are what stands before each prompt.
    """

    name: str
    texts: tuple[list[str], ...]
    labels: np.ndarray
    index: np.ndarray
    references: tuple[tuple[str, ...], ...] = ()
    roles: ClassRoles = field(default_factory=ClassRoles)
    chats: tuple[chats.Chat, ...] = ()
    groups: tuple[str, ...] = ()
    separated: bool = False
    leads: Leads | None = None

    def __len__(self) -> int:
        return len(self.index)


def responses(name: str, frame: pd.DataFrame, task: Task, file: str, examples: Examples | None = None) -> Split:
    """Prompts and responses from the templates, each prompt behind its `examples`; or whole conversations.

    The accepted answers are the response, or the last turn, and its aliases. Raises RequestError.
    """
    if task.messages_column is not None:
        return _conversations(name, frame, task, file)
    templates = templates_of(task)
    prompts, responses, references = [], [], []
    rows, places = frame.to_dict("records"), [f"{file} row {row} (from 0)" for row in frame.index]
    for row, values, place in zip(frame.index, rows, places, strict=True):
        texts = filled(values)
        prompts.append(prompt_of(templates, texts, place))
        responses.append(response_of(task, values, texts, place))
        if task.references_columns:
            references.append(tuple(task.response.format(reference=text).strip() for text in values[ACCEPTED]))
        else:
            references.append((responses[-1].strip(), *_aliases(values, task, file, row)))
    split = _written(name, frame, (prompts, responses), references, ())
    return behind(replace(split, separated=task.separator is Separator.eos), task, rows, places, examples)


def behind(
    split: Split, task: Task, rows: Sequence[Mapping[Any, Any]], places: Sequence[str], examples: Examples | None
) -> Split:
    """The split with its header and examples before each prompt, as `rows` of cells have them; in a chat, whole."""
    leads = leads_of(task, rows, places, examples) if task.header or task.shots else None
    if not task.chats:
        return replace(split, leads=leads)
    prompts, *others = split.texts
    if leads is not None:
        prompts = [lead(task.shots) + prompt for lead, prompt in zip(leads.rows, prompts, strict=True)]
    talks = map(partial(chats.instructed, task), prompts, *others)
    return replace(split, texts=(prompts, *others), chats=tuple(talks))


def check_numbers(split: Split, task: Task, file: str) -> None:
    """Refuse a row to score whose accepted answers have no number, where a metric is of that. Raises RequestError."""
    if "exact_number" not in task.metrics:
        return
    from rankbench.tasks.metrics.numbers import final_number

    for row, answers in zip(split.index, split.references, strict=True):
        if all(final_number(answer) is None for answer in answers):
            raise RequestError(
                f"{file} row {row} (from 0): no accepted answer has a number, which exact_number needs; correct or "
                "remove the row, or score it by exact_match"
            )


def _conversations(name: str, frame: pd.DataFrame, task: Task, file: str) -> Split:
    talks, references = [], []
    for row, values in zip(frame.index, frame.to_dict("records"), strict=True):
        place = f"{file} row {row} (from 0)"
        talks.append(chats.learnt(chats.chat_of(values[task.messages_column], task, place), place))
        references.append((talks[-1][-1]["content"].strip(), *_aliases(values, task, file, row)))
    texts = ([chats.told(talk[:-1]) for talk in talks], [talk[-1]["content"] for talk in talks])
    return _written(name, frame, texts, references, tuple(talks))


def _written(
    name: str,
    frame: pd.DataFrame,
    texts: tuple[list[str], ...],
    references: list[tuple[str, ...]],
    talks: tuple[chats.Chat, ...],
) -> Split:
    rows = frame.index.to_numpy()
    return Split(name, texts, np.zeros(0, np.int64), rows, tuple(references), chats=talks)


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


def classes_of(frame: pd.DataFrame, task: Task, file: str) -> Classes:
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


def of_one_class(task: Task, classes: int) -> list[str]:
    """The metrics that are of one class of so many; all that may be where the task says of which."""
    given = task.positive_label is not None
    return [name for name in task.metrics if of_positive(name, classes) or (given and METRICS[name].positive)]


def roles_of(task: Task, classes: Classes) -> ClassRoles:
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
    asking = [] if known else of_one_class(task, count)
    if asking:
        other = f", or take {asking[0]}_macro, the mean over all of them" if f"{asking[0]}_macro" in METRICS else ""
        raise RequestError(
            f"task.metrics has {', '.join(asking)}, which {'is' if len(asking) == 1 else 'are'} of one class ({names}):"
            f" say which with task.positive_label={shlex.quote(classes.names[0])}{other}"
        )
    return ClassRoles(count)


def labelled(name: str, frame: pd.DataFrame, task: Task, classes: Classes | None, file: str) -> Split:
    """Texts with the numbers of their classes, or their values. Raises RequestError for a label that is none."""
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
            mend = _unlabelled(name, task)
        elif (
            classes
            and not classes.given
            and name != task.train_split
            and (task.validation_fraction + task.test_fraction)
        ):
            mend = "every row of that class was held out: task.validation_stratified=true leaves some to train on"
        if classes and classes.unlike:
            mend = f"{classes.unlike}; {NOT_CLASSES}"
        raise RequestError(f"{file} row {frame.index[row]} (from 0): label {column[row]!r} is not {expected}; {mend}")
    if name != task.train_split and len(numbers) > 1 and set(numbers) == {-1} and classes is None:
        raise RequestError(f"{file}: every label is -1; {_unlabelled(name, task)}")
    texts = tuple(frame[c].tolist() for c in task.text_columns)
    kind = np.float32 if classes is None else np.int64
    return Split(name, texts, np.array(numbers, kind), frame.index.to_numpy())


def _unlabelled(name: str, task: Task) -> str:
    """What to do about rows whose label is -1."""
    mend = "leave it out of task.test_splits" if name in task.test_splits else "score validation"
    return f"-1 marks a row without a label, as test splits of GLUE have: {mend}"
