"""A split as the loop reads it: tokenised once, in batches of like length."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.metrics import ClassRoles
from rankbench.system.seeds import generator
from rankbench.tasks import chat_template
from rankbench.tasks.chat_template import Row
from rankbench.tasks.splits import Split
from rankbench.tasks.token_cache import Ids, tokenised

if TYPE_CHECKING:
    import torch

    from rankbench.tasks.spans import Windows

log = logging.getLogger("rankbench")

TARGETS = ("labels", "start_positions", "end_positions")  # of a batch, what no forward reads
IGNORED = -100  # torch's cross-entropy leaves a target of this value out


@dataclass(frozen=True)
class Encoded:
    """A tokenised split: ragged token lists, `labels` (n,), `lengths` (n,).

    For a causal_lm task the labels are ragged too, in `features`: IGNORED at the prompt's tokens, else the token.
    `prompts` are what a response is generated from, `references` the accepted answers, `packs` the examples in each row
    where several were packed into one. `cut` rows were longer than they may be. `roles` are
    the split's, as are the `groups` of its rows. Where a row is read in several `windows`, it has no features itself.
    """

    name: str
    features: dict[str, list[Any]]
    labels: np.ndarray
    index: np.ndarray
    lengths: np.ndarray
    prompts: list[list[int]] = field(default_factory=list)
    references: tuple[tuple[str, ...], ...] = ()
    packs: tuple[int, ...] = ()
    cut: int = 0
    roles: ClassRoles = field(default_factory=ClassRoles)
    groups: tuple[str, ...] = ()
    windows: Windows | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def inputs(self) -> Encoded:
        """What a model reads: these rows, or their windows, whose labels are places (w, 2)."""
        return self.windows.rows if self.windows else self

    def summed(self, values: np.ndarray) -> np.ndarray:
        """The sum (n,) of each row's values, of which there is one for each of `inputs`."""
        return np.bincount(self.windows.of, values, len(self)) if self.windows else values

    @property
    def examples(self) -> np.ndarray:
        """The examples in each row, (n,): one, or as many as were packed."""
        return np.array(self.packs) if self.packs else np.ones(len(self), np.int64)

    @property
    def targets(self) -> np.ndarray:
        """What each row counts in the loss, (n,): its scored tokens, or 1 for a label."""
        if "labels" not in self.features:
            return np.ones(len(self), np.int64)
        return np.array([sum(label != IGNORED for label in labels) for labels in self.features["labels"]])

    def take(self, rows: np.ndarray) -> Encoded:
        """The rows of these numbers, in this order, as a split of the same name; none of them packed."""

        def some(values: Sequence[Any]) -> list[Any]:
            return [values[row] for row in rows]

        return Encoded(
            self.name,
            {key: some(lists) for key, lists in self.features.items()},
            self.labels[rows] if len(self.labels) else self.labels,
            self.index[rows],
            self.lengths[rows],
            some(self.prompts) if self.prompts else [],
            tuple(some(self.references)) if self.references else (),
            roles=self.roles,
            groups=tuple(some(self.groups)) if self.groups else (),
            windows=self.windows.take(rows) if self.windows else None,
        )


def encode(split: Split, tokenizer: Any, max_length: int, ids: Callable[..., Ids] = tokenised) -> Encoded:
    """Tokenise a split by `ids`; texts longer than `max_length` tokens are cut, the longer of a pair first."""
    features = dict(ids(tokenizer, split.texts, truncation=True, max_length=max_length))
    lengths = np.array([len(ids) for ids in features["input_ids"]])
    cut = sum(row[0] for row in features.pop("cut"))
    if not lengths.all():
        row = int(split.index[int(np.argmin(lengths))])
        raise RequestError(f"{split.name} row {row} (from 0) has no tokens at all; remove it or give it a text")
    return Encoded(
        split.name, features, split.labels, split.index, lengths, cut=cut, roles=split.roles, groups=split.groups
    )


def encode_responses(split: Split, tokenizer: Any, max_length: int, ids: Callable[..., Ids] = tokenised) -> Encoded:
    """Tokenise prompts with their responses, or conversations, by `ids`; generation sees the tokens that training saw.

    A response ends in the end mark, unless it is cut at `max_length` tokens (prompt included); of a conversation every
    turn of the assistant is scored, as `chat_template.rows` has it. Raises RequestError for a prompt that leaves no
    room.
    """
    if split.chats:
        found = chat_template.rows(split.chats, _placed(split), tokenizer, ids)
    else:
        found = _answered(split, tokenizer, max_length, ids)
    begins = [row.scored.index(True) for row in found]  # the answer, or the first of them
    too_long = [i for i, begin in enumerate(begins) if not 0 < begin < max_length]
    if too_long:
        i = too_long[0]
        raise RequestError(
            f"{split.name} row {split.index[i]} (from 0): a prompt of {begins[i]} tokens leaves no room for "
            f"a response in {max_length} (so do {len(too_long) - 1} others); raise task.max_length if the model reads "
            f"more{', or lower task.shots' if split.leads and split.leads.rows[i].shots else ''}"
        )
    cut = sum(len(row.tokens) > max_length for row in found)
    rows = [row.tokens[:max_length] for row in found]
    labels = [
        [token if scored else IGNORED for token, scored in zip(tokens, row.scored, strict=False)]
        for tokens, row in zip(rows, found, strict=True)
    ]
    lengths = np.array([len(row) for row in rows])
    features = {"input_ids": rows, "labels": labels}
    prompts = [row.prompt for row in found]
    none, accepted, groups = np.zeros(0, np.int64), split.references, split.groups
    return Encoded(split.name, features, none, split.index, lengths, prompts, accepted, cut=cut, groups=groups)


def _answered(split: Split, tokenizer: Any, max_length: int, ids: Callable[..., Ids]) -> list[Row]:
    """Prompts and responses, tokenised apart."""
    _end_mark(tokenizer)
    prompts = encode_prompts(split, tokenizer, max_length, ids)
    responses = ids(tokenizer, [split.texts[1]], add_special_tokens=False)["input_ids"]
    return [
        Row(
            [*prompt, *response, tokenizer.eos_token_id],
            [False] * len(prompt) + [True] * (len(response) + 1),
            prompt,
        )
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def encode_prompts(
    split: Split, tokenizer: Any, max_length: int | None = None, ids: Callable[..., Ids] = tokenised
) -> list[list[int]]:
    """The tokens of prompts alone: as the chat template has them, or behind the mark that begins a text, if any.

    Where prompt and response are separated the end-of-text token comes last. Worked examples go, the last first, where
    prompt and response would be longer than `max_length`; that is warned of.
    """
    if split.chats:
        return chat_template.prompts(split.chats, _placed(split), tokenizer, ids)
    begin = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
    end = [_end_mark(tokenizer)] if split.separated else []

    def tokens(texts: list[str]) -> list[list[int]]:
        own = ids(tokenizer, [texts], add_special_tokens=False)["input_ids"]
        return [[*begin, *prompt, *end] for prompt in own]

    if split.leads is None:
        return tokens(split.texts[0])
    prompts, fewer = split.leads.prompts(split.texts[0], tokens, max_length)
    if fewer:
        log.warning(
            "%s: %s of %s prompts have fewer examples than task.shots, so as to leave room in %d tokens",
            *(split.name, f"{fewer:,}", f"{len(prompts):,}", max_length),
        )
    return tokens(prompts)


def _end_mark(tokenizer: Any) -> int:
    """The token that ends a text. Raises RequestError where the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise RequestError("the model's tokenizer has no end mark; set eos_token in its tokenizer_config.json")
    return int(tokenizer.eos_token_id)


def _placed(split: Split) -> Callable[[int], str]:
    return lambda place: f"{split.name} row {split.index[place]} (from 0)"


def packed(data: Encoded, max_length: int) -> Encoded:
    """Several rows in one, up to `max_length` tokens, each with positions from 0 so that none sees another.

    First fit, longest first. No row's first token is a target, since every prompt has one.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for row in np.argsort(-data.lengths, kind="stable"):
        place = next((i for i, left in enumerate(room) if left >= data.lengths[row]), None)
        if place is None:
            place = len(bins)
            bins.append([])
            room.append(max_length)
        bins[place].append(int(row))
        room[place] -= int(data.lengths[row])
    features = {
        key: [[value for row in rows for value in lists[row]] for rows in bins] for key, lists in data.features.items()
    }
    features["position_ids"] = [[i for row in rows for i in range(data.lengths[row])] for rows in bins]
    lengths = np.array([len(ids) for ids in features["input_ids"]])
    packs = tuple(map(len, bins))
    return Encoded(data.name, features, data.labels, np.arange(len(bins)), lengths, packs=packs, cut=data.cut)


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int, group: bool) -> list[np.ndarray]:
    """The epoch's batches of row numbers, in training order: a pure function of (seed, epoch).

    With `group`, rows are sorted by length inside random megabatches of 50 batches, and the batches then shuffled:
    little padding, still random.
    """
    order = generator(seed, "order", epoch).permutation(len(lengths))
    if group:
        mega = 50 * batch_size
        parts = [order[i : i + mega] for i in range(0, len(order), mega)]
        order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if group:
        batches = [batches[i] for i in generator(seed, "batches", epoch).permutation(len(batches))]
    return batches


def sorted_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of like length, longest first, so that too large a batch fails at once."""
    order = np.argsort(-lengths, kind="stable")
    for i in range(0, len(order), batch_size):
        yield order[i : i + batch_size]


def collate(data: Encoded, rows: np.ndarray, pad_id: int) -> dict[str, torch.Tensor]:
    """A batch padded on the right to its longest row: `input_ids`, `attention_mask` (n, t), `labels` (n,).

    Ragged labels give `labels` (n, s), the targets of the last s positions, where s just holds every scored token.
    Packed rows have `position_ids` instead of a mask, windows `start_positions` and `end_positions` (n,) as labels.
    """
    import torch

    longest = int(data.lengths[rows].max())
    batch = {"attention_mask": np.zeros((len(rows), longest), dtype=np.int64)}
    for key, lists in data.features.items():
        filler = {"input_ids": pad_id, "labels": IGNORED}.get(key, 0)
        padded = np.full((len(rows), longest), filler, dtype=np.int64)
        for i, row in enumerate(rows):
            padded[i, : len(lists[row])] = lists[row]
        batch[key] = padded
    for i, row in enumerate(rows):
        batch["attention_mask"][i, : data.lengths[row]] = 1
    if "position_ids" in batch:
        del batch["attention_mask"]
    if "labels" in batch:
        batch["labels"] = batch["labels"][:, int((batch["labels"] != IGNORED).any(axis=0).argmax()) :]
    elif data.labels.ndim > 1:
        batch["start_positions"], batch["end_positions"] = data.labels[rows].T.copy()
    else:
        batch["labels"] = data.labels[rows]
    return {key: torch.from_numpy(value) for key, value in batch.items()}
