"""Decoding that chooses its depth by the token: early exits by confidence, and an exit that drafts for the whole model.

`exits` are the depths at which a token may leave, smallest first, the last the whole. One sequence at a time. A token
that left at an exit has no keys and values above it; they are computed, from its kept residual stream, when a later
token first goes deeper. So the caches are those of the whole model, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from rankbench.methods.layer_stack import Stack


@dataclass
class Answer:
    """A response, how many of its tokens each depth decided, and of the drafted tokens how many were accepted."""

    tokens: list[int]
    decided: dict[int, int]
    drafted: int = 0
    accepted: int = 0

    @property
    def steps(self) -> int:
        """Tokens decided, the end mark too."""
        return sum(self.decided.values())


class Reader:
    """A sequence read by a decoder whose segments, the layers between two exits, may each have got to another token."""

    def __init__(self, model: Any, stack: Stack, exits: Sequence[int], prompt: Sequence[int]) -> None:
        stack.cut(exits[-1])
        self.model, self.stack, self.exits = model, stack, exits
        self.cache = DynamicCache(config=stack.config)
        self.device = next(stack.layers[0].parameters()).device
        self.ids = list(prompt)
        self.read = [0 for _ in exits]  # tokens that each segment has read
        self.streams: list[torch.Tensor | None] = [None for _ in exits]  # what the next segment has yet to read

    def advance(self, segment: int, last: int = 1) -> torch.Tensor:
        """Let a segment read to the end; the one before it must have. Logits (last, vocabulary) at its exit.

        Raises FloatingPointError when they are not finite.
        """
        exits = [0, *self.exits]
        below, above = exits[segment], exits[segment + 1]
        start, end = self.read[segment], len(self.ids)
        positions = torch.arange(start, end, device=self.device)
        seen = torch.arange(end, device=self.device)
        given = self.streams[segment - 1] if segment else None
        with self.stack.between(below, above, given), self.stack.tapped([above]) as streams:
            logits = self.model(
                input_ids=torch.tensor([self.ids[start:end]], device=self.device),
                attention_mask=(seen[None] <= positions[:, None])[None, None],
                position_ids=positions[None],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=last,
            ).logits[0]
        if not torch.isfinite(logits).all():
            raise FloatingPointError(f"depth {above} gives logits that are not finite")
        self.read[segment] = end
        if segment:
            self.streams[segment - 1] = None
        if above != exits[-1]:
            waiting = self.streams[segment]
            new = streams[above]
            self.streams[segment] = new if waiting is None else torch.cat([waiting, new], dim=1)
        return logits

    def forget(self, length: int) -> None:
        """Leave the first `length` tokens, once every segment has read to the end."""
        too_many = self.read[0] - length
        self.ids = self.ids[:length]
        self.read = [length for _ in self.read]
        for layer in self.cache.layers if too_many else ():
            layer.crop(-too_many)


@torch.no_grad()
def by_confidence(
    model: Any,
    stack: Stack,
    exits: Sequence[int],
    prompt: Sequence[int],
    thresholds: Mapping[int, float],
    *,
    max_new_tokens: int,
    ends: frozenset[int],
) -> Answer:
    """Greedy, each token by the first exit whose largest probability reaches its threshold, else by the last.

    0 always stops at that exit; above 1, or without a threshold, it never does, which is greedy decoding by the whole
    model (Sorted LLaMA's dynamic inference, with exact caches).
    """
    answer = Answer([], dict.fromkeys(exits, 0))
    stops = [*(depth for depth in exits[:-1] if depth in thresholds), exits[-1]]  # only these ask the head
    reader = Reader(model, stack, stops, prompt)
    for _ in range(max_new_tokens):
        for segment, depth in enumerate(stops):
            logits = reader.advance(segment)[-1]
            if depth in thresholds and float(logits.float().softmax(-1).max()) >= thresholds[depth]:
                break
        token = int(logits.argmax())
        answer.decided[depth] += 1
        if token in ends:
            break
        answer.tokens.append(token)
        reader.ids.append(token)
    return answer


@torch.no_grad()
def self_speculative(
    model: Any,
    stack: Stack,
    exits: Sequence[int],
    prompt: Sequence[int],
    draft: int,
    *,
    tokens: int = 4,
    max_new_tokens: int,
    ends: frozenset[int],
) -> Answer:
    """Greedy decoding by the whole model, with an exit that drafts up to `tokens` ahead: equal token for token.

    The drafted tokens' layers up to the exit are not computed again; the others read them all at once. Up to rounding:
    several positions in one forward may break a tie the other way.
    """
    if draft not in exits[:-1]:
        raise ValueError(f"depth {draft} cannot draft; choose from {exits[:-1]}")
    reader = Reader(model, stack, [draft, exits[-1]], prompt)
    answer = Answer([], dict.fromkeys(exits, 0))
    while len(answer.tokens) < max_new_tokens:
        known, drafted = len(reader.ids), list[int]()
        while len(drafted) < min(tokens, max_new_tokens - len(answer.tokens) - 1):
            drafted.append(int(reader.advance(0)[-1].argmax()))
            reader.ids.append(drafted[-1])
            if drafted[-1] in ends:
                break
        reader.advance(0)
        truth = reader.advance(1, len(drafted) + 1).argmax(-1).tolist()
        agreed = next((i for i, token in enumerate(drafted) if token != truth[i]), len(drafted))
        answer.drafted += len(drafted)
        answer.accepted += agreed
        answer.decided[draft] += agreed
        answer.decided[exits[-1]] += 1
        for token in truth[: agreed + 1]:
            if token in ends:
                return answer
            answer.tokens.append(token)
        reader.forget(known + agreed)
        reader.ids.append(truth[agreed])
    return answer
