"""Moments in pages, which only a GPU has: here bitsandbytes' optimizer on the CPU, its pages marked."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from bitsandbytes.optim import PagedAdamW32bit
from tiny import asked, attached, encoded, state

from rankbench.training import checkpoints, loop

DATA = encoded(40)


class Marked(PagedAdamW32bit):
    """Says which buffers would lie in pages; a page is fetched by a call of CUDA, which is left out."""

    def get_state_buffer(self, p, dtype=torch.float32):
        buffer = torch.zeros_like(p, dtype=dtype)
        buffer.is_paged = True
        return buffer

    def prefetch_state(self, p):
        assert self.state[p]["state1"].is_paged and self.state[p]["state2"].is_paged


def trained(folder, steps, monkeypatch, *overrides):
    made = []

    def make(settings, tensors, own=()):
        made.append(Marked([{"params": tensors}], lr=settings.learning_rate))
        return made[0]

    monkeypatch.setattr(loop, "make_optimizer", make)
    tuning = attached("train.batch_size=8", "train.max_steps=6", "train.checkpoint_steps=1", *overrides)
    before = state(tuning)
    kept, count = checkpoints.keep, []

    def save(*args):
        kept(*args)
        count.append(1)
        if len(count) == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "keep", save)
        try:
            loop.train(*asked(tuning.run), tuning, DATA, 0, Accelerator(cpu=True), folder, lambda model: [])
        except KeyboardInterrupt:
            assert len(count) == steps
    return before, state(tuning)


@pytest.mark.parametrize("overrides", [[], ["adapter.reorder_at=[0.5]"]])
def test_a_resumed_run_has_its_moments_in_pages_and_ends_the_same(overrides, tmp_path, monkeypatch):
    before, whole = trained(tmp_path / "whole", 0, monkeypatch, *overrides)
    trained(tmp_path / "parts", 4, monkeypatch, *overrides)
    _, parts = trained(tmp_path / "parts", 0, monkeypatch, *overrides)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert all(not torch.equal(whole[name], before[name]) for name in whole if "lora_" in name)


@pytest.mark.parametrize(("strided", "kind"), [(False, "PagedAdamW32bit"), (True, "AdamW")])
def test_single_columns_stay_with_their_weight(strided, kind):
    """bitsandbytes makes its tensors contiguous, and a column made so is none of the weight any more."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    settings = attached("train.optimizer=paged_adamw").run.train
    with FakeTensorMode():  # tensors of a card that is not there
        whole = torch.empty(5, 3, device="cuda")
        tensors = [whole.narrow(1, i, 1).requires_grad_() for i in range(3)] if strided else [whole.requires_grad_()]
        assert type(loop.make_optimizer(settings, tensors)).__name__ == kind


def test_a_paged_optimizer_would_never_train_single_columns():
    tuning = attached("adapter.update=frozen_strict")
    before = state(tuning)
    optimizer = PagedAdamW32bit(tuning.optimized(), lr=0.1)
    for tensor in tuning.optimized():
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    after = state(tuning)
    assert any(torch.equal(before[name], after[name]) for name in before if "lora_B" in name)
