"""What a response is: how long it may be, how its tokens are chosen, where it ends, and its text."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rankbench.errors import RequestError
from rankbench.models import backbone
from rankbench.models.backbone import Backbone
from rankbench.settings.generation import Generation, NgramOf
from rankbench.settings.run import Run
from rankbench.system import seeds
from rankbench.tasks import chat_template


@dataclass(frozen=True)
class Choices:
    """All responses that there are: the tokens that all begin with, and each text by the token that tells it apart."""

    lead: tuple[int, ...]
    texts: dict[int, str]

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Any) -> Choices:
        """Of these responses. Raises RequestError where one is the beginning of another, in tokens."""
        tokens = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        alike = (len(set(column)) == 1 for column in zip(*tokens, strict=False))
        shared = sum(itertools.takewhile(bool, alike))
        apart = {own[shared]: text.strip() for own, text in zip(tokens, texts, strict=True) if len(own) > shared}
        if len(apart) < len(texts):
            raise RequestError(
                f"task.choices: {', '.join(map(repr, texts))} are no texts that the token after what all begin with "
                "tells apart; write each with another beginning, or leave task.choices out"
            )
        return cls(tuple(tokens[0][:shared]), apart)


@dataclass(frozen=True)
class Responses:
    """How a language model answers: at most `max_new_tokens`, ended by any of `ends`, made text by `decode`.

    `how` says how tokens are chosen, and `seed` is what draws depend on beside the prompt. With `choices` a response is
    the one token that tells the likeliest of them apart, behind what all begin with.
    """

    max_new_tokens: int
    ends: frozenset[int]
    decode: Callable[[list[int]], str]
    how: Generation = field(default_factory=Generation)
    seed: int = 0
    choices: Choices | None = None

    @property
    def bare(self) -> bool:
        """Whether the likeliest token of all is taken."""
        return self.how.bare and self.choices is None

    def after(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """What the model reads before the tokens that it chooses."""
        lead = self.choices.lead if self.choices else ()
        return [[*prompt, *lead] for prompt in prompts]

    def text(self, answer: list[int]) -> str:
        """A response's tokens as the text that is scored, cut before the first stop text."""
        if self.choices:
            return self.choices.texts[answer[0]]
        text = self.decode(answer)
        for stop in self.how.stops:
            text = text.split(stop, 1)[0]
        return text.strip()

    def stopped(self, answer: list[int]) -> bool:
        """Whether a response that goes on so far has a stop text."""
        text = self.decode(answer) if self.how.stop_texts else ""
        return any(stop in text for stop in self.how.stops)

    def allowed(self, scores: torch.Tensor, tokens: torch.Tensor, padding: Sequence[int], width: int) -> torch.Tensor:
        """The scores (rows, vocabulary) with what may not come next at minus infinity.

        `tokens` (rows, length) are what stands before: padding, the prompt up to `width`, and the response so far.
        """
        how = self.how
        if self.choices:
            among = torch.tensor(sorted(self.choices.texts), device=scores.device)
            scores = torch.full_like(scores, -torch.inf).index_copy(1, among, scores[:, among])
        if tokens.shape[1] - width < how.min_new_tokens:
            scores = scores.index_fill(1, torch.tensor(sorted(self.ends), device=scores.device), -torch.inf)
        if how.no_repeat_ngram_size:
            scores = scores.clone()
            own = how.no_repeat_ngram_of is NgramOf.generated
            for row, before in enumerate(tokens.tolist()):
                banned = list(repeats(before[width if own else padding[row] :], how.no_repeat_ngram_size))
                scores[row, banned] = -torch.inf
        return scores

    def choose(
        self, logits: torch.Tensor, tokens: torch.Tensor, padding: Sequence[int], prompts: Sequence[list[int]]
    ) -> torch.Tensor:
        """The next token (rows,) of each row, from the logits (rows, vocabulary) after `tokens` (rows, length)."""
        width = padding[0] + len(prompts[0])
        scores = self.allowed(logits.float(), tokens, padding, width)
        if self.how.name == "sample":
            for warp in self._warpers():
                scores = warp(tokens, scores)
            scores = scores + self._gumbel(prompts, tokens.shape[1] - width, scores)
        return scores.argmax(-1)

    def _warpers(self) -> Iterable[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
        """In the order that transformers has them."""
        if self.how.temperature != 1:
            yield TemperatureLogitsWarper(self.how.temperature)
        if self.how.top_k:
            yield TopKLogitsWarper(self.how.top_k)
        if self.how.top_p < 1:
            yield TopPLogitsWarper(self.how.top_p)

    def _gumbel(self, prompts: Sequence[list[int]], step: int, like: torch.Tensor) -> torch.Tensor:
        """Noise (rows, vocabulary) of which the largest sum with the scores is a draw by their probabilities.

        It is a function of seed, prompt and step: whatever else is decoded, and the same for all ranks.
        """
        drawn: dict[str, np.ndarray] = {}
        names = [f"response/{' '.join(map(str, prompt))}" for prompt in prompts]
        for name in names:
            if name not in drawn:
                random = seeds.generator(self.seed, name, step)
                drawn[name] = random.standard_exponential(like.shape[1])
        # In float64: a float32 is 0 once in 2^23, and would be drawn whatever its score.
        noise = -np.log(np.stack([drawn[name] for name in names]))
        return torch.from_numpy(noise).float().to(like.device)


def of_run(run: Run, body: Backbone, new_tokens: int | None = None) -> Responses:
    """How the language model of a run answers; `new_tokens` in place of the task's longest. Raises RequestError."""
    if run.task.choices:
        choices = Choices.of(run.task.choices, body.tokenizer)
        return Responses(1, frozenset(), body.tokenizer.decode, run.generation, run.seed, choices)
    return Responses(
        new_tokens or run.task.max_new_tokens,
        backbone.ends(body) | chat_template.ends(run.task, body.tokenizer),
        functools.partial(body.tokenizer.decode, skip_special_tokens=True),
        run.generation,
        run.seed,
    )


def repeats(tokens: Sequence[int], size: int) -> Iterable[int]:
    """The tokens that would end a sequence of `size` tokens which was there before."""
    last = list(tokens[len(tokens) - size + 1 :]) if len(tokens) + 1 >= size else None
    return (tokens[i + size - 1] for i in range(len(tokens) - size + 1) if list(tokens[i : i + size - 1]) == last)
