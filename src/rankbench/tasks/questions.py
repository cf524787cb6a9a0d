"""Rows of questions, each with a context that holds its answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.task import Task
from rankbench.tasks.splits import Split

if TYPE_CHECKING:
    import pandas as pd

GROUPS = ("NoAns", "HasAns")  # as SQuAD 2.0's script calls questions without an answer and with one
NONE = (-1, -1)

Answers = list[tuple[str, int | None]]  # texts, and where they begin in the context


def questions(name: str, frame: pd.DataFrame, task: Task, file: str) -> Split:
    """Questions and contexts with where the first answer begins and ends, in characters; -1 twice for none.

    Raises RequestError for a row whose answers are none or do not stand where it says.
    """
    asked, contexts, cells = (frame[column].tolist() for column in columns(task))
    labels, references = [], []
    for row, context, cell in zip(frame.index, contexts, cells, strict=True):
        place = f"{file} row {row} (from 0)"
        answers = _answers(cell, f"{place}: '{task.answers_column}'")
        if not answers and not task.version_2_with_negative:
            raise RequestError(
                f"{place} has no answer in '{task.answers_column}', and task={task.name} has one for each question; "
                "take task=squad_v2 for questions without one, or remove the row"
            )
        for text, start in answers:
            _check_place(text, start, context, task, place, needed=name == task.train_split)
        text, start = answers[0] if answers else ("", None)
        labels.append(NONE if start is None else (start, start + len(text)))
        references.append(tuple(text for text, _ in answers))
    groups = tuple(GROUPS[bool(own)] for own in references) if task.version_2_with_negative else ()
    scored = name != task.train_split
    places = np.array(labels, np.int64).reshape(-1, 2)
    texts = (asked, contexts)
    return Split(name, texts, places, frame.index.to_numpy(), tuple(references), groups=groups if scored else ())


def columns(task: Task) -> list[str]:
    """The columns of the question, the context and the answers."""
    return [str(task.question_column), task.context_column, task.answers_column]


def _answers(cell: Any, place: str) -> Answers:
    """A cell's answers: `{text: [...], answer_start: [...]}`, a list of objects of one each, or JSON of these."""
    if isinstance(cell, str):
        with contextlib.suppress(ValueError):
            cell = json.loads(cell)
    if isinstance(cell, list) and all(isinstance(one, Mapping) for one in cell):
        keys = ("text", "answer_start")
        cell = {key: [one.get(key) for one in cell] for key in keys}
    if not isinstance(cell, Mapping) or not isinstance(cell.get("text"), list):
        what = "empty" if cell is None else f"{cell!r:.60}"
        raise RequestError(f"{place} is {what}, not {{text: [...], answer_start: [...]}}; correct the row")
    texts, starts = cell["text"], cell.get("answer_start")
    starts = [None] * len(texts) if starts is None else starts
    if not isinstance(starts, list) or len(starts) != len(texts):
        raise RequestError(f"{place} has {len(texts)} texts and other places in answer_start; give one for each")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str):
            raise RequestError(f"{place} has {text!r:.60}, which is no text; correct the row")
        if not text.strip():
            raise RequestError(f"{place} has an empty text; a question without an answer has an empty list")
        if start is not None and not _whole(start):
            raise RequestError(f"{place} has the answer_start {start!r:.60}, which is no whole number; correct the row")
    return [(text, None if start is None else int(start)) for text, start in zip(texts, starts, strict=True)]


def _whole(start: Any) -> bool:
    """Whether it is a whole number, as a float too, which pandas makes of one where others are missing."""
    return not isinstance(start, bool) and (isinstance(start, int) or (isinstance(start, float) and start.is_integer()))


def _check_place(text: str, start: int | None, context: str, task: Task, place: str, needed: bool) -> None:
    if start is None:
        if needed:
            raise RequestError(
                f"{place}: '{task.answers_column}' has no answer_start, which says where the answer is learnt; add it"
            )
        return
    if start >= 0 and context[start : start + len(text)] == text:
        return
    there = context[start : start + len(text)] if start >= 0 else ""
    found = context.find(text)
    mend = "take it from the context" if found < 0 else f"it stands at {found}, counted in characters"
    raise RequestError(
        f"{place}: answer_start {start} is said to begin {text!r:.60}, and the context has {there!r:.60} there; "
        f"{'the context does not hold the answer: ' if found < 0 else ''}{mend}; correct the row"
    )
