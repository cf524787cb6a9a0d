"""Validation held out of the training split, by a hash of each text."""

from __future__ import annotations

import hashlib
import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.task import Task
from rankbench.tasks.columns import columns_of
from rankbench.tasks.labels import written

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("rankbench")


def hold_out(frame: pd.DataFrame, task: Task, file: str) -> dict[str, pd.DataFrame]:
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
