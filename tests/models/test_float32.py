"""Float32 products by oneDNN are torch's but for the order of the sums, and only where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
import transformers.pytorch_utils
from tiny import a_run
from torch import nn
from torch.autograd import forward_ad

from rankbench.models import float32, integer

ROWS, IN, OUT = 96, 320, 192  # a product of more than float32.LEAST multiplications

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this build of torch comes without oneDNN"
)


@pytest.fixture(autouse=True)
def _on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32, "pays", lambda: True)


def _operands(*rows: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return tuple(  # type: ignore[return-value]
        torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((*rows, IN), (OUT, IN), (OUT,))
    )


def _by_onednn(call: Callable[[], object]) -> bool:
    """Whether the call multiplies by oneDNN, which torch's profiler sees."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        call()
    return any("_linear_pointwise" in event.key for event in seen.key_averages())


@pytest.mark.parametrize("rows", [(ROWS,), (4, 24), (2, 3, 16)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_the_product_and_its_gradients_are_those_of_float64(rows: tuple[int, ...], biased: bool) -> None:
    x, weight, bias = _operands(*rows)
    operands = (x, weight, bias) if biased else (x, weight)
    towards = torch.randn(*rows, OUT)
    assert _by_onednn(lambda: float32.linear(*operands))
    y = float32.linear(*operands)
    found = (y, *torch.autograd.grad((y * towards).sum(), operands))
    exact = tuple(one.detach().double().requires_grad_() for one in operands)
    y = F.linear(*exact)
    expected = (y, *torch.autograd.grad((y * towards.double()).sum(), exact))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == torch.float32
        assert (one - other).abs().max() <= 4e-6 * other.abs().max()


@pytest.mark.parametrize(
    "pick",
    [lambda x: x[:, 0], lambda x: x.transpose(0, 1), lambda x: x[::2], lambda x: x[:1].expand(ROWS, -1, -1)],
    ids=["first token", "turned", "every other", "expanded"],
)
def test_numbers_that_lie_apart_are_multiplied_too(pick: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x, weight, bias = _operands(ROWS, 3)
    weight = weight[:, ::2].detach().requires_grad_()
    found = torch.autograd.grad(float32.linear(pick(x)[..., ::2], weight, bias).square().sum(), (x, weight, bias))
    expected = torch.autograd.grad(F.linear(pick(x)[..., ::2], weight, bias).square().sum(), (x, weight, bias))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize(
    "bias",
    [torch.arange(2.0 * OUT)[::2], torch.randn(OUT, 3)[:, 1], torch.ones(1).expand(OUT), torch.ones(1), torch.ones(())],
    ids=["every other", "a column", "expanded", "one for all", "a number"],
)
def test_a_bias_of_any_layout_is_added(bias: torch.Tensor) -> None:
    x, weight, _ = (one.detach() for one in _operands(ROWS))
    torch.testing.assert_close(float32.linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-3)


def test_unlike_widths_are_refused_in_torchs_words() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        float32.linear(torch.randn(ROWS, IN + 1), torch.randn(OUT, IN))


def test_a_layer_is_traced_as_a_stock_one() -> None:
    x = torch.randn(ROWS, IN)
    layer = float32.Linear(IN, OUT)
    torch.testing.assert_close(torch.jit.trace(layer, (x,))(x), layer(x), rtol=1e-5, atol=1e-5)


def test_a_tangent_is_not_lost() -> None:
    x, weight, bias = (one.detach() for one in _operands(ROWS))
    with forward_ad.dual_level():
        y = float32.linear(forward_ad.make_dual(x, torch.ones_like(x)), weight, bias)
        assert forward_ad.unpack_dual(y).tangent is not None


def test_a_row_alone_is_multiplied_too() -> None:
    row = torch.randn(4096, 2)[:, 0]
    weight = torch.randn(1024, 4096)
    assert _by_onednn(lambda: float32.linear(row, weight))
    torch.testing.assert_close(float32.linear(row, weight), F.linear(row, weight), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_only_what_trains_has_a_gradient(frozen: int) -> None:
    operands = _operands(ROWS)
    operands[frozen].requires_grad_(False)
    float32.linear(*operands).sum().backward()
    assert [one.grad is None for one in operands] == [i == frozen for i in range(3)]


def test_a_gradient_of_a_gradient_is_torchs() -> None:
    x, weight, _ = _operands(ROWS)

    def penalty(linear: Callable[..., torch.Tensor]) -> torch.Tensor:
        (slope,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    expected = penalty(F.linear)
    torch.testing.assert_close(penalty(float32.linear), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def _halved() -> Iterator[torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        yield float32.linear(*_operands(ROWS))


def _switched_off() -> Iterator[torch.Tensor]:
    with torch.backends.mkldnn.flags(enabled=False):
        yield float32.linear(*_operands(ROWS))


@pytest.mark.parametrize(
    "call",
    [
        lambda: float32.linear(*_operands(1)),
        lambda: float32.linear(*_operands(ROWS, dtype=torch.float64)),
        lambda: float32.linear(*_operands(ROWS, dtype=torch.bfloat16)),
        lambda: float32.linear(*(one.to("meta") for one in _operands(ROWS))),
        lambda: next(_halved()),
        lambda: next(_switched_off()),
        lambda: torch.func.vmap(float32.linear, (0, None))(*(one.detach() for one in _operands(3, ROWS)[:2])),
    ],
    ids=["small", "float64", "bf16", "meta", "autocast", "switched off", "vmap"],
)
def test_every_other_product_is_left_to_torch(call: Callable[[], torch.Tensor]) -> None:
    assert not _by_onednn(call)


def test_a_compiled_layer_is_left_to_the_compiler() -> None:
    layer = float32.Linear(IN, OUT)
    graphs: list[torch.fx.GraphModule] = []

    def kept(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compile(layer, backend=kept, fullgraph=True)(torch.randn(ROWS, IN))
    assert "linear_pointwise" not in graphs[0].code and "linear" in graphs[0].code


@pytest.mark.parametrize(
    ("has", "idle"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_it_is_for_amds_processors_with_avx512(has: dict[str, object], idle: bool) -> None:
    assert float32.left_idle(has) is idle


class Both(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(IN, OUT)
        self.conv = transformers.pytorch_utils.Conv1D(IN, OUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.linear(x))


def test_a_models_layers_multiply_so_and_keep_weights_and_names() -> None:
    model, stock = Both(), Both()
    x = torch.randn(ROWS, IN)
    assert integer.put(model, a_run().arithmetic, 0) is None
    assert _by_onednn(lambda: model.linear(x)) and _by_onednn(lambda: model.conv(stock.linear(x)))
    torch.testing.assert_close(model(x), stock(x), rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == list(stock.state_dict())
    assert str(model) == str(stock)


def test_what_an_earlier_run_gave_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Both()
    integer.put(model, a_run().arithmetic, 0)
    integer.put(model, a_run("arithmetic=int8").arithmetic, 0)
    assert type(model.linear) is integer.KINDS[nn.Linear]
    monkeypatch.setattr(float32, "pays", lambda: False)
    integer.put(model, a_run().arithmetic, 0)
    assert type(model.linear) is nn.Linear and type(model.conv) is transformers.pytorch_utils.Conv1D
