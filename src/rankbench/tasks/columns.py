"""The columns of a split's file that a task reads."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.task import Task
from rankbench.tasks.forms import Cell, Listed, letter, texts_of
from rankbench.tasks.labels import number
from rankbench.tasks.reading import other_separator, shown

if TYPE_CHECKING:
    import pandas as pd


def check_columns(frame: pd.DataFrame, task: Task, file: str) -> None:
    """Refuse a split without rows, without the columns that the task names, or with texts that are none."""
    if frame.empty:
        raise RequestError(f"{file} has no rows; a split needs at least one")
    if task.kind == "causal_lm":
        messages = [] if task.messages_column is None else [task.messages_column]
        given = "=conversations" if "conversations" in frame.columns else ""  # as ShareGPT calls it
        keys = [("task.prompts", column) for column in columns_of(*(task.prompts or []))]
        keys += [("task.response", column) for column in columns_of(task.response) if not task.references_columns]
        if task.references_columns:
            keys.append(("task.references_columns", references_column(frame, task)))
        keys += [(f"task.messages_column{given}", column) for column in messages]
    elif task.extracts:
        named = ("question_column", "context_column", "answers_column")
        keys = [(f"task.{key}", getattr(task, key)) for key in named]
    else:
        keys = [("task.text_columns", column) for column in task.text_columns]
        keys += [("task.label_column", task.label_column)]
    for key, column in keys:
        if column not in frame.columns:
            raise RequestError(lacks(file, column, list(map(str, frame.columns)), f"set {key}"))
        if (frame.columns == column).sum() > 1:
            raise RequestError(f"{file} has two columns '{column}'; rename one")
    mend = "task.question_column and task.context_column" if task.extracts else "task.text_columns"
    for column in columns_of_texts(task):
        values = frame[column].tolist()
        written_so = file.lower().endswith((".csv", ".tsv")) or not any(isinstance(value, str) for value in values)
        if written_so and all(number(value) is not None for value in values):
            raise RequestError(f"{file}: column '{column}' holds numbers, not text; set {mend}")
        for row, value in zip(frame.index, values, strict=True):
            check_text(value, f"{file} row {row} (from 0)", column, task.extracts)


def columns_of_texts(task: Task) -> list[str]:
    """The columns whose cells are the task's texts: none where templates or conversations make them."""
    if task.extracts:
        return [str(task.question_column), task.context_column]
    return [] if task.kind == "causal_lm" else task.text_columns


def check_text(value: Any, place: str, column: str, filled: bool = False) -> None:
    """Refuse a cell that holds no text, or where it has to be `filled` blanks alone. Raises RequestError."""
    if not isinstance(value, str) or (filled and not value.strip()):
        what = "empty" if value is None or isinstance(value, str) else f"{value!r}, not text"
        raise RequestError(f"{place}: '{column}' is {what}; correct or remove the row")


def lacks(file: str, column: str, names: Sequence[str], mend: str) -> str:
    """What to say of a file without a column that is needed; it has those of `names`."""
    said = f"{file} has no column '{column}'"
    if len(names) == 1 and (separator := other_separator(file, names[0])):
        return f"{said}: {separator}"
    twin = [name for name in names if name.strip().casefold() == column.strip().casefold()]
    meant = f"did you mean {shown(twin)}? " if twin else ""
    return f"{said} (it has {shown(names)}); {meant}{mend}"


def references_column(frame: pd.DataFrame, task: Task) -> str:
    """The first of `task.references_columns` that a file has; the first of all where it has none."""
    return next((name for name in task.references_columns if name in frame.columns), task.references_columns[0])


def columns_of(*templates: str) -> list[str]:
    """The columns that templates name, each once."""
    fields = [name for template in templates for _, name, _, _ in Formatter().parse(template) if name]
    return list(dict.fromkeys(fields))


def _formed(template: str, form: str) -> list[str]:
    """The columns that a template writes in this form."""
    return [name for _, name, spec, _ in Formatter().parse(template) if name and spec == form]


def _unwritable(template: str, texts: Mapping[str, str]) -> str:
    """The first column whose text cannot be written in the template's form."""
    for _, name, spec, _ in Formatter().parse(template):
        if name:
            try:
                format(texts[name], spec or "")
            except ValueError:
                return name
    return ", ".join(columns_of(template))


def templates_of(task: Task) -> list[tuple[str, list[str]]]:
    """The templates of a task's prompts, each with its columns."""
    return [(template, columns_of(template)) for template in task.prompts or []]


def filled(values: Mapping[Any, Any]) -> dict[str, str]:
    """The cells of a row that have a text: what templates may be filled with. A list of texts is for some forms."""
    cells = {str(key): _cell(value) for key, value in values.items()}
    return {key: cell for key, cell in cells.items() if cell is not None}


def prompt_of(templates: Sequence[tuple[str, list[str]]], texts: Mapping[str, str], place: str) -> str:
    """The first template whose columns all hold something, filled; each comes with its columns. Raises RequestError."""
    for template, columns in templates:
        if all(texts.get(column, "").strip() for column in columns):
            try:
                return template.format(**texts)
            except ValueError as error:  # a form that a text cannot be written in
                raise RequestError(
                    f"{place}: '{_unwritable(template, texts)}' {error}; correct the row, or write it otherwise in "
                    "task.prompts"
                ) from error
    empty = ", ".join(column for column in templates[-1][1] if not texts.get(column, "").strip())
    raise RequestError(f"{place}: {empty} is empty, so no template of task.prompts fits")


def response_of(task: Task, values: Mapping[Any, Any], texts: Mapping[str, str], place: str) -> str:
    """The response of a row, from its cells and from those that have a text. Raises RequestError."""
    wrong = [column for column in columns_of(task.response) if type(texts.get(column)) is not Cell]
    if wrong:
        found = values[wrong[0]]
        what = "is empty" if found is None else f"holds {found!r}, not text"
        raise RequestError(f"{place}: '{wrong[0]}' {what}; correct or remove the row")
    try:
        response = task.response.format(**texts)
    except ValueError as error:
        raise RequestError(f"{place}: '{_unwritable(task.response, texts)}' {error}; correct the row") from error
    _check_letters(task, texts, place)
    if task.choices is not None and response not in task.choices:
        raise RequestError(
            f"{place}: the response is {response!r}, none of task.choices ({', '.join(map(repr, task.choices))}); "
            "correct the row, or the choices"
        )
    return response


def with_other_letters(task: Task, rows: Sequence[Mapping[str, str]]) -> list[int]:
    """The rows whose list in the prompt is not as long as `task.choices`, so that an answer may be none of theirs."""
    columns = {name for template in task.prompts or [] for name in _formed(template, "lettered")}

    def other(text: str) -> bool:
        try:
            return len(texts_of(text)) != len(task.choices or ())
        except ValueError:  # the prompt says what is wrong with it
            return False

    asked = rows if task.choices else ()
    return [place for place, texts in enumerate(asked) if any(other(texts[c]) for c in columns & texts.keys())]


def _check_letters(task: Task, texts: Mapping[str, str], place: str) -> None:
    """Refuse a letter that the lists of the row's prompt do not reach. Raises RequestError."""
    lengths = {}
    for column in (name for template in task.prompts or [] for name in _formed(template, "lettered")):
        if column in texts:
            with contextlib.suppress(ValueError):  # the prompt says what is wrong with it
                lengths[column] = len(texts_of(texts[column]))
    for column in _formed(task.response, "letter") if lengths else []:
        if ord(letter(texts[column])) - ord("A") >= max(lengths.values()):
            said = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
            raise RequestError(
                f"{place}: '{column}' is {str(texts[column])!r}, which is no place in the row's list ({said}, the "
                "first is 0 or A); correct the row"
            )


def _cell(value: Any) -> Cell | None:
    listed = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(listed, list) and listed and all(isinstance(one, str) for one in listed):
        return Listed(json.dumps(listed, ensure_ascii=False))
    text = _text(value)
    return None if text is None else Cell(text)


def _text(value: Any) -> str | None:
    """A cell as text; None for what is neither text, nor a number, nor a date."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | date):
        return None
    return str(value) if isinstance(value, date) or math.isfinite(value) else None
