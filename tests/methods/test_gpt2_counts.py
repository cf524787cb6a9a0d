"""GPT-2's q, k and v are one layer, which PEFT adapts whole; LoRA adapted q and v: both count 98,304 r for medium."""

from __future__ import annotations

import pytest
import torch
from conftest import compose_run
from transformers import AutoConfig, AutoModelForCausalLM

from rankbench import methods
from rankbench.methods.submodel import Submodel


@pytest.fixture(scope="module")
def medium() -> methods.FineTuning:
    run = compose_run("model=gpt2_medium", "task=e2e", "task.data_dir=e2e", "adapter=dylora", "adapter.r=4")
    shape = dict(run.model.shape or {})
    with torch.device("meta"):
        return methods.attach(run, AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape)))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_a_rank_of_gpt2_medium_counts_as_the_paper_has_it(rank: int, medium: methods.FineTuning) -> None:
    count = medium.count(Submodel(rank=rank))
    layers, width = 24, 1024
    assert count.adapter == count.trainable == 98_304 * rank
    q_and_v = layers * 2 * rank * (width + width)  # an A and a B for each of the two, as MergedLinear has them
    assert count.adapter == q_and_v == layers * rank * (width + 3 * width)
