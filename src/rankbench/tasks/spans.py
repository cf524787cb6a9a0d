"""Questions with contexts as the windows that a model reads, and spans of tokens as slices of a context."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rankbench.errors import RequestError
from rankbench.settings.task import Task
from rankbench.tasks.encoding import Encoded
from rankbench.tasks.splits import Split
from rankbench.tasks.token_cache import Ids, tokenised

Whole = npt.NDArray[np.int64]
READ = ["input_ids", "attention_mask"]
SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()])


@dataclass(frozen=True)
class Windows:
    """The windows of a split's questions, in order.

    `rows` are the windows as the model reads them, `of` (w,) the question of each. Of each window `places` (t, 2) say
    where in its context each token begins and ends, less blanks, 0 twice for what is no part of it; `central` (t,)
    whether no other window has more context around the token (BERT's "max context").
    """

    rows: Encoded
    of: Whole
    places: list[npt.NDArray[np.int32]]
    central: list[npt.NDArray[np.bool_]]
    contexts: list[str]
    task: Task

    def take(self, questions: np.ndarray) -> Windows:
        """Those of the questions of these numbers, in this order."""
        begins, ends = (np.searchsorted(self.of, questions, side) for side in ("left", "right"))
        rows = np.concatenate([np.arange(*pair) for pair in zip(begins, ends, strict=True)])
        return Windows(
            replace(self.rows.take(rows), packs=tuple(self.rows.examples[rows].tolist())),
            np.repeat(np.arange(len(questions)), ends - begins),
            [self.places[row] for row in rows],
            [self.central[row] for row in rows],
            [self.contexts[row] for row in questions],
            self.task,
        )

    def text(self, window: int, first: int, last: int) -> str:
        """The slice of the context from one token to another, with the marks that combine with its last character."""
        context = self.contexts[self.of[window]]
        begin, end = int(self.places[window][first, 0]), int(self.places[window][last, 1])
        while end < len(context) and unicodedata.category(context[end]).startswith("M"):
            end += 1
        return context[begin:end]


def encode(split: Split, task: Task, tokenizer: Any, limit: int, ids: Callable[..., Ids] = tokenised) -> Encoded:
    """Tokenise questions with their contexts by `ids`, as windows of at most `limit` tokens, the question first.

    A question longer than `task.max_query_length` is cut. The target of a window is the first answer's tokens, or its
    first token twice where it does not hold all of them. Raises RequestError for a tokenizer without offsets, and for
    a row that leaves windows no room.
    """
    _settle(tokenizer)
    asked, cut = _asked(split, task, tokenizer, limit)
    told = ids(
        tokenizer,
        (asked, split.texts[1]),
        truncation="only_second",
        max_length=limit,
        stride=task.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    of = np.array([row for (row,) in told["of"]], np.int64)
    places = [np.array([begins, ends], np.int32).T for begins, ends in zip(told["begins"], told["ends"], strict=True)]
    central: list[npt.NDArray[np.bool_]] = []
    targets = np.zeros((len(of), 2), np.int64)
    bounds = np.searchsorted(of, np.arange(len(split) + 1))
    for row, (begin, end) in enumerate(itertools.pairwise(bounds)):
        document = _Document(places[begin:end], split.texts[1][row], task.doc_stride)
        if not document.tokens:
            raise RequestError(f"{split.name} row {split.index[row]} (from 0): the context has no tokens; remove it")
        places[begin:end] = document.trimmed()
        central += document.central()
        targets[begin:end] = document.targets(*split.labels[row].tolist())
    lengths = np.array([len(row) for row in told["input_ids"]])
    rows = Encoded(
        split.name,
        {"input_ids": [np.array(row, np.int32) for row in told["input_ids"]]},
        targets,
        split.index[of],
        lengths,
        packs=tuple(np.isin(np.arange(len(of)), bounds).astype(int).tolist()),
    )
    whole = np.bincount(of, lengths, len(split)).astype(np.int64)
    none = np.zeros(0, np.int64)
    windows = Windows(rows, of, places, central, split.texts[1], task)
    return Encoded(
        split.name,
        {},
        none,
        split.index,
        whole,
        references=split.references,
        cut=cut,
        groups=split.groups,
        windows=windows,
    )


def _settle(tokenizer: Any) -> None:
    """Have a tokenizer cut on the right and give no token types, which PEFT's model for spans does not pass on.

    Raises RequestError for one that does not say where in a text its tokens stand.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise RequestError(
            f"the model's tokenizer ({type(tokenizer).__name__}) does not say where in a text its tokens stand, so no "
            "answer could be read off the context; use a fast one, with a tokenizer.json"
        )
    tokenizer.truncation_side = "right"
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = list(READ)


def _asked(split: Split, task: Task, tokenizer: Any, limit: int) -> tuple[list[str], int]:
    """The questions, cut where they are too long, and how many were. Raises RequestError where one leaves no room."""
    found = tokenizer(split.texts[0], add_special_tokens=False, return_offsets_mapping=True)
    marks = tokenizer.num_special_tokens_to_add(pair=True)
    asked, cut = [], 0
    for row, (text, tokens) in enumerate(zip(split.texts[0], found["offset_mapping"], strict=True)):
        size = min(len(tokens), task.max_query_length)
        if limit - marks - size <= task.doc_stride:
            raise RequestError(
                f"{split.name} row {split.index[row]} (from 0): a question of {size} tokens leaves "
                f"{limit - marks - size} of {limit} for the context, of which windows share {task.doc_stride}; lower "
                "task.doc_stride or task.max_query_length, or raise task.max_length if the model reads more"
            )
        cut += len(tokens) > size
        asked.append(_shortened(text, tokens[size - 1][1], size, tokenizer) if len(tokens) > size else text)
    return asked, cut


def _shortened(text: str, end: int, most: int, tokenizer: Any) -> str:
    """The text up to `end`, or less where that alone has more than `most` tokens, as half a character's tokens do."""
    while end and len(tokenizer(text[:end], add_special_tokens=False)["input_ids"]) > most:
        end -= 1
    return text[:end]


class _Document:
    """The tokens of one context, as its windows have them: places counted from 1, 0 twice for others."""

    def __init__(self, windows: Sequence[npt.NDArray[np.int32]], context: str, stride: int) -> None:
        self.windows = list(windows)
        self.inside = [np.flatnonzero(places[:, 1] > 0) for places in windows]
        sizes = [len(inside) for inside in self.inside]
        self.starts = np.concatenate([[0], np.cumsum(np.array(sizes[:-1], np.int64) - stride)]).astype(int)
        self.sizes, self.tokens = sizes, int(self.starts[-1] + sizes[-1])
        self.places = np.zeros((self.tokens, 2), np.int32)
        for start, size, places, inside in zip(self.starts, sizes, self.windows, self.inside, strict=True):
            self.places[start : start + size] = places[inside] - 1
        self.places = _less_blanks(self.places, context)
        self.context = context

    def trimmed(self) -> list[npt.NDArray[np.int32]]:
        """Each window's places less blanks."""
        found = [np.zeros_like(places) for places in self.windows]
        for start, size, places, inside in zip(self.starts, self.sizes, found, self.inside, strict=True):
            places[inside] = self.places[start : start + size]
        return found

    def central(self) -> list[npt.NDArray[np.bool_]]:
        """Whether each token of a window has the most context there, of equals in the first (BERT's rule)."""
        best, owner = np.full(self.tokens, -1.0), np.zeros(self.tokens, int)
        for number, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            score = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.01 * size
            part = slice(start, start + size)
            owner[part] = np.where(score > best[part], number, owner[part])
            best[part] = np.maximum(best[part], score)
        found = [np.zeros(len(places), bool) for places in self.windows]
        for number, (start, size, inside) in enumerate(zip(self.starts, self.sizes, self.inside, strict=True)):
            found[number][inside] = owner[start : start + size] == number
        return found

    def targets(self, begin: int, end: int) -> Whole:
        """The first and last token of an answer in each window that holds all of it; 0 twice in others."""
        found = np.zeros((len(self.windows), 2), np.int64)
        begin, end = _trimmed(self.context, begin, end)
        over = np.flatnonzero((self.places[:, 0] < end) & (self.places[:, 1] > begin))
        if not len(over):
            return found
        first, last = over[0], over[-1]
        for number, (start, size, inside) in enumerate(zip(self.starts, self.sizes, self.inside, strict=True)):
            if start <= first and last < start + size:
                found[number] = inside[first - start], inside[last - start]
        return found


def _trimmed(context: str, begin: int, end: int) -> tuple[int, int]:
    """An answer's place less the blanks at its ends."""
    text = context[begin:end] if begin >= 0 else ""
    return begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())


def _less_blanks(places: npt.NDArray[np.int32], context: str) -> npt.NDArray[np.int32]:
    """Where tokens begin and end less blanks at their ends; of blanks alone both are one."""
    codes = np.frombuffer(context.encode("utf-32-le"), np.uint32)
    at = np.arange(len(codes) + 1)
    blank = np.append(np.isin(codes, SPACES), False)
    following = np.minimum.accumulate(np.where(blank, len(codes), at)[::-1])[::-1]
    before = np.append(0, np.maximum.accumulate(np.where(blank[:-1], 0, at[1:])))
    begins = np.minimum(following[places[:, 0]], places[:, 1])
    ends = np.maximum(before[places[:, 1]], begins)
    return np.stack([begins, ends], axis=1).astype(np.int32)
