"""Beam search, sampling and what holds tokens back: of all ranks in one decode what each rank says alone."""

from __future__ import annotations

import functools

import pytest
import torch
from conftest import sample
from test_generation import DECODERS, ENDS, RANKS, a_decoder, prompts
from tiny import a_run, stock_slice

from rankbench.methods.submodel import Submodel
from rankbench.scoring import generation as module
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import Responses, repeats
from rankbench.settings.generation import Generation, NgramOf

BEAM = Generation("beam", num_beams=3)
LORA = Generation("beam", num_beams=4, length_penalty=0.8, no_repeat_ngram_size=2, no_repeat_ngram_of=NgramOf.generated)
SAMPLE = Generation("sample", temperature=1.3, top_k=40, top_p=0.95)
HELD = Generation(no_repeat_ngram_size=2, min_new_tokens=3)
TOKENS = 10
FEW = RANKS[::3]


def letters(tokens: list[int]) -> str:
    """A text of which every token is a letter."""
    return "".join(chr(97 + token % 26) for token in tokens)


def answers(how: Generation, ends: frozenset[int] = ENDS, seed: int = 0) -> Responses:
    return Responses(TOKENS, ends, letters, how, seed)


WAYS = [BEAM, LORA, SAMPLE, HELD, Generation("beam", num_beams=2, stop_texts=["a", "xy"]), Generation(stop_texts=["a"])]


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("model", sample(DECODERS, "tiny_llama"))
def test_stacked_ranks_say_what_each_rank_says_alone(model: str, how: Generation) -> None:
    tuning = a_decoder(model)
    ask = functools.partial(generate, tuning.model, tuning, responses=answers(how), pad_id=0)
    together = ask(prompts(3), FEW, rows=64)
    for place, rank in enumerate(FEW):
        for i, prompt in enumerate(prompts(3)):
            assert ask([prompt], [rank], rows=1) == [[together[place][i]]]
    assert len({tuple(map(tuple, own)) for own in together}) > 1  # the ranks do differ
    assert len({len(answer) for own in together for answer in own}) > 1  # and end at different steps


STOCK = [
    BEAM,
    Generation("beam", num_beams=4, length_penalty=0.0, early_stopping=True),
    Generation("beam", num_beams=4, length_penalty=2.0, early_stopping="never", min_new_tokens=4),
    Generation("beam", num_beams=2, no_repeat_ngram_size=2),
    Generation(no_repeat_ngram_size=1, min_new_tokens=2),
]


@pytest.mark.parametrize("model", sample(DECODERS, "tiny_gpt2"))
@pytest.mark.parametrize("how", STOCK, ids=str)
def test_a_rank_says_what_stock_transformers_generates(model: str, how: Generation) -> None:
    tuning = a_decoder(model)
    stock = stock_slice(tuning, a_run(f"model={model}", "task=instruction"), 5, alpha=16)
    for prompt in prompts(3):
        ids = torch.tensor([prompt])
        given = stock.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TOKENS,
            do_sample=False,
            num_beams=how.num_beams,
            length_penalty=how.length_penalty,
            early_stopping=how.early_stopping,
            no_repeat_ngram_size=how.no_repeat_ngram_size,
            min_new_tokens=how.min_new_tokens,
            eos_token_id=sorted(ENDS),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        ((ours,),) = generate(tuning.model, tuning, [prompt], [Submodel(rank=5)], answers(how), pad_id=0)
        assert ours == [token for token in given if token not in ENDS | {0}]


METHODS = {
    "full": [],
    "lora_gated": ["adapter.r=4"],
    "flop": ["adapter.r=4"],
    "early_exit": ["adapter.exits=[1,2]"],
    "sorted_lora": ["adapter.exits=[1,2]", "adapter.r=2"],
}


@pytest.mark.parametrize("adapter", sample(METHODS, "early_exit"))
def test_a_search_of_one_token_says_what_greedy_decoding_says_by_every_method(adapter: str) -> None:
    tuning = a_decoder("tiny_llama", f"adapter={adapter}", *METHODS[adapter])
    one = functools.partial(Responses, 1, ENDS, letters)
    ask = functools.partial(generate, tuning.model, tuning, prompts(4), tuning.family, pad_id=0)
    assert ask(one(BEAM)) == ask(one())


@pytest.mark.parametrize("how", sample([BEAM, SAMPLE], BEAM), ids=str)
def test_a_quantized_backbone_does_too(how: Generation) -> None:
    tuning = a_decoder("tiny_llama", "adapter=qdylora", "quantization=nf4", "adapter.r=8")
    ask = functools.partial(generate, tuning.model, tuning, responses=answers(how), pad_id=0)
    assert ask(prompts(2), FEW) == [ask(prompts(2), [rank])[0] for rank in FEW]


def test_the_models_own_settings_are_set_aside_for_the_search_alone() -> None:
    tuning = a_decoder("tiny_llama")
    ask = functools.partial(generate, tuning.model, tuning, prompts(2), FEW, answers(BEAM), pad_id=0)
    before = ask()
    base = tuning.model.get_base_model()
    base.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=3.0)
    assert ask() == before and base.generation_config.repetition_penalty == 3.0


def test_a_search_computes_as_the_model_it_is_given_does() -> None:
    """`accelerate` casts in the outer model's forward, which transformers' `generate` passes by."""
    tuning = a_decoder("tiny_llama")
    seen = []
    tuning.layers[0].register_forward_hook(lambda *found: seen.append(found[-1].dtype))
    cast = torch.autocast("cpu", torch.bfloat16)(tuning.model)
    generate(cast, tuning, prompts(2), FEW[:1], answers(BEAM), pad_id=0)
    assert len(seen) > 3 and set(seen) == {torch.bfloat16}


def test_beams_count_where_memory_is_counted() -> None:
    tuning = a_decoder("tiny_llama")
    cpu = torch.device("cpu")
    fit = functools.partial(module.rows_that_fit, tuning.model, cpu, 50)
    assert fit() == 64 and fit(Generation("beam", num_beams=10)) == 6 and fit(Generation("beam", num_beams=100)) == 1


def test_a_full_gpu_gets_half_as_many_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = a_decoder("tiny_llama")
    ask = functools.partial(generate, tuning.model, tuning, prompts(3), FEW, answers(BEAM), pad_id=0)
    expected, sizes, found = ask(), [], module.beam_search.search

    def narrow(model, adapter, members, *rest):
        sizes.append(len(members))
        if len(members) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return found(model, adapter, members, *rest)

    monkeypatch.setattr(module.beam_search, "search", narrow)
    assert ask(rows=9) == expected and sizes[:3] == [9, 5, 3]


@pytest.mark.parametrize("how", [BEAM, SAMPLE], ids=str)
def test_scores_that_are_not_finite_are_an_error(how: Generation) -> None:
    tuning = a_decoder("tiny_llama")
    next(iter(tuning.trained().values())).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        generate(tuning.model, tuning, prompts(2), FEW, answers(how), pad_id=0)


# Draws


def test_a_draw_is_of_the_seed_and_the_prompt_whatever_is_beside_it() -> None:
    tuning = a_decoder("tiny_llama")
    every = generate(tuning.model, tuning, prompts(4), FEW, answers(SAMPLE), pad_id=0)
    other = generate(tuning.model, tuning, prompts(4)[::-1][:2], FEW[::-1], answers(SAMPLE), pad_id=0, rows=3)
    assert [own[::-1][:2] for own in every[::-1]] == other
    assert generate(tuning.model, tuning, prompts(4), FEW, answers(SAMPLE, seed=1), pad_id=0) != every


def test_draws_have_the_probabilities_that_the_logits_say() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]]).repeat(4000, 1)
    asked = [[i] for i in range(4000)]
    tokens = torch.tensor(asked)

    def shares(how: Generation) -> torch.Tensor:
        drawn = answers(how).choose(logits, tokens, [0] * 4000, asked)
        return torch.bincount(drawn, minlength=5) / 4000

    assert torch.allclose(shares(Generation("sample")), logits[0].softmax(0), atol=0.025)
    assert torch.allclose(shares(Generation("sample", temperature=2.0)), (logits[0] / 2).softmax(0), atol=0.025)
    two = shares(Generation("sample", top_k=2))
    assert torch.allclose(two[:2], logits[0, :2].softmax(0), atol=0.025) and two[2:].sum() == 0
    assert shares(Generation("sample", top_p=0.7))[2:].sum() == 0


def test_each_step_and_each_prompt_has_a_draw_of_its_own() -> None:
    even, asked = torch.zeros(50, 250), [[i] for i in range(50)]
    first = answers(SAMPLE).choose(even, torch.tensor(asked), [0] * 50, asked)
    second = answers(SAMPLE).choose(even, torch.tensor([[i, 1] for i in range(50)]), [0] * 50, asked)
    assert len(set(first.tolist())) > 20 and int((first == second).sum()) < 10


def test_ranks_that_are_alike_draw_alike() -> None:
    tuning = a_decoder("tiny_llama")
    one, other = generate(tuning.model, tuning, prompts(3), [RANKS[2], RANKS[2]], answers(SAMPLE), pad_id=0)
    assert one == other


# What holds tokens back, and what ends a response


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        ([1, 2, 3, 1, 2], 3, [3]),
        ([1, 2, 1, 3, 1], 2, [2, 3]),
        ([1, 2], 1, [1, 2]),
        ([1, 2], 4, []),
        ([], 1, []),
        ([], 2, []),
        ([1, 1, 1], 3, [1]),
    ],
)
def test_tokens_that_would_repeat_an_ngram(tokens: list[int], size: int, expected: list[int]) -> None:
    assert sorted(set(repeats(tokens, size))) == expected


def test_padding_is_no_part_of_a_prompt() -> None:
    """A prompt is padded with the end mark where a tokenizer has no other, and must be able to end."""
    held = Responses(9, frozenset({0}), letters, Generation(no_repeat_ngram_size=1))
    scores = held.allowed(torch.zeros(2, 7), torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]]), [2, 0], 4)
    assert [row.isinf().nonzero().flatten().tolist() for row in scores] == [[5, 6], [1, 2, 3, 4]]


@pytest.mark.parametrize("way", ["greedy", "beam"])
def test_the_prompts_ngrams_count_only_where_all_do(way: str) -> None:
    tuning = a_decoder("tiny_llama")
    beams = {"num_beams": 2} if way == "beam" else {}
    prompt = list(range(3, 250)) + list(range(249, 2, -1))  # nearly every token is in it
    said = {}
    for of in NgramOf:
        how = Generation(way, no_repeat_ngram_size=1, no_repeat_ngram_of=of, **beams)
        ((said[of],),) = generate(
            tuning.model, tuning, [prompt[-200:]], RANKS[-1:], answers(how, frozenset()), pad_id=0
        )
    assert not set(said[NgramOf.all]) & set(prompt[-200:])
    assert set(said[NgramOf.generated]) & set(prompt[-200:])
    assert all(len(set(own)) == len(own) == TOKENS for own in said.values())


@pytest.mark.parametrize("way", ["greedy", "beam", "sample"])
def test_a_stop_text_ends_a_response_and_is_cut_off(way: str) -> None:
    tuning = a_decoder("tiny_llama")
    how = Generation(way, **({"num_beams": 3} if way == "beam" else {}))
    ask = functools.partial(generate, tuning.model, tuning, prompts(2), RANKS[-1:], pad_id=0)
    ((free, _),) = ask(answers(how, frozenset()))
    stop = letters(free[3:5])
    held = answers(Generation(**vars(how) | {"stop_texts": ["#", stop]}), frozenset())
    ((stopped, _),) = ask(held)
    if way != "beam":  # which may find another response better now
        assert stopped == free[: letters(free).index(stop) + 2]
    assert stop not in held.text(stopped) and stop not in letters(stopped[:-1])
    assert len(stopped) < TOKENS


def test_of_several_stop_texts_the_first_in_the_text_cuts() -> None:
    held = Responses(9, frozenset(), letters, Generation(stop_texts=["d", "b", r"\n"]))
    assert held.text([0, 1, 2, 3]) == "a" and held.text([0, 2]) == "ac"
    assert Responses(9, frozenset(), str, held.how).text("one\ntwo") == "one"


def test_no_draw_is_of_a_token_that_may_not_come() -> None:
    """Noise of so many draws as a few thousand responses have is finite, and leaves out what top_k leaves out."""
    how = Generation("sample", top_k=2)
    responses = Responses(8, frozenset(), str, how)
    logits = torch.zeros(1, 131_072)
    logits[0, 7], logits[0, 9] = 1, 2
    for step in range(400):  # 52 million numbers
        tokens = torch.zeros(1, 1 + step, dtype=torch.long)
        assert int(responses.choose(logits, tokens, [0], [[0]])) in (7, 9), step
