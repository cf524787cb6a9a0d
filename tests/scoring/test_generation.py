"""Responses of all ranks in one decode: equal, token for token, to one rank at a time and to stock transformers."""

from __future__ import annotations

import pytest
import torch
from conftest import sample
from tiny import a_run, attached, stock_slice

from rankbench.methods.submodel import Submodel
from rankbench.scoring import generation as module
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import Responses

RANKS = [Submodel(rank=b) for b in range(1, 9)]
DECODERS = ["tiny_llama", "tiny_gpt2", "tiny_falcon"]
ENDS = frozenset(range(3, 259, 9))  # many, so that rows end early and leave the batch
GREEDY = {"responses": Responses(12, ENDS, str), "pad_id": 0}


def prompts(n: int = 5) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 250, (4 + 3 * i,), generator=generator).tolist() for i in range(n)]


def a_decoder(model: str, *overrides: str):
    tuning = attached(f"model={model}", "task=instruction", *overrides, num_labels=None)
    for parameter in tuning.model.parameters():  # random tiny models repeat one token for ever: shake them
        if parameter.dim() == 2:
            parameter.data *= 3
    return tuning


@pytest.mark.parametrize("model", DECODERS)
@pytest.mark.parametrize("adapter", sample(["dylora", "lora"], "dylora"))
def test_stacked_ranks_say_what_each_rank_says_alone(model, adapter):
    tuning = a_decoder(model, f"adapter={adapter}")
    together = generate(tuning.model, tuning, prompts(), RANKS, rows=64, **GREEDY)
    for place, rank in enumerate(RANKS):
        for i, prompt in enumerate(prompts()):
            assert generate(tuning.model, tuning, [prompt], [rank], rows=1, **GREEDY) == [[together[place][i]]]
    assert len({tuple(map(tuple, answers)) for answers in together}) > 4  # the ranks do differ
    lengths = {len(answer) for answers in together for answer in answers}
    assert len(lengths) > 2, "no row ended early, so nothing left the batch"


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_the_number_of_rows_changes_nothing(rows):
    tuning = a_decoder("tiny_llama")
    assert generate(tuning.model, tuning, prompts(), RANKS, rows=rows, **GREEDY) == generate(
        tuning.model, tuning, prompts(), RANKS, **GREEDY
    )


@pytest.mark.parametrize("model", DECODERS)
@pytest.mark.parametrize("rank", [1, 5, 8])
def test_a_rank_says_what_stock_transformers_generates(model, rank):
    overrides = (f"model={model}", "task=instruction")
    tuning = a_decoder(model)
    stock = stock_slice(tuning, a_run(*overrides), rank, alpha=16)
    for prompt in prompts():
        (((ours,),),) = [generate(tuning.model, tuning, [prompt], [Submodel(rank=rank)], **GREEDY)]
        ids = torch.tensor([prompt])
        given = stock.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=sorted(ENDS),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert ours == [token for token in given if token not in ENDS | {0}]


def test_an_int8_backbone_is_decoded_one_rank_at_a_time():
    tuning = a_decoder("tiny_llama", "adapter=qdylora", "quantization=int8", "adapter.r=8")
    seen = []
    activate = tuning.activate
    tuning.activate = lambda submodel: (seen.append(submodel), activate(submodel))[1]
    generate(tuning.model, tuning, prompts(3), RANKS[:3], **GREEDY)
    assert set(seen) == set(RANKS[:3]) and tuning.prefix.gates is None


def test_a_full_gpu_gets_half_as_many_rows(monkeypatch):
    tuning = a_decoder("tiny_llama")
    expected = generate(tuning.model, tuning, prompts(), RANKS, **GREEDY)
    sizes = []
    decode = module._decode

    def narrow(model, adapter, jobs, *rest):
        sizes.append(len(jobs))
        if len(jobs) > 6:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return decode(model, adapter, jobs, *rest)

    monkeypatch.setattr(module, "_decode", narrow)
    assert generate(tuning.model, tuning, prompts(), RANKS, rows=40, **GREEDY) == expected
    assert sizes[:4] == [40, 20, 10, 5] and max(sizes[3:]) == 5


def test_one_row_that_does_not_fit_is_an_error(monkeypatch):
    tuning = a_decoder("tiny_llama")

    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_decode", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        generate(tuning.model, tuning, prompts(), RANKS, **GREEDY)


def test_logits_that_are_not_finite_are_an_error():
    tuning = a_decoder("tiny_llama")
    next(iter(tuning.trained().values())).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        generate(tuning.model, tuning, prompts(), RANKS, **GREEDY)


def test_longer_sequences_leave_room_for_fewer_rows(monkeypatch):
    tuning = a_decoder("tiny_llama")
    cpu = torch.device("cpu")

    class Memory:
        available = 2**24

    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory)
    few, many = (module.rows_that_fit(tuning.model, cpu, length) for length in (1000, 100))
    assert 1 <= few < many <= module.MOST_ROWS["cpu"]
    Memory.available = 0
    assert module.rows_that_fit(tuning.model, cpu, 100) == 1


def test_the_seconds_are_shared_among_the_ranks_after_each_batch():
    tuning = a_decoder("tiny_llama")
    spent: dict[Submodel, float] = dict.fromkeys(RANKS, 0.0)
    batches = []

    def add(batch, each):
        batches.append(len(batch))
        for member in batch:
            spent[member] += each

    generate(tuning.model, tuning, prompts(), RANKS, rows=4, spent=add, **GREEDY)
    assert all(seconds > 0 for seconds in spent.values())
    assert sum(batches) == len(prompts()) * len(RANKS) and set(batches[:-1]) == {4}
