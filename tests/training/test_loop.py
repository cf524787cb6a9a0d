"""The loop: schedules, accumulation, clipping, checkpointed activations, draws, and the faults that stop it."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny import asked, attached, encoded, state

from rankbench.methods.submodel import Submodel
from rankbench.settings.train import Schedule, Train
from rankbench.system.progress import Progress
from rankbench.training import loop, samplers

DATA = encoded(40)
NO_DROPOUT = ["+model.random.hidden_dropout_prob=0", "+model.random.attention_probs_dropout_prob=0"]


def trained(tmp_path, *overrides, data=DATA, tuning=None, measure=lambda model: []):
    tuning = tuning or attached("train.batch_size=8", "train.max_steps=6", "train.log_steps=1", *overrides)
    _, past = loop.train(*asked(tuning.run), tuning, data, 0, Accelerator(cpu=True), tmp_path, measure)
    return tuning, past


def factors(**settings):
    return [loop.learning_rate_factor(Train(**settings), step, 100) for step in range(100)]


def test_linear_warm_up_and_decay():
    f = factors(warmup_steps=10, schedule=Schedule.linear)
    assert f[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11]) and f[10] == 1.0
    assert f[55] == pytest.approx(0.5) and f[99] == pytest.approx(1 / 90)


def test_cosine_decay():
    f = factors(warmup_ratio=0.0, schedule=Schedule.cosine)
    assert f[0] == 1.0 and f[50] == pytest.approx(0.5) and f[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


def test_constant_after_a_warm_up_ratio():
    f = factors(warmup_ratio=0.06, schedule=Schedule.constant)
    assert f[5] == pytest.approx(6 / 7) and set(f[6:]) == {1.0}


def test_the_learning_rate_in_the_log_follows_the_schedule(tmp_path):
    tuning, past = trained(tmp_path, "train.learning_rate=0.01", "train.warmup_steps=2")
    expected = [0.01 * loop.learning_rate_factor(tuning.run.train, step, 6) for step in range(6)]
    assert [entry["learning_rate"] for entry in past.losses] == pytest.approx(expected)


def test_each_step_trains_what_the_sampler_drew(tmp_path):
    tuning, past = trained(tmp_path, "seed=5")
    drawn = [samplers.draw(tuning.run.sampler, tuning.family, 5, step)[0][0] for step in range(6)]
    assert [entry["submodel"] for entry in past.losses] == [str(s) for s in drawn]
    assert len(set(drawn)) > 1


def test_the_rank_is_held_for_all_micro_batches_of_a_step(tmp_path, monkeypatch):
    tuning = attached("train.batch_size=4", "train.gradient_accumulation_steps=3", "train.max_steps=3")
    seen = []
    tuning.model.register_forward_pre_hook(lambda *_: seen.append(tuning.active().rank))
    trained(tmp_path, tuning=tuning)
    assert len(seen) == 9 and all(len(set(seen[i : i + 3])) == 1 for i in (0, 3, 6))


@pytest.mark.parametrize("schedule", [(8, 1), (4, 2), (2, 4), (3, 3)])
def test_accumulation_equals_one_large_batch(tmp_path, schedule):
    size, steps = schedule
    common = ["train.group_by_length=false", "train.max_steps=1", *NO_DROPOUT]
    data = encoded(8)
    whole, _ = trained(tmp_path / "a", *common, "train.batch_size=8", data=data, tuning=None)
    split, _ = trained(
        tmp_path / "b", *common, f"train.batch_size={size}", f"train.gradient_accumulation_steps={steps}", data=data
    )
    assert split.run.train.batch_size * steps >= 8
    a, b = state(whole), state(split)
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_gradients_are_clipped(tmp_path, monkeypatch):
    norms = []
    original = Accelerator.clip_grad_norm_

    def spy(self, parameters, limit):
        parameters = list(parameters)
        original(self, parameters, limit)
        norms.append(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item())

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", spy)
    trained(tmp_path, "train.max_grad_norm=0.001")
    assert len(norms) == 6 and max(norms) <= 0.00101


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2", "tiny_llama"])
def test_checkpointed_activations_give_the_same_weights(tmp_path, model):
    plain, _ = trained(tmp_path / "a", f"model={model}")
    saved, _ = trained(tmp_path / "b", f"model={model}", "train.gradient_checkpointing=true")
    a, b = state(plain), state(saved)
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_lora_and_dylora_see_the_same_data_and_dropout(tmp_path):
    seen = {}
    for adapter in ("lora", "dylora"):
        tuning = attached(f"adapter={adapter}", "train.batch_size=8", "train.max_steps=4")
        masks, batches = [], []
        dropout = next(m for m in tuning.model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0)
        dropout.register_forward_hook(lambda m, i, out, masks=masks: masks.append(out == 0))
        tuning.model.register_forward_pre_hook(
            lambda m, a, k, batches=batches: batches.append(k["input_ids"]), with_kwargs=True
        )
        trained(tmp_path / adapter, tuning=tuning)
        seen[adapter] = masks, batches
    for first, second in zip(*seen.values(), strict=True):
        assert len(first) == len(second) > 0 and all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_the_summed_loss_is_the_mean_over_ranks(tmp_path):
    overrides = ["sampler=all", "adapter.r=3", "train.max_steps=1", "train.optimizer=sgd", "train.max_grad_norm=0"]
    overrides += ["train.weight_decay=0", "train.schedule=constant", "train.warmup_ratio=0", "train.learning_rate=1"]
    tuning = attached("train.batch_size=8", *overrides, *NO_DROPOUT)
    before = state(tuning)
    data = encoded(8)
    from rankbench.tasks.encoding import collate

    batch = collate(data, np.arange(8), 0)
    expected = {name: torch.zeros_like(value) for name, value in before.items()}
    tuning.model.train()
    for b in (1, 2, 3):
        tuning.activate(Submodel(rank=b))
        tuning.model(**batch).loss.backward()
        for name, p in tuning.trained().items():
            expected[name] += p.grad / 3
        tuning.model.zero_grad()
    trained(tmp_path, tuning=tuning, data=data)
    after = state(tuning)
    for name in before:
        assert torch.allclose(before[name] - after[name], expected[name], atol=1e-6)


def test_periodic_evaluation_changes_nothing(tmp_path):
    from rankbench.scoring.evaluation import evaluate

    quiet, _ = trained(tmp_path / "a")
    tuning = attached("train.batch_size=8", "train.max_steps=6", "train.log_steps=1", "train.eval_steps=2")

    def measure(model):
        scores = evaluate(model, tuning, [DATA], tuning.family, ["accuracy"], batch_size=8, pad_id=0)
        return [{"rank": s.submodel.rank, "depth": None, "metric": "accuracy", **s.metrics} for s in scores]

    watched, past = trained(tmp_path / "b", tuning=tuning, measure=measure)
    assert {e["step"] for e in past.evaluations} == {2, 4} and len(past.evaluations) == 16
    a, b = state(quiet), state(watched)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(loop.TrainingError, match=r"the loss is (nan|inf).*learning_rate"):
        trained(tmp_path, "train.learning_rate=1e38", "train.warmup_steps=0", "train.max_grad_norm=0")


@pytest.fixture
def scaling():
    """Makes accelerators of fp16 with torch's own GradScaler, as a GPU has them, on the CPU."""
    from accelerate.state import AcceleratorState

    def make(scale=2.0**16):
        AcceleratorState._reset_state(True)
        accelerator = Accelerator(cpu=True)
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=scale)
        return accelerator

    yield make
    AcceleratorState._reset_state(True)


def in_fp16(tuning, accelerator, folder):
    run = tuning.run
    return loop.train(run.train, run.sampler, run.seed, tuning, DATA, 0, accelerator, folder, lambda model: [])[1]


@pytest.mark.parametrize("update", ["full", "frozen_strict"])  # with a fused optimizer, and without
@pytest.mark.parametrize("clipped", [0, 1])
@pytest.mark.parametrize(("steps", "said"), [(60, "in 25 steps in a row;"), (6, "in 6 steps in a row of a run;")])
def test_fp16_that_keeps_overflowing_stops_with_the_mend(tmp_path, scaling, update, clipped, steps, said):
    settings = [f"train.max_steps={steps}", f"train.max_grad_norm={clipped}", f"adapter.update={update}"]
    tuning = attached("train.batch_size=8", *settings)
    for parameter in tuning.trained().values():
        parameter.register_hook(lambda gradient: gradient * math.inf)
    before = state(tuning)
    with pytest.raises(loop.TrainingError, match=f"fp16 overflowed {said} use train.precision=fp32"):
        in_fp16(tuning, scaling(), tmp_path)
    assert all(torch.equal(before[name], value) for name, value in state(tuning).items())


def test_fp16_that_overflows_at_first_goes_on_at_a_lower_scale(tmp_path, scaling):
    tuning = attached("train.batch_size=8", "train.max_steps=40")
    accelerator = scaling(2.0**30)
    past = in_fp16(tuning, accelerator, tmp_path)
    assert past.step == 40 and 0 < past.skipped < 25
    assert accelerator.scaler.get_scale() == 2.0 ** (30 - past.skipped)
    assert any(p.abs().sum() > 0 for name, p in tuning.trained().items() if "lora_B" in name)


def test_bf16_trains_and_keeps_float32_adapters(tmp_path):
    tuning = attached("train.batch_size=8", "train.max_steps=3", "train.precision=bf16")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    _, past = loop.train(
        tuning.run.train,
        tuning.run.sampler,
        tuning.run.seed,
        tuning,
        DATA,
        0,
        Accelerator(cpu=True, mixed_precision="bf16"),
        tmp_path,
        lambda model: [],
    )
    AcceleratorState._reset_state(True)
    assert past.step == 3 and all(p.dtype is torch.float32 for p in tuning.trained().values())


def test_one_plain_line_where_there_is_no_terminal(monkeypatch, caplog):
    logging.getLogger("rankbench").propagate = True
    with caplog.at_level(logging.INFO, "rankbench"):
        progress = Progress(100, every_seconds=0.0)
        progress.show(50, 0.25, "rank 3", 200.0)
        progress.close()
    assert caplog.messages == ["step 50/100  loss 0.2500  rank 3  200 examples/s  0:00 left"]


def test_one_line_rewritten_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(100)
    progress.show(1, 0.25, "rank 3", 200.0)
    progress.show(2, 0.24, "rank 8", 200.0)
    progress.close()
    err = capsys.readouterr().err
    assert err.count("\r") == 2 and err.count("\n") == 1
    assert all(len(line) < 80 + 5 for line in err.split("\r"))
