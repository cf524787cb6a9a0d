"""A split as the loop reads it: tokenised once, in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.data import Split
from rankbench.seeds import generator
from rankbench.sources import RequestError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Encoded:
    """A tokenised split: ragged token lists, `labels` (n,), `lengths` (n,)."""

    name: str
    features: dict[str, list[list[int]]]
    labels: np.ndarray
    index: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def encode(split: Split, tokenizer: Any, max_length: int) -> Encoded:
    """Tokenise a split once; texts longer than `max_length` tokens are cut, the longer of a pair first."""
    encoded = tokenizer(
        *split.texts, truncation=True, max_length=max_length, padding=False, return_attention_mask=False
    )
    features = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
    lengths = np.array([len(ids) for ids in features["input_ids"]])
    if not lengths.all():
        row = int(split.index[int(np.argmin(lengths))])
        raise RequestError(f"{split.name} row {row} has no tokens at all; remove it or give it a text")
    return Encoded(split.name, features, split.labels, split.index, lengths)


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
    """A batch padded on the right to its longest row: `input_ids`, `attention_mask` (n, t), `labels` (n,)."""
    import torch

    longest = int(data.lengths[rows].max())
    batch = {"attention_mask": np.zeros((len(rows), longest), dtype=np.int64)}
    for key, lists in data.features.items():
        padded = np.full((len(rows), longest), pad_id if key == "input_ids" else 0, dtype=np.int64)
        for i, row in enumerate(rows):
            padded[i, : len(lists[row])] = lists[row]
        batch[key] = padded
    for i, row in enumerate(rows):
        batch["attention_mask"][i, : data.lengths[row]] = 1
    batch["labels"] = data.labels[rows]
    return {key: torch.from_numpy(value) for key, value in batch.items()}
