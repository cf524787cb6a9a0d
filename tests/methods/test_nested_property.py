"""Every prefix of a nested adapter is a model of its own: items 1, 2, 3, 5 and 8 of the conformance list."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from tiny import MODELS, a_batch, a_run, attached, logits, stock_slice

from rankbench import methods
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone


@pytest.mark.parametrize("model", MODELS)
def test_rank_b_equals_a_stock_adapter_of_rank_b(model):
    tuning = attached(f"model={model}", "adapter.r=5")
    batch = a_batch()
    for b in range(1, 6):
        stock = stock_slice(tuning, tuning.run, b, alpha=16)
        with torch.no_grad():
            assert torch.allclose(logits(tuning, batch, b), stock(**batch).logits, atol=1e-6), b


@pytest.mark.parametrize("model", MODELS)
def test_a_truncated_lora_keeps_alpha_over_r(model):
    tuning = attached(f"model={model}", "adapter=lora", "adapter.r=4")
    batch = a_batch()
    for b in range(1, 5):
        stock = stock_slice(tuning, tuning.run, b, alpha=16 * b / 4)
        with torch.no_grad():
            assert torch.allclose(logits(tuning, batch, b), stock(**batch).logits, atol=1e-6), b


def test_alpha_over_r_and_alpha_over_b_differ_below_full_rank():
    nested, cut = attached("adapter=dylora"), attached("adapter=lora")
    batch = a_batch()
    assert torch.allclose(logits(nested, batch, 8), logits(cut, batch, 8), atol=1e-6)
    for b in range(1, 8):
        assert (logits(nested, batch, b) - logits(cut, batch, b)).abs().max() > 1e-3, b


@pytest.mark.parametrize("model", MODELS)
def test_before_training_every_rank_is_the_backbone(model):
    run = a_run(f"model={model}")
    base = backbone.load(run.model, 2, False, run.seed).model.eval()
    batch = a_batch()
    with torch.no_grad():
        expected = base(**batch).logits
    tuning = methods.attach(run, base)
    tuning.model.eval()
    for b in range(1, 9):
        assert torch.allclose(logits(tuning, batch, b), expected, atol=1e-6)


def test_halving_b_doubles_the_scale_of_a_row():
    tuning = attached()
    layer = tuning.layers[0]
    x = torch.randn(2, 3, layer.in_features)
    grads = {}
    for b in (2, 4, 8):
        tuning.activate(Submodel(rank=b))
        layer.zero_grad()
        layer(x).sum().backward()
        grads[b] = layer.lora_B["default"].weight.grad[:, :2].clone()
    assert torch.allclose(grads[2], 2 * grads[4], rtol=1e-5) and torch.allclose(grads[4], 2 * grads[8], rtol=1e-5)


def test_lora_trains_with_pefts_own_forward():
    tuning = attached("adapter=lora")
    assert all("default" not in layer.lora_variant for layer in tuning.layers)
    tuning.activate(Submodel(rank=3))
    assert all("default" in layer.lora_variant for layer in tuning.layers)
    tuning.activate(Submodel(rank=8))
    assert all("default" not in layer.lora_variant for layer in tuning.layers)


@pytest.mark.parametrize("adapter", ["lora", "dylora"])
@pytest.mark.parametrize("model", MODELS)
def test_stock_peft_loads_the_saved_adapter_and_its_slices(adapter, model, tmp_path):
    tuning = attached(f"model={model}", f"adapter={adapter}", "adapter.r=4")
    batch = a_batch()
    tuning.save(tmp_path / "adapter")

    def stock(folder):
        base = backbone.load(tuning.run.model, 2, False, tuning.run.seed).model
        with torch.no_grad():
            return PeftModel.from_pretrained(base, folder).eval()(**batch).logits

    assert torch.allclose(stock(tmp_path / "adapter"), logits(tuning, batch, 4), atol=1e-6)
    note = json.loads((tmp_path / "adapter" / "rankbench.json").read_text())
    assert note["nested"] is (adapter == "dylora")
    if adapter == "dylora":
        from safetensors.torch import load_file, save_file

        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        cut = {k: v[:2] if "lora_A" in k else v[:, :2] if "lora_B" in k else v for k, v in weights.items()}
        (tmp_path / "cut").mkdir()
        save_file({k: v.contiguous() for k, v in cut.items()}, tmp_path / "cut" / "adapter_model.safetensors")
        (tmp_path / "cut" / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
        assert torch.allclose(stock(tmp_path / "cut"), logits(tuning, batch, 2), atol=1e-6)


def test_the_scale_of_a_cut_lora_follows_its_policy():
    batch = a_batch()
    inflated = attached("adapter=lora", "adapter.scale=alpha_over_b")
    nested = attached("adapter=dylora")
    for b in (1, 4, 8):
        assert torch.allclose(logits(inflated, batch, b), logits(nested, batch, b), atol=1e-6)


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_outside_the_family_is_refused(rank):
    tuning = attached()
    with pytest.raises(ValueError, match="outside the family"):
        tuning.activate(Submodel(rank=rank))


def test_parameters_are_counted_for_each_rank():
    tuning = attached("adapter.r=4")
    per_rank = sum(layer.in_features + layer.out_features for layer in tuning.layers)
    whole = sum(p.numel() for n, p in tuning.model.named_parameters() if "original_module" not in n)
    for b in range(1, 5):
        count = tuning.count(Submodel(rank=b))
        assert count.adapter == b * per_rank
        assert count.head == 32 * 2 + 2
        assert count.trainable == count.adapter + count.head
        assert count.total == whole - (4 - b) * per_rank


def test_rsloras_scale_at_full_rank_is_stock_rslora():
    tuning = attached("adapter=lora", "adapter.scale=alpha_over_sqrt_b")
    batch = a_batch()
    ours = logits(tuning, batch, 8)
    for layer in tuning.layers:
        layer.lora_variant.pop("default", None)
        assert layer.scaling["default"] == pytest.approx(16 / 8**0.5)
    with torch.no_grad():
        assert torch.allclose(tuning.model(**batch).logits, ours, atol=1e-6)
