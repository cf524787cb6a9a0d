"""Rows with several accepted texts: a row of each to learn from, and one row of each prompt to score."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.references import REFERENCE
from rankbench.settings.task import Task
from rankbench.tasks.columns import filled, lacks, prompt_of, references_column, templates_of

if TYPE_CHECKING:
    import pandas as pd

ACCEPTED = "\x1freferences"  # a column of lists, of a name that no file's has


def paired(frame: pd.DataFrame, task: Task, file: str) -> pd.DataFrame:
    """A row for each accepted text of each row, in order; rows keep their number in the file. Raises RequestError."""
    texts = _texts(frame, task, file)
    found = frame.iloc[np.repeat(np.arange(len(frame)), [len(own) for own in texts])].copy()
    found[REFERENCE] = [text for own in texts for text in own]
    found[ACCEPTED] = [[text] for text in found[REFERENCE]]
    return found


def merged(frame: pd.DataFrame, task: Task, file: str) -> pd.DataFrame:
    """The first row of each prompt with the accepted texts of all its rows, in order of appearance.

    Raises RequestError for a row without one, and where the rows of a prompt are of several groups.
    """
    texts = _texts(frame, task, file)
    of_prompt: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts_of(frame, task, file)):
        of_prompt.setdefault(prompt, []).append(place)
    if task.groups_column is not None and task.groups_column in frame.columns:
        _refuse_several(frame, task, file, list(of_prompt.values()))
    found = frame.iloc[[places[0] for places in of_prompt.values()]].copy()
    accepted = [[text for place in places for text in texts[place]] for places in of_prompt.values()]
    found[REFERENCE] = [own[0] for own in accepted]
    found[ACCEPTED] = accepted
    return found


def prompts_of(frame: pd.DataFrame, task: Task, file: str) -> list[str]:
    """The prompt of each row. Raises RequestError for a row that no template fits."""
    templates = templates_of(task)
    rows = zip(frame.index, frame.to_dict("records"), strict=True)
    return [prompt_of(templates, filled(values), f"{file} row {row} (from 0)") for row, values in rows]


def groups_of(frame: pd.DataFrame, task: Task, file: str) -> tuple[str, ...]:
    """The group of each row; nothing where the task has none. Raises RequestError for a value of no group."""
    if task.groups_column is None:
        return ()
    if task.groups_column not in frame.columns:
        raise RequestError(lacks(file, task.groups_column, list(map(str, frame.columns)), "set task.groups_column"))
    group_of = {value: group for group, values in task.groups.items() for value in map(str, values)}
    cells = frame[task.groups_column].tolist()
    for row, value in zip(frame.index, cells, strict=True):
        if str(value) not in group_of:
            raise RequestError(
                f"{file} row {row} (from 0): '{task.groups_column}' is {value!r}, which is in no group of task.groups "
                f"({', '.join(task.groups)}); add it to one, or set task.groups_column=null task.groups=null"
            )
    return tuple(group_of[str(value)] for value in cells)


def _texts(frame: pd.DataFrame, task: Task, file: str) -> list[list[str]]:
    column = references_column(frame, task)
    rows = zip(frame.index, frame[column].tolist(), strict=True)
    return [_of_row(cell, f"{file} row {row} (from 0): '{column}'") for row, cell in rows]


def _of_row(cell: Any, place: str) -> list[str]:
    """The texts of a cell: a list of them, as JSON where CSV holds it, or one. Raises RequestError."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            cell = json.loads(cell)
    cell = cell.tolist() if isinstance(cell, np.ndarray) else cell
    texts = [cell] if isinstance(cell, str) else cell
    if texts is None or texts == []:
        raise RequestError(
            f"{place} is empty, and a row needs a text to learn or to be held to; correct or remove the row"
        )
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"{place} is {cell!r}, neither a text nor a list of texts; correct the row")
    if not all(text.strip() for text in texts):
        raise RequestError(f"{place} has an empty text; take it out, or remove the row")
    return texts


def _refuse_several(frame: pd.DataFrame, task: Task, file: str, rows: list[list[int]]) -> None:
    cells = frame[task.groups_column].tolist()
    for places in rows:
        other = next((place for place in places if cells[place] != cells[places[0]]), None)
        if other is not None:
            raise RequestError(
                f"{file} rows {frame.index[places[0]]} and {frame.index[other]} (from 0) have one prompt, and "
                f"'{task.groups_column}' is {cells[places[0]]!r} and {cells[other]!r}; correct one of them"
            )
