"""Answers that are spans of a context: the best pair of a start and an end over all windows of a question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rankbench.methods.objective import span_logits
from rankbench.tasks.spans import Windows

PART = 512  # windows whose pairs are scored at a time
STARTS, ENDS, NULL = ("start", "start_logit"), ("end", "end_logit"), "null"


def candidates(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], most: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The `most` best starts and ends of each window with their logits, its null score; and the logits behind them.

    They are taken among all tokens of the window, as BERT does; of equals the earlier comes first. Where a window has
    fewer tokens the rest have the logit minus infinity. The null score is that of the first token as start and end.
    """
    logits = span_logits(model, inputs)
    columns: dict[str, torch.Tensor] = {}
    for (place, value), own in zip((STARTS, ENDS), logits.unbind(-1), strict=True):
        values, places = own.sort(dim=1, descending=True, stable=True)
        lacking = max(0, most - own.shape[1])
        columns[place] = torch.nn.functional.pad(places[:, :most], (0, lacking))
        columns[value] = torch.nn.functional.pad(values[:, :most], (0, lacking), value=-torch.inf)
    columns[NULL] = logits[:, 0].sum(-1)
    return columns, logits[inputs["attention_mask"].bool()]


def answered(windows: Windows, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The column `prediction` (k, n) of n questions by k sub-models, from the candidates (k, windows, ...).

    A start stands where its window has the most context, no end before it, and neither is a blank nor outside the
    context; an answer has at most `task.max_answer_length` tokens. `score` (k, n) is the sum of the two logits of the
    best, 0 where there is none. With `task.version_2_with_negative` `null_difference` (k, n) is the least null score
    over the windows less that, and where it is above the threshold the prediction is empty.
    """
    task, n = windows.task, len(windows.contexts)
    k = len(columns[NULL])
    texts, scores = np.full((k, n), "", dtype=object), np.zeros((k, n), np.float32)
    differences = np.zeros((k, n), np.float32)
    begins = np.searchsorted(windows.of, np.arange(n))
    for member in range(k):
        own = {name: values[member] for name, values in columns.items()}
        best, starts, ends = _best(windows, own)
        for row in range(n):
            part = best[begins[row] : begins[row + 1] if row + 1 < n else None]
            window = begins[row] + int(part.argmax())
            if np.isfinite(best[window]):
                texts[member, row] = windows.text(window, int(starts[window]), int(ends[window]))
                scores[member, row] = best[window]
        if task.version_2_with_negative:
            differences[member] = np.minimum.reduceat(own[NULL], begins) - scores[member]
            texts[member, differences[member] > task.null_score_diff_threshold] = ""
    found = {"prediction": texts, "score": scores}
    return found | ({"null_difference": differences} if task.version_2_with_negative else {})


def _best(windows: Windows, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each window (w,) the best pair's score, minus infinity for none, its start and its end."""
    count = len(windows.of)
    best, starts, ends = np.full(count, -np.inf, np.float32), np.zeros(count, int), np.zeros(count, int)
    for begin in range(0, count, PART):
        part = slice(begin, begin + PART)
        first, last = columns[STARTS[0]][part, :, None], columns[ENDS[0]][part, None, :]
        score = columns[STARTS[1]][part, :, None] + columns[ENDS[1]][part, None, :]
        may_start, may_end = _allowed(windows, range(count)[part])
        rows = np.arange(len(score))
        length = last - first + 1
        fits = (length >= 1) & (length <= windows.task.max_answer_length)
        fits &= may_start[rows[:, None, None], first] & may_end[rows[:, None, None], last]
        score = np.where(fits, score, -np.inf).reshape(len(score), -1)
        chosen = score.argmax(1)
        width = columns[ENDS[0]].shape[1]
        best[part] = score[rows, chosen]
        starts[part], ends[part] = first[rows, chosen // width, 0], last[rows, 0, chosen % width]
    return best, starts, ends


def _allowed(windows: Windows, chosen: range) -> tuple[np.ndarray, np.ndarray]:
    """Of these windows (c, t) where an answer may start, and where it may end."""
    width = max(len(windows.places[window]) for window in chosen)
    may_start, may_end = np.zeros((len(chosen), width), bool), np.zeros((len(chosen), width), bool)
    for row, window in enumerate(chosen):
        places = windows.places[window]
        holds = places[:, 0] < places[:, 1]
        may_end[row, : len(places)] = holds
        may_start[row, : len(places)] = holds & windows.central[window]
    return may_start, may_end
