"""PEFT's variant hook does what the nested adapter relies on, for each layer type. A PEFT release that breaks this
fails here, not in somebody's figures."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from tiny import a_run
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankbench.errors import RequestError
from rankbench.methods import lora
from rankbench.settings.methods.lora import Scale

R, IN, OUT = 4, 64, 128


class One(nn.Module):
    """A model that is one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def linear() -> nn.Module:
    return nn.Linear(IN, OUT)


def conv1d() -> nn.Module:
    return Conv1D(OUT, IN)


def linear4bit() -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(IN, OUT, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True)
    return layer.to("cpu")


def linear8bit() -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    return bnb.nn.Linear8bitLt(IN, OUT, has_fp16_weights=False).to("cpu")


LAYERS = [linear, conv1d, linear4bit, linear8bit]


def with_prefix(kind) -> tuple[nn.Module, nn.Module, LoraLayer, lora.Prefix]:
    """(stock PEFT model, the same with the hook set, its layer, the hook)."""
    torch.manual_seed(0)
    config = LoraConfig(r=R, lora_alpha=8, target_modules=["layer"], fan_in_fan_out=kind is conv1d)
    stock = get_peft_model(One(kind()), config)
    layer = next(m for m in stock.modules() if isinstance(m, LoraLayer))
    layer.lora_B["default"].weight.data.normal_()
    ours = copy.deepcopy(stock)
    layer = next(m for m in ours.modules() if isinstance(m, LoraLayer))
    prefix = lora.Prefix(R, 8 / R)
    layer.lora_variant["default"] = prefix
    return stock, ours, layer, prefix


@pytest.mark.parametrize("kind", LAYERS)
def test_full_rank_equals_stock_peft(kind):
    stock, ours, _, _ = with_prefix(kind)
    x = torch.randn(3, 5, IN)
    assert torch.allclose(ours(x), stock(x), atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("b", [1, 3])
def test_rank_b_adds_alpha_over_b_times_the_prefix(kind, b):
    stock, ours, layer, prefix = with_prefix(kind)
    x = torch.randn(3, 5, IN)
    prefix.rank, prefix.scale = b, 8 / b
    a, bb = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer(x) + 8 / b * (x @ a[:b].T @ bb[:, :b].T)
    assert torch.allclose(ours(x), expected, atol=1e-5)
    assert not torch.allclose(ours(x), stock(x), atol=1e-3)


@pytest.mark.parametrize("kind", LAYERS)
def test_only_the_prefix_gets_a_gradient(kind):
    _, ours, layer, prefix = with_prefix(kind)
    prefix.rank = 2
    ours(torch.randn(3, IN)).square().sum().backward()
    a, b = layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad
    assert a[:2].abs().min(dim=1).values.gt(0).all() and not a[2:].any()
    assert b[:, :2].abs().sum(0).gt(0).all() and not b[:, 2:].any()


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_of_one_batch_may_hold_different_ranks(kind):
    _, ours, _, prefix = with_prefix(kind)
    x = torch.randn(R, 5, IN)
    one_by_one = []
    for b in range(1, R + 1):
        prefix.rank, prefix.scale = b, 8 / b
        one_by_one.append(ours(x[b - 1 : b]))
    prefix.gates = torch.tensor([[8 / b if i < b else 0.0 for i in range(R)] for b in range(1, R + 1)])
    # int8 quantises the activations of a batch together, so rows are not quite independent there
    tolerance = 1e-5 if kind is not linear8bit else 0.1
    assert torch.allclose(ours(x), torch.cat(one_by_one), atol=tolerance)


@pytest.mark.parametrize("kind", [linear, conv1d])  # the quantised layers choose their own compute type
def test_bf16_activations_keep_their_type(kind):
    _, ours, _, prefix = with_prefix(kind)
    prefix.rank = 2
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.randn(3, IN)).dtype is torch.bfloat16


def test_a_layer_that_ignores_the_hook_is_refused_by_name():
    class WithAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = {"model_type": "custom"}
            self.attention = nn.MultiheadAttention(16, 2)

        def forward(self, x):
            return self.attention(x, x, x)[0]

        def prepare_inputs_for_generation(self):
            raise AssertionError("never asked")

    run = a_run("adapter.target_modules=[attention]", "adapter.r=2")
    with pytest.raises(RequestError, match=r"attention .*MultiheadAttention.* cannot hold a nested adapter"):
        lora.DyLora(run, WithAttention())


def test_an_embedding_is_refused_by_name():
    from rankbench.models import backbone

    run = a_run("adapter.target_modules=[word_embeddings]")
    model = backbone.load(run.model, 2, False, 0).model
    with pytest.raises(RequestError, match=r"word_embeddings .*Embedding.* cannot hold a nested adapter"):
        lora.DyLora(run, model)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(Scale.alpha_over_b, 8.0), (Scale.alpha_over_r, 2.0), (Scale.alpha_over_sqrt_b, 16 / 2**0.5)],
)
def test_the_scale_policies(policy, expected):
    assert lora.scaling(policy, alpha=16, r=8, b=2) == pytest.approx(expected)
