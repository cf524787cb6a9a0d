"""What turns a split of each kind of task into tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rankbench.settings.task import Task
from rankbench.tasks import spans
from rankbench.tasks.encoding import Encoded, encode, encode_responses
from rankbench.tasks.splits import Split
from rankbench.tasks.token_cache import Ids, tokenised


def encoded(split: Split, task: Task, tokenizer: Any, limit: int, ids: Callable[..., Ids] = tokenised) -> Encoded:
    """A split tokenised by `ids`, at most `limit` tokens in a row. Raises RequestError for a row that cannot be."""
    if task.extracts:
        return spans.encode(split, task, tokenizer, limit, ids)
    return (encode_responses if task.kind == "causal_lm" else encode)(split, tokenizer, limit, ids)
