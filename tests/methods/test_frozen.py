"""What a step at rank b moves: item 4 of the conformance list."""

from __future__ import annotations

import pytest
import torch
from tiny import a_batch, attached, state

from rankbench.methods.submodel import Submodel
from rankbench.training.loop import make_optimizer

B = 3  # the drawn rank, 1-based


def one_step(tuning, optimizer, rank: int) -> None:
    tuning.activate(Submodel(rank=rank))
    tuning.model(**a_batch(seed=rank)).loss.backward()
    tuning.shape_gradients(Submodel(rank=rank))
    optimizer.step()
    for parameter in tuning.trained().values():
        parameter.grad = None


def moved(before: torch.Tensor, after: torch.Tensor, dim: int) -> list[int]:
    """1-based ranks whose row of A (dim 0) or column of B (dim 1) changed in any bit."""
    changed = (before != after).any(dim=1 - dim)
    return [i + 1 for i, c in enumerate(changed.tolist()) if c]


def ranks_moved(tuning, before) -> set[tuple[int, ...]]:
    after = state(tuning)
    return {tuple(moved(before[name], after[name], 0 if "lora_A" in name else 1)) for name in before if "lora_" in name}


def prepared(*overrides: str):
    tuning = attached("train.weight_decay=0.1", "adapter.r=5", *overrides)
    optimizer = make_optimizer(tuning.run.train, tuning.optimized())
    for rank in (5, 4, 2):  # moments of the other ranks are alive
        one_step(tuning, optimizer, rank)
    return tuning, optimizer


def test_frozen_strict_leaves_every_other_rank_bit_equal():
    tuning, optimizer = prepared("adapter.update=frozen_strict")
    before = state(tuning)
    one_step(tuning, optimizer, B)
    assert ranks_moved(tuning, before) == {(B,)}
    assert not torch.equal(before[head_name(before)], state(tuning)[head_name(before)])


def test_frozen_strict_is_adamw_on_the_row_alone():
    tuning, optimizer = prepared("adapter.update=frozen_strict")
    name = next(n for n in tuning.trained() if "lora_A" in n)
    twin = torch.nn.Parameter(tuning.trained()[name][B - 1].detach().clone())
    reference = torch.optim.AdamW([twin], lr=tuning.run.train.learning_rate, weight_decay=0.1)
    for _ in range(3):  # the row's own first, second, third step, whatever the other rows did before
        tuning.activate(Submodel(rank=B))
        tuning.model(**a_batch(seed=9)).loss.backward()
        twin.grad = tuning.trained()[name].grad[B - 1].clone()
        tuning.shape_gradients(Submodel(rank=B))
        optimizer.step()
        reference.step()
        tuning.model.zero_grad()
        assert torch.allclose(twin, tuning.trained()[name][B - 1], atol=1e-7)


def test_frozen_grad_masks_gradients_and_adamw_still_moves_other_rows():
    tuning, optimizer = prepared("adapter.update=frozen_grad")
    tuning.activate(Submodel(rank=B))
    tuning.model(**a_batch(seed=9)).loss.backward()
    tuning.shape_gradients(Submodel(rank=B))
    for name, parameter in tuning.trained().items():
        if "lora_" in name:
            size = parameter.grad.abs().sum(dim=1 if "lora_A" in name else 0)
            assert [i + 1 for i, s in enumerate(size) if s > 0] == [B]
    before = state(tuning)
    optimizer.step()
    assert ranks_moved(tuning, before) == {(1, 2, 3, 4, 5)}  # momentum and weight decay: as the released code


def test_full_update_trains_the_prefix_and_sgd_leaves_the_rest():
    tuning = attached("train.optimizer=sgd", "train.weight_decay=0", "adapter.r=5")
    optimizer = make_optimizer(tuning.run.train, tuning.optimized())
    before = state(tuning)
    one_step(tuning, optimizer, B)
    assert ranks_moved(tuning, before) == {(1, 2, 3)}


def test_full_update_under_adamw_moves_rows_beyond_the_drawn_rank():
    tuning, optimizer = prepared()
    before = state(tuning)
    one_step(tuning, optimizer, 2)
    assert ranks_moved(tuning, before) == {(1, 2, 3, 4, 5)}


@pytest.mark.parametrize("update", ["full", "frozen_grad", "frozen_strict"])
def test_the_head_trains_at_every_rank(update):
    tuning = attached(f"adapter.update={update}")
    optimizer = make_optimizer(tuning.run.train, tuning.optimized())
    for rank in (1, 8):
        before = state(tuning)
        one_step(tuning, optimizer, rank)
        assert not torch.equal(before[head_name(before)], state(tuning)[head_name(before)])


def head_name(weights) -> str:
    return next(name for name in weights if "classifier" in name and name.endswith("weight"))
