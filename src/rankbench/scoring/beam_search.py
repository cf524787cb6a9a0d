"""Beam search by transformers' own `generate`, each prompt of a batch by its own sub-model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from rankbench.methods import FineTuning
from rankbench.methods.submodel import Submodel
from rankbench.models import sharding
from rankbench.scoring.responses import Responses
from rankbench.system import processes


def search(
    model: Any,
    adapter: FineTuning,
    members: Sequence[Submodel],
    ids: torch.Tensor,
    mask: torch.Tensor,
    responses: Responses,
    pad_id: int,
) -> list[list[int]]:
    """The best response of members[i] to the prompt ids[i]: ids (rows, width) are padded on the left.

    Each prompt becomes `num_beams` rows, side by side. Raises FloatingPointError when a score is not finite.
    """
    how, width = responses.how, ids.shape[1]
    base: Any = adapter.model.get_base_model() if isinstance(adapter.model, PeftModel) else adapter.model
    config = GenerationConfig(
        max_new_tokens=responses.max_new_tokens,
        num_beams=how.num_beams,
        length_penalty=how.length_penalty,
        early_stopping=how.early_stopping,
        eos_token_id=sorted(responses.ends) or None,
        pad_token_id=pad_id,
        return_dict_in_generate=True,
    )
    padding = (mask == 0).sum(1).repeat_interleave(how.num_beams).tolist()
    together = sharding.sharded(adapter.model)
    adapter.activate(members[0])
    with _arithmetic(model, base, ids), _alone(base):
        adapter.activate_each([member for member in members for _ in range(how.num_beams)])
        found = base.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_Allowed(responses, padding, width, together)]),
            stopping_criteria=StoppingCriteriaList([_Stopped(responses, width)] if how.stop_texts else []),
            synced_gpus=False,  # where processes share a model all of them decode the same
        )
    lengths = (found.beam_indices >= 0).sum(1).tolist()
    answers = [row[width : width + length] for row, length in zip(found.sequences.tolist(), lengths, strict=True)]
    return [answer[:-1] if answer and answer[-1] in responses.ends else answer for answer in answers]


class _Allowed(LogitsProcessor):
    def __init__(self, responses: Responses, padding: Sequence[int], width: int, together: bool) -> None:
        self.responses, self.padding, self.width, self.together = responses, padding, width, together

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(scores).all():
            raise FloatingPointError("generation: beam search meets scores that are not finite")
        if self.together:
            processes.follow_first(scores)
        return self.responses.allowed(scores, input_ids, self.padding, self.width)


class _Stopped(StoppingCriteria):
    def __init__(self, responses: Responses, width: int) -> None:
        self.responses, self.width = responses, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        said = [self.responses.stopped(row) for row in input_ids[:, self.width :].tolist()]
        return torch.tensor(said, device=input_ids.device)


@contextlib.contextmanager
def _alone(model: Any) -> Iterator[None]:
    """Without the model's own settings, from which `generate` fills what is not given: some sample or punish."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _arithmetic(model: Any, backbone: Any, ids: torch.Tensor) -> Any:
    """The autocast in which `model` runs its backbone: `generate` calls the backbone itself."""
    device = ids.device.type
    seen: dict[str, Any] = {}

    def look(*_: Any) -> None:
        seen.update(enabled=torch.is_autocast_enabled(device), dtype=torch.get_autocast_dtype(device))

    hook = backbone.get_input_embeddings().register_forward_pre_hook(look)
    try:
        model(input_ids=ids[:1, -1:])
    finally:
        hook.remove()
    return torch.autocast(device, **seen)
