"""Validation and test held out of the training split, by a hash of each text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.task import Task
from rankbench.tasks.columns import columns_of
from rankbench.tasks.labels import written
from rankbench.tasks.reading import held_by
from rankbench.tasks.references import prompts_of

if TYPE_CHECKING:
    import pandas as pd


def hold_out(
    frame: pd.DataFrame, task: Task, file: str, lacking: Sequence[str]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The training split less those that it lacks, by a hash of the text, and these; and what to say of it.

    The same rows whatever the seed, and equal texts on one side. Validation is of the low hashes and the test of the
    high ones, so that neither changes with the other. Raises RequestError.
    """
    if len(task.validation_splits) > 1 and set(lacking) & set(task.validation_splits):
        raise RequestError("task.validation_fraction holds out one split; name one in task.validation_splits")
    texts = _told_apart(frame, task, file)
    draws = {text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") / 2**64 for text in texts}
    found, taken, said = {}, np.zeros(len(frame), dtype=bool), []
    for name in lacking:
        test = name in task.test_splits
        fraction = task.test_fraction if test else task.validation_fraction
        own = {text: 1 - draw for text, draw in draws.items()} if test else draws
        chosen = _chosen(frame, texts, own, fraction, task)
        held = np.array([text in chosen for text in texts]) & ~taken
        taken |= held
        if taken.all() or not held.any():
            raise RequestError(
                f"{held_by(task, name)}={fraction} of {len(frame)} rows leaves nothing to "
                f"{'train on' if taken.all() else 'score'}; change it"
            )
        found[name] = frame[held]
        repeated = f"; its {len(frame):,} rows have {len(draws):,} texts" if len(draws) < len(frame) else ""
        named = f" as {name}" if task.test_splits else ""
        shares = ", that share of each class" if task.validation_stratified else ""
        said.append(
            f"hold out {held.sum():,} of {len(frame):,} rows of {file}{named} ({100 * held.mean():.0f} %{shares}) by a "
            f"hash of each text, so that equal texts stay together{repeated}"
        )
    return {task.train_split: frame[~taken], **found}, said


def _told_apart(frame: pd.DataFrame, task: Task, file: str) -> list[str]:
    """The text by which a row is drawn: all that it reads, or the prompt alone where a prompt has several rows.

    Of questions it is the context, so that all questions of one stay together.
    """
    if task.references_columns:
        return prompts_of(frame, task, file)
    columns = [task.context_column] if task.extracts else task.text_columns
    if task.kind == "causal_lm":
        columns = [task.messages_column] if task.messages_column else columns_of(*(task.prompts or []), task.response)
    return ["\x1f".join(map(_or_empty, row)) for row in frame[columns].itertuples(index=False, name=None)]


def _chosen(frame: pd.DataFrame, texts: list[str], draws: dict[str, float], fraction: float, task: Task) -> set[str]:
    """The texts of the lowest draws, that share of all of them, or of each class's rows."""
    if task.validation_stratified:
        return _of_each_class(texts, frame[task.label_column].tolist(), draws, fraction)
    return {text for text, draw in draws.items() if draw < fraction}


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
