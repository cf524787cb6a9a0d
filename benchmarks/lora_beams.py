"""Beam search as the LoRA paper decoded E2E, WebNLG and DART, from its description: the yardstick of `beams.py`.

It differs from transformers' search in three ways. A step has as many candidates as beams, so that one which ends takes
a place of that step. Ended beams are set to minus infinity and compared once, at the end, with those that have not
ended. And n-grams are banned before the probabilities are made, not after.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from rankbench.scoring.responses import Responses


def search(model: Any, prompt: list[int], responses: Responses, device: torch.device) -> list[int]:
    """The best response to a prompt at what is active: the largest sum of log p / length ** length_penalty."""
    beams, penalty, longest = responses.how.num_beams, responses.how.length_penalty, responses.max_new_tokens
    tokens = torch.tensor([prompt] * beams, device=device)
    sums = torch.tensor([0.0] + [-torch.inf] * (beams - 1), device=device)  # all beams are one at first
    cache, best, answer = DynamicCache(config=model.config), -torch.inf, list[int]()
    step_ids = tokens
    for step in range(longest):
        logits = model(input_ids=step_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        log_p = responses.allowed(logits.float(), tokens, [0] * beams, len(prompt)).log_softmax(-1)
        sums, flat = (sums[:, None] + log_p).view(-1).topk(beams)
        parents = flat // log_p.shape[1]
        step_ids = (flat % log_p.shape[1])[:, None]
        tokens = torch.cat([tokens[parents], step_ids], dim=1)
        cache.reorder_cache(parents)
        for place in range(beams):
            said = tokens[place, len(prompt) :].tolist()
            if said[-1] not in responses.ends and not responses.stopped(said) and step + 1 < longest:
                continue
            score = float(sums[place]) / (step + 1) ** penalty
            if score > best:
                best, answer = score, said
            sums[place] = -torch.inf
        if float(sums.max()) / longest**penalty <= best:  # a sum only falls, so none can become better
            break
    return answer
