"""Rows to predict, labelled or not: their texts, or the prompts that a task's templates make of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.task import Separator, Task
from rankbench.tasks import chats
from rankbench.tasks.columns import (
    check_text,
    columns_of,
    columns_of_texts,
    filled,
    lacks,
    prompt_of,
    templates_of,
    with_other_letters,
)
from rankbench.tasks.shots import examples_of
from rankbench.tasks.splits import Split, behind

log = logging.getLogger("rankbench")


def check_names(task: Task, names: Sequence[str], file: str) -> None:
    """Refuse columns that lack those of the task's texts, or of all its templates. Raises RequestError."""
    for column in _needed(task, names):
        if column not in names:
            raise RequestError(lacks(file, column, names, "the texts are read from columns of the task's names"))
        if names.count(column) > 1:
            raise RequestError(f"{file} has two columns '{column}'; rename one")


def unlabelled(task: Task, names: Sequence[str], rows: Sequence[Sequence[Any]], file: str, first: int = 0) -> Split:
    """The rows' texts, or their prompts alone, as a split whose labels are all 0; row `first` of the file comes first.

    Of a conversation that ends in the assistant's turn the prompt is what stands before that. Raises RequestError for a
    row without a text, or that no template fits.
    """
    index = np.arange(first, first + len(rows))
    talks: tuple[chats.Chat, ...] = ()
    if task.messages_column is not None:
        column = names.index(task.messages_column) if task.messages_column in names else None
        places = [_place(file, number) for number in index.tolist()]
        cells = [None if column is None else row[column] for row in rows]
        talks = tuple(chats.asked(chats.chat_of(cell, task, place)) for cell, place in zip(cells, places, strict=True))
        texts: tuple[list[str], ...] = (list(map(chats.told, talks)),)
    elif task.kind == "causal_lm":
        templates = templates_of(task)
        used = [(place, name) for place, name in enumerate(names) if name in columns_read(task)]
        cells_of = [{name: row[place] for place, name in used} for row in rows]
        places = [_place(file, number) for number in index.tolist()]
        prompts = [prompt_of(templates, filled(cells), place) for cells, place in zip(cells_of, places, strict=True)]
        if odd := with_other_letters(task, list(map(filled, cells_of))):
            log.warning(
                "%s: in %d rows the list has not as many texts as task.choices (%d), so an answer may be none of the "
                "row's; the first is %s",
                *(file, len(odd), len(task.choices or ()), places[odd[0]]),
            )
        split = Split(file, (prompts,), np.zeros(len(rows), np.int64), index, separated=task.separator is Separator.eos)
        return behind(split, task, cells_of, places, examples_of(task))
    else:
        texts = tuple(_column(column, names, rows, file, first, task.extracts) for column in columns_of_texts(task))
    labels = np.zeros((len(rows), 2) if task.extracts else len(rows), np.int64)
    return Split(file, texts, labels, index, chats=talks)


def columns_read(task: Task) -> list[str]:
    """The columns of a task's texts, or all that its templates name."""
    if task.messages_column is not None:
        return [task.messages_column]
    if task.kind != "causal_lm":
        return columns_of_texts(task)
    shared = [task.shots_column] if task.shots and task.shots_column else []
    return list(dict.fromkeys([*columns_of(*(task.prompts or []), task.header), *shared]))


def one_column(task: Task) -> str | None:
    """The column that a text alone is for: the only one, or the only one of some template; None where there is none."""
    if task.kind != "causal_lm" or task.messages_column is not None:
        columns = columns_read(task)
        return columns[0] if len(columns) == 1 else None
    return next((columns[0] for _, columns in templates_of(task) if len(columns) == 1), None)


def _needed(task: Task, names: Sequence[str]) -> list[str]:
    """The columns to look for: of templates, those of one that is all there, or else of the last."""
    if task.kind != "causal_lm" or task.messages_column is not None:
        return columns_read(task)
    templates = [columns for _, columns in templates_of(task)]
    shared = [task.shots_column] if task.shots and task.shots_column else []
    return [*next((columns for columns in templates if set(columns) <= set(names)), templates[-1]), *shared]


def _column(
    column: str, names: Sequence[str], rows: Sequence[Sequence[Any]], file: str, first: int, whole: bool
) -> list[str]:
    place = names.index(column) if column in names else None
    cells: list[Any] = [None if place is None else row[place] for row in rows]
    for number, cell in enumerate(cells, first):
        check_text(cell, _place(file, number), column, whole)
    return cells


def _place(file: str, row: int) -> str:
    return f"{file} row {row} (from 0)"
