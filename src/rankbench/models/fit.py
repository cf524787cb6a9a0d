"""Whether a tokenizer and a model fit each other: the marks that are needed, rows of the embedding, positions."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from rankbench.errors import RequestError

RESIZE = "model.resize_token_embeddings(len(tokenizer)) gives it one; save the model again, or use its own tokenizer"


def check_marks(tokenizer: Any, model: nn.Module, place: Path, writes: bool) -> None:
    """Refuse a tokenizer without a mark that is needed, or with one that the model has no row for.

    `writes` says that the model is to write responses, which end. Raises RequestError.
    """
    mend = f"set it in {place / 'tokenizer_config.json'}, or use the model's own tokenizer"
    if tokenizer.pad_token_id is None:
        raise RequestError(f"the tokenizer in {place} has neither pad_token nor eos_token to pad with; {mend}")
    if writes and tokenizer.eos_token_id is None:
        raise RequestError(f"the tokenizer in {place} has no eos_token, so no response could end; {mend}")
    rows = _rows(model)
    for name in ("pad", "eos", "bos", "cls", "sep", "unk"):
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None and number >= rows:
            raise RequestError(
                f"{name}_token {getattr(tokenizer, f'{name}_token')!r} of the tokenizer in {place} is number {number}, "
                f"and the model has embeddings for 0 to {rows - 1}; {RESIZE}"
            )


def check_ids(splits: Iterable[Any], model: nn.Module, tokenizer: Any) -> None:
    """Refuse data with a token that the model has no row for. Raises RequestError."""
    rows = _rows(model)
    for split in splits:
        for place, ids in enumerate(split.features["input_ids"]):
            highest = max(ids)
            if highest >= rows:
                word = tokenizer.convert_ids_to_tokens(highest)
                raise RequestError(
                    f"{split.name} row {split.index[place]} (from 0) holds the token {word!r}, number {highest}, and "
                    f"the model has embeddings for 0 to {rows - 1}; {RESIZE}"
                )


def positions(model: nn.Module) -> int:
    """The most tokens that the model reads.

    A table of positions with a padding row, as RoBERTa's kin have, keeps its first ones, up to padding, unused.
    """
    most = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    tables = [part for name, part in model.named_modules() if name.endswith("position_embeddings")]
    unused = [part.padding_idx + 1 for part in tables if getattr(part, "padding_idx", None) is not None]
    return int(most) - max(unused, default=0)


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
