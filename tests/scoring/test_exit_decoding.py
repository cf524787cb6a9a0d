"""Decoding whose depth changes by the token: caches stay exact, and a draft never changes what is said."""

from __future__ import annotations

import pytest
import torch
from conftest import sample
from test_sorted_ft import EXITS, attached

from rankbench.methods.submodel import Submodel
from rankbench.scoring.exit_decoding import by_confidence, self_speculative
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import Responses

KINDS = ["llama", "gpt2", "falcon"]
SETTINGS = {"max_new_tokens": 20, "ends": frozenset(range(3, 259, 40))}


def prompts(n: int = 4) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, 250, (5 + 2 * i,), generator=generator).tolist() for i in range(n)]


def greedy(tuning, prompt: list[int], depth: int) -> list[int]:
    answers = Responses(SETTINGS["max_new_tokens"], SETTINGS["ends"], str)
    return generate(tuning.model, tuning, [prompt], [Submodel(depth=depth)], answers, pad_id=0)[0][0]


def surest(tuning, depth: int) -> float:
    """The median over texts of an exit's largest probability: about half of the tokens leave there."""
    tuning.activate(Submodel(depth=depth))
    with torch.no_grad():
        texts = [tuning.model(input_ids=torch.tensor([prompt])).logits[0] for prompt in prompts(8)]
    return float(torch.cat(texts).softmax(-1).max(-1).values.median())


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_above_one_give_the_whole_models_greedy_words(kind: str) -> None:
    """Conformance test 12."""
    tuning = attached(kind, "instruction")
    for prompt in prompts():
        for thresholds in ({}, {2: 1.1, 3: 1.1}):
            answer = by_confidence(tuning.model, tuning.stack, tuning.exits, prompt, thresholds, **SETTINGS)
            assert answer.tokens == greedy(tuning, prompt, 4)
            assert answer.decided[2] == answer.decided[3] == 0 and answer.decided[4] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [2, 3])
def test_a_threshold_of_zero_leaves_at_that_exit(kind: str, depth: int) -> None:
    tuning = attached(kind, "instruction")
    for prompt in prompts():
        answer = by_confidence(tuning.model, tuning.stack, tuning.exits, prompt, {depth: 0.0}, **SETTINGS)
        assert answer.tokens == greedy(tuning, prompt, depth)
        assert sum(answer.decided.values()) == answer.decided[depth]


@pytest.mark.parametrize("kind", KINDS)
def test_skipped_layers_are_made_up_exactly_when_they_are_first_needed(kind: str) -> None:
    """Each token is the argmax, at the exit that decided it, of a forward over the whole text without a cache."""
    tuning = attached(kind, "instruction")
    seen: set[int] = set()
    thresholds = {depth: surest(tuning, depth) for depth in (2, 3)}
    for prompt in prompts():
        answer = by_confidence(
            tuning.model, tuning.stack, tuning.exits, prompt, thresholds, max_new_tokens=20, ends=frozenset()
        )
        text, decided = list(prompt), dict.fromkeys(EXITS, 0)
        for token in answer.tokens:
            for depth in EXITS:
                tuning.activate(Submodel(depth=depth))
                with torch.no_grad():
                    logits = tuning.model(input_ids=torch.tensor([text])).logits[0, -1]
                if depth in thresholds and float(logits.softmax(-1).max()) >= thresholds[depth]:
                    break
            decided[depth] += 1
            assert token == int(logits.argmax())
            text.append(token)
        assert decided == answer.decided
        seen |= {depth for depth, count in decided.items() if count}
    assert len(seen) > 1, "every token left at one exit, so nothing was made up"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draft", [2, 3])
@pytest.mark.parametrize("tokens", sample([1, 4], 4))
def test_self_speculation_equals_greedy_token_for_token(kind: str, draft: int, tokens: int) -> None:
    tuning = attached(kind, "instruction")
    accepted = drafted = 0
    for prompt in prompts():
        answer = self_speculative(tuning.model, tuning.stack, tuning.exits, prompt, draft, tokens=tokens, **SETTINGS)
        assert answer.tokens == greedy(tuning, prompt, 4)
        accepted, drafted = accepted + answer.accepted, drafted + answer.drafted
    assert 0 <= accepted <= drafted and drafted > 0


def test_a_draft_like_the_whole_model_is_always_accepted() -> None:
    tuning = attached("llama", "instruction")
    for layer in tuning.stack.layers[2:]:  # layers that add nothing
        for name, parameter in layer.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.data.zero_()
    ran = []
    tuning.stack.layers[3].register_forward_hook(lambda *_: ran.append(1))
    answer = self_speculative(
        tuning.model, tuning.stack, tuning.exits, prompts()[0], 2, tokens=4, max_new_tokens=20, ends=frozenset()
    )
    assert len(answer.tokens) == 20 and answer.accepted == answer.drafted == 16
    assert len(ran) == 4  # the deep layers read five tokens at a time


@pytest.mark.parametrize("kind", sample(KINDS, "falcon"))
def test_early_exits_decide_by_their_own_heads(kind: str) -> None:
    tuning = attached(kind, "instruction", "adapter=early_exit")
    with torch.no_grad():
        for parameter in tuning.trained().values():
            parameter.add_(0.5 * torch.randn_like(parameter))
    for prompt in prompts():
        answer = by_confidence(tuning.model, tuning.stack, tuning.exits, prompt, {2: 0.0}, **SETTINGS)
        assert answer.tokens == greedy(tuning, prompt, 2)
        drafted = self_speculative(tuning.model, tuning.stack, tuning.exits, prompt, 3, **SETTINGS)
        assert drafted.tokens == greedy(tuning, prompt, 4)


def test_an_unknown_draft_is_refused() -> None:
    tuning = attached("llama", "instruction")
    with pytest.raises(ValueError, match="choose from"):
        self_speculative(tuning.model, tuning.stack, tuning.exits, [5, 6], 4, **SETTINGS)


def test_logits_that_are_not_finite_are_an_error() -> None:
    tuning = attached("llama", "instruction")
    next(iter(tuning.trained().values())).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        by_confidence(tuning.model, tuning.stack, tuning.exits, [5, 6], {}, **SETTINGS)
