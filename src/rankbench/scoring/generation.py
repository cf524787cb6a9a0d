"""Responses of many sub-models to many prompts in one decode with a KV cache, each row by its own sub-model."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from rankbench.errors import RequestError
from rankbench.methods import FineTuning
from rankbench.methods.submodel import Submodel
from rankbench.models import sharding
from rankbench.models.device import free_memory
from rankbench.scoring import beam_search
from rankbench.scoring.responses import Responses
from rankbench.settings.generation import Generation
from rankbench.system import processes, stopping

# More rows than this gain nothing: the arithmetic is saturated. benchmarks/generation.py measures it.
MOST_ROWS = {"cpu": 64, "cuda": 512}
SCORES = 8  # numbers that a token of the vocabulary takes where logits are worked on: copies, sorted ones, places


@dataclass(frozen=True)
class Job:
    """One row of a decode: `prompt` (a place in the list of prompts) answered by `member` (a place in the family)."""

    prompt: int
    member: int


def check_room(
    prompts: Sequence[list[int]], new_tokens: int, positions: int, name: str, key: str = "task.max_new_tokens="
) -> None:
    """Refuse responses that may need more than the positions of the model `name`; `key` is the mend.

    Raises RequestError.
    """
    prompt = max(map(len, prompts))
    if prompt + new_tokens > positions:
        raise RequestError(
            f"a prompt of {prompt} tokens and {key}{new_tokens} are more than the {positions} that {name} reads; "
            f"give {key}{max(1, positions - prompt)} or less"
        )


def generate(
    model: Any,
    adapter: FineTuning,
    prompts: Sequence[list[int]],
    members: Sequence[Submodel],
    responses: Responses,
    *,
    pad_id: int,
    rows: int | None = None,
    spent: Callable[[list[Submodel], float], None] = lambda members, each: None,
) -> list[list[list[int]]]:
    """The response of each member to each prompt: [member][prompt] -> tokens, without the end mark.

    `rows` responses are decoded together, by default as many as memory holds; a GPU that runs full gets half as many.
    The tokens do not depend on it, up to rounding in the arithmetic. `spent` hears, after each batch, of whom
    its responses are and the seconds of one. Raises FloatingPointError when a logit is not finite.
    """
    if not prompts:  # a process may have none
        return [[] for _ in members]
    prompts = responses.after(prompts)
    device = next(adapter.model.parameters()).device
    longest = max(map(len, prompts)) + responses.max_new_tokens
    together = sharding.sharded(adapter.model)  # every process decodes the same, step by step
    rows = rows or rows_that_fit(adapter.model, device, longest, responses.how)
    rows = min(processes.gathered(rows)) if together else rows
    answers: list[list[list[int]]] = [[[] for _ in prompts] for _ in members]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # the longest first: it fails at once
    jobs = [Job(prompt, member) for prompt in order for member in range(len(members))]
    # One decode has one depth, and one sub-model where rows cannot differ at all.
    shared = (lambda job: members[job.member].depth or 0) if adapter.stacks else (lambda job: job.member)
    jobs.sort(key=shared)
    waiting = []
    for _, alike in itertools.groupby(jobs, key=shared):
        same = list(alike)
        waiting += [same[i : i + rows] for i in range(0, len(same), rows)]
    with torch.no_grad():
        while waiting:
            stopping.check()
            batch = waiting.pop(0)
            start = time.perf_counter()
            try:
                tokens = _decode(model, adapter, batch, prompts, members, responses, pad_id, device)
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1 or together:
                    raise
                torch.cuda.empty_cache()
                half = (len(batch) + 1) // 2
                parts = [batch, *waiting]
                waiting = [part[i : i + half] for part in parts for i in range(0, len(part), half)]
                continue
            share = (time.perf_counter() - start) / len(batch)
            for job, answer in zip(batch, tokens, strict=True):
                answers[job.member][job.prompt] = answer
            spent([members[job.member] for job in batch], share)
    return answers


def speeds(
    model: Any,
    adapter: FineTuning,
    prompt: list[int],
    members: Sequence[Submodel],
    *,
    pad_id: int,
    positions: int,
    tokens: int = 16,
) -> dict[Submodel, float]:
    """Generated tokens a second of each member: one prompt, greedy answers of `tokens`, the median of three in turns.

    Both are cut to fit into the model's `positions`.
    """
    tokens = min(tokens, positions - 1)
    prompt = prompt[: positions - tokens]
    endless = Responses(tokens, frozenset(), str)
    seconds: dict[Submodel, list[float]] = {member: [] for member in members}
    for turn in range(4):  # the first warms up
        for member in members:

            def spent(members: list[Submodel], each: float, turn: int = turn) -> None:
                if turn:
                    seconds[members[0]].append(each)

            generate(model, adapter, [prompt], [member], endless, pad_id=pad_id, rows=1, spent=spent)
    return {member: tokens / statistics.median(own) for member, own in seconds.items()}


def rows_that_fit(model: torch.nn.Module, device: torch.device, length: int, how: Generation | None = None) -> int:
    """How many responses, with their prompts of `length` tokens, decode together in half of the free memory.

    At least one; a response is as many rows as it has beams.
    """
    how = how or Generation()
    config = model.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    cache = 2 * config.num_hidden_layers * kv_heads * head_dim * length
    logits = config.vocab_size * (1 if how.bare else SCORES)
    row = 4 * (cache + 16 * config.hidden_size * length + logits)
    fit = min(MOST_ROWS.get(device.type, 1), free_memory(device) // 2 // row)
    return max(1, fit // how.num_beams)


def _decode(
    model: Any,
    adapter: FineTuning,
    jobs: list[Job],
    prompts: Sequence[list[int]],
    members: Sequence[Submodel],
    responses: Responses,
    pad_id: int,
    device: torch.device,
) -> list[list[int]]:
    """The response of each job, in their order. Prompts are padded on the left; a row that has ended leaves."""
    asked = [prompts[job.prompt] for job in jobs]
    by_row = [members[job.member] for job in jobs]
    width = max(map(len, asked))
    padding = [width - len(prompt) for prompt in asked]
    ids = torch.tensor([[pad_id] * p + prompt for p, prompt in zip(padding, asked, strict=True)]).to(device)
    mask = torch.tensor([[0] * p + [1] * (width - p) for p in padding]).to(device)
    if responses.how.name == "beam":
        return beam_search.search(model, adapter, by_row, ids, mask, responses, pad_id)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    adapter.activate_each(by_row)
    cache = DynamicCache(config=adapter.model.config)  # of as many layers as the active depth has
    answers: list[list[int]] = [[] for _ in jobs]
    together = sharding.sharded(adapter.model)
    alive, tokens = list(range(len(jobs))), ids
    for step in range(responses.max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if not torch.isfinite(logits).all():
            raise FloatingPointError(f"generation: {by_row[alive[0]]} gives logits that are not finite")
        if responses.bare:
            chosen = logits.argmax(-1)
        else:
            chosen = responses.choose(logits, tokens, [padding[i] for i in alive], [asked[i] for i in alive])
        if together:
            processes.follow_first(chosen)
        stay = []
        for place, token in enumerate(chosen.tolist()):
            if token not in responses.ends:
                answers[alive[place]].append(token)
                if not responses.stopped(answers[alive[place]]):
                    stay.append(place)
        if not stay or step + 1 == responses.max_new_tokens:
            break
        if len(stay) < len(alive):
            alive = [alive[place] for place in stay]
            kept = torch.tensor(stay, device=device)
            cache.batch_select_indices(kept)
            chosen, mask, positions, tokens = chosen[kept], mask[kept], positions[kept], tokens[kept]
            adapter.activate_each([by_row[i] for i in alive])
        ids = chosen.unsqueeze(1)
        tokens = torch.cat([tokens, ids], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return answers
