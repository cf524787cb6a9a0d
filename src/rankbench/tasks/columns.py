"""The columns of a split's file that a task reads."""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING

from rankbench.errors import RequestError
from rankbench.settings.task import Task
from rankbench.tasks.labels import number
from rankbench.tasks.reading import other_separator, shown

if TYPE_CHECKING:
    import pandas as pd


def check_columns(frame: pd.DataFrame, task: Task, file: str) -> None:
    """Refuse a split without rows, without the columns that the task names, or with texts that are none."""
    if frame.empty:
        raise RequestError(f"{file} has no rows; a split needs at least one")
    if task.kind == "causal_lm":
        keys = [("task.prompts", column) for column in columns_of(*(task.prompts or []))]
        keys += [("task.response", column) for column in columns_of(task.response)]
    else:
        keys = [("task.text_columns", column) for column in task.text_columns]
        keys += [("task.label_column", task.label_column)]
    for key, column in keys:
        if column not in frame.columns:
            raise RequestError(_lacks(file, column, frame, key))
        if (frame.columns == column).sum() > 1:
            raise RequestError(f"{file} has two columns '{column}'; rename one")
    for column in task.text_columns if task.kind != "causal_lm" else ():
        values = frame[column].tolist()
        written_so = file.lower().endswith((".csv", ".tsv")) or not any(isinstance(value, str) for value in values)
        if written_so and all(number(value) is not None for value in values):
            raise RequestError(f"{file}: column '{column}' holds numbers, not text; set task.text_columns")
        for row, value in zip(frame.index, values, strict=True):
            if not isinstance(value, str):
                what = "empty" if value is None else f"{value!r}, not text"
                raise RequestError(f"{file} row {row} (from 0): '{column}' is {what}; correct or remove the row")


def _lacks(file: str, column: str, frame: pd.DataFrame, key: str) -> str:
    names = [str(name) for name in frame.columns]
    said = f"{file} has no column '{column}'"
    if len(names) == 1 and (mend := other_separator(file, names[0])):
        return f"{said}: {mend}"
    twin = [name for name in names if name.strip().casefold() == column.strip().casefold()]
    meant = f"did you mean {shown(twin)}? " if twin else ""
    return f"{said} (it has {shown(names)}); {meant}set {key}"


def columns_of(*templates: str) -> list[str]:
    """The columns that templates name, each once."""
    fields = [name for template in templates for _, name, _, _ in Formatter().parse(template) if name]
    return list(dict.fromkeys(fields))
