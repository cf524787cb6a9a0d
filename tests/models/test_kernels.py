"""The built maps give, bit for bit, what torch's own operations give, and nothing fails where they can't be built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankbench.models import integer
from rankbench.models.integer import kernels
from rankbench.models.integer.fixed_point import mapped, storage
from rankbench.models.integer.noise import Noise
from rankbench.models.integer.products import has_int8, matmul_exact
from rankbench.settings.arithmetic import Arithmetic, Scale

built = pytest.mark.skipif(kernels.library() is None, reason="no C compiler here")
WIDTHS = (4, 8, 9, 12, 16)


def numbers(kind: str, rows: int, width: int) -> torch.Tensor:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows * width))
    match kind:
        case "tiny":
            return x * 1e-38  # below the smallest scale, some of them subnormal
        case "huge":
            return x * 1e37
        case "halves":
            return (x * 8).round() / 2  # ties of the rounding
        case "powers":
            return torch.exp2((x * 9).round()) * x.sign()
        case "zero rows":
            return x * (torch.arange(rows) % 2).view(-1, 1)
        case "an outlier":
            return torch.where(torch.arange(rows * width).view(rows, width) == 3, 100.0, x)
        case "turned":
            return x.t().contiguous().t()
    return x


KINDS = ("plain", "tiny", "huge", "halves", "powers", "zero rows", "an outlier", "turned")


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], object]]:
    """Calls something as where there is no compiler."""

    def alone(act: Callable[[], object]) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "library", lambda: None)
            return act()

    yield alone


@built
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", WIDTHS)
def test_maps_are_the_same(kind: str, bits: int, torch_alone: Callable[..., object]) -> None:
    for rows, width in ((1, 1), (5, 3), (7, 384), (300, 129)):
        x = numbers(kind, rows, width)
        draws = Noise(3).of("layer", x.shape, x.device)
        for by_row in (True, False):
            for noise in (None, draws):
                for dtype in (storage(bits), torch.float32):
                    for top in (None,) if by_row else (None, x.abs().max() * 3):

                        def act(x=x, by_row=by_row, noise=noise, top=top, dtype=dtype):  # type: ignore[no-untyped-def]
                            return mapped(x, bits, by_row, noise, top, dtype)

                        q, scale = act()
                        expected = torch_alone(act)
                        assert torch.equal(q, expected[0]) and torch.equal(scale, expected[1])  # type: ignore[index]
                        assert q.dtype is dtype and q.shape == x.shape and scale.shape == expected[1].shape  # type: ignore[index]


@built
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("by_row", [True, False])
def test_what_is_not_finite_is_refused_wherever_it_stands(bad: float, by_row: bool) -> None:
    for place in (0, 7, 400 * 96 - 1):
        x = torch.randn(400, 96)
        x.view(-1)[place] = bad
        with pytest.raises(FloatingPointError, match="not finite"):
            mapped(x, 8, by_row)
        with pytest.raises(FloatingPointError, match="not finite"):
            norm = nn.Sequential(nn.LayerNorm(96))
            integer.put(norm, asked(8), 0)
            norm(x)


@built
def test_noise_is_the_same(torch_alone: Callable[..., object]) -> None:
    noise = Noise(7)
    noise.at(11, torch.tensor([5, 2**20, 0]))
    for shape in ((3, 4, 6), (2, 5), (0, 3)):
        made = noise.of("encoder.0", torch.Size(shape), torch.device("cpu"))
        alone = torch_alone(lambda shape=shape: noise.of("encoder.0", torch.Size(shape), torch.device("cpu")))
        assert all(torch.equal(a, b) for a, b in zip(made, alone, strict=True))  # type: ignore[call-overload]


def asked(bits: int, scale: str = "row", drawn: str = "gradient") -> Arithmetic:
    rounding = dict.fromkeys(("weight", "activation", "gradient"), "nearest") | {drawn: "stochastic"}
    return Arithmetic("int8", dict.fromkeys(("weight", "activation", "gradient"), bits), rounding, Scale(scale))


class Layers(nn.Module):
    """One of each kind, as a block has them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 96, padding_idx=0)
        self.norm, self.bare = nn.LayerNorm(96), nn.LayerNorm(96, elementwise_affine=False)
        self.up, self.down = nn.Linear(96, 200), nn.Linear(200, 96, bias=False)
        self.to(dtype)
        with torch.no_grad():
            for weight in self.norm.parameters():
                weight += torch.randn_like(weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.words(ids))
        return self.bare(hidden + self.down(self.up(hidden).relu()))


@built
@pytest.mark.parametrize("bits", [8, 11, 16])
@pytest.mark.parametrize("scale", ["row", "tensor"])
@pytest.mark.parametrize("trained", ["all", "none", "norms", "biases"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("drawn", ["gradient", "activation"])
def test_layers_forward_and_backward_are_the_same(
    bits: int, scale: str, trained: str, dtype: torch.dtype, drawn: str, torch_alone: Callable[..., object]
) -> None:
    def act() -> list[torch.Tensor]:
        model = Layers(dtype)
        shared = integer.put(model, asked(bits, scale, drawn), 1)
        for name, parameter in model.named_parameters():
            parts = {"all": "", "none": "nothing", "norms": "norm", "biases": "bias"}
            parameter.requires_grad_(parts[trained] in name)
        assert shared is not None
        shared.noise.at(2, torch.arange(4))
        ids = torch.arange(4 * 90).view(4, 90) % 50
        given = torch.randn(4, 90, 96, generator=torch.Generator().manual_seed(5)).to(dtype).requires_grad_()
        hidden = model.norm(given + model.words(ids))
        out = model.bare(hidden + model.down(model.up(hidden).relu()))
        (out.float() ** 3).sum().backward()
        assert given.grad is not None and given.grad.abs().sum() > 0
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert len(grads) == {"all": 6, "none": 0, "norms": 2, "biases": 2}[trained]
        return [out.detach(), given.grad, *grads]

    for mine, other in zip(act(), torch_alone(act), strict=True):  # type: ignore[call-overload]
        assert torch.equal(mine, other)


@built
def test_the_layers_do_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the equalities above would compare torch with torch."""
    used: set[str] = set()
    library = kernels.library()

    class Watched:
        def __getattr__(self, name: str) -> object:
            used.add(name)
            return getattr(library, name)

    monkeypatch.setattr(kernels, "library", Watched)
    model = Layers(torch.float32)
    integer.put(model, asked(8), 1)
    model(torch.arange(60).view(2, 30) % 50).sum().backward()
    byte_products = {"scaled_32"} if has_int8("cpu") else set()
    assert used == {"mapped", "normalized", "inner", "descended", "uniform"} | byte_products


CODE = """
import torch
from rankbench.models.integer import kernels
from rankbench.models.integer.fixed_point import mapped
x = torch.linspace(-3, 3, 4000).view(40, 100)
print(kernels.library() is not None, mapped(x, 8, True)[0].long().sum().item(), mapped(x.abs(), 8)[0].sum().item())
"""


def said(code: str = CODE, **env: str) -> str:
    call = [sys.executable, "-c", code]
    return subprocess.run(call, env=os.environ | env, capture_output=True, text=True, check=True).stdout.strip()


@built
def test_without_a_compiler_or_with_a_broken_one_torch_does_the_work(tmp_path: Path) -> None:
    here = said()
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert here.startswith("True ")
    for compiler in ("no-such-compiler", str(broken)):
        assert said(CC=compiler) == here.replace("True", "False")
    assert said(CC="env cc") == here


@built
def test_nothing_stays_of_a_build(tmp_path: Path) -> None:
    assert said(TMPDIR=str(tmp_path)).startswith("True ")
    assert [*tmp_path.iterdir()] == []


@built
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_threads_are_torchs_own() -> None:
    maps = said(f"{CODE}\nprint(open('/proc/self/maps').read())")
    assert len({*re.findall(r"/\S*gomp\S*", maps)}) <= 1


def test_what_makes_integers_slower_here_is_said(torch_alone: Callable[..., object]) -> None:
    said = torch_alone(lambda: integer.slower("cpu"))
    assert isinstance(said, str) and ("C compiler" if has_int8("cpu") else "VNNI") in said
    if has_int8("cpu") and kernels.library() is not None:
        assert integer.slower("cpu") is None


@pytest.mark.parametrize("way", ["int8", "digits"])
@pytest.mark.parametrize(
    "shape", [(1, 32, 384), (5, 1, 384), (7, 33, 1), (1, 1, 9), (1, 300, 1), (3, 0, 4), (64, 2000, 8)]
)
def test_products_are_exact_however_their_factors_lie_in_memory(way: str, shape: tuple[int, int, int]) -> None:
    """torch._int_mm itself is not: a side of 1 with the strides of a turned matrix has it read beside the numbers."""
    m, k, n = shape
    bits = 8 if way == "int8" else 13
    dtype = torch.int8 if way == "int8" else torch.int16
    most = 2 ** (bits - 1) - 1
    draw = torch.Generator().manual_seed(0)

    def layouts(rows: int, columns: int) -> list[torch.Tensor]:
        x = torch.randint(-most, most + 1, (rows, columns), generator=draw).to(dtype)
        wide = torch.zeros(2 * rows + 1, 2 * columns + 1, dtype=dtype)
        wide[1::2, 1::2] = x
        turned = torch.empty(columns, rows, dtype=dtype).t().copy_(x)
        return [x, turned, wide[1::2, 1::2], x.t().clone().t(), torch.cat([x, x], 1)[:, :columns]]

    for _ in range(3):
        for a in layouts(m, k):
            for b in layouts(k, n):
                assert torch.equal(matmul_exact(a, b, (bits, bits), way).long(), a.long() @ b.long())


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", ["one output", "one input", "turned, one output", "turned, one input"])
def test_layers_with_one_output_or_one_input_have_the_gradients_of_floats(bits: int, kind: str) -> None:
    """As the head of a regression has."""
    one = kind.endswith("output")
    sides = (100, 1) if one else (1, 100)
    for seed in range(3):
        torch.manual_seed(seed)
        layer = Conv1D(*sides[::-1]) if kind.startswith("turned") else nn.Linear(*sides)
        x = torch.randn(32, sides[0], requires_grad=True)
        given = torch.randn(32, sides[1])

        def grads(layer: nn.Module = layer, x: torch.Tensor = x, given: torch.Tensor = given) -> list[torch.Tensor]:
            y = layer(x)
            return [y.detach(), *torch.autograd.grad((y * given).sum(), [x, *layer.parameters()])]

        exact = grads()
        integer.put(nn.Sequential(layer), asked(bits), 0)
        for mine, other in zip(grads(), exact, strict=True):
            assert (mine - other).norm() <= 2.0 ** (7 - bits) * other.norm()


def test_a_single_row_of_numbers_goes_through_as_through_stock_layers() -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(24, 6), nn.LayerNorm(24), Conv1D(6, 24)):
        x = torch.randn(24, requires_grad=True)
        exact = layer(x), *torch.autograd.grad((layer(x) ** 3).sum(), [x, *layer.parameters()])
        integer.put(nn.Sequential(layer), asked(16), 0)
        mine = layer(x), *torch.autograd.grad((layer(x) ** 3).sum(), [x, *layer.parameters()])
        for a, b in zip(mine, exact, strict=True):
            assert a.shape == b.shape and (a - b).norm() <= 3e-3 * b.norm()


def test_several_threads_may_ask_one_layer() -> None:
    holder = nn.Sequential(nn.Linear(16, 16)).requires_grad_(False).eval()
    integer.put(holder, asked(8), 0)
    inputs = [torch.randn(3, 16) for _ in range(4)]
    with torch.no_grad():
        alone = [holder(x) for x in inputs]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:

        def ask(i: int) -> bool:
            with torch.no_grad():
                return all(torch.equal(holder(inputs[i]), alone[i]) for _ in range(500))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(ask, range(4)))
    finally:
        sys.setswitchinterval(before)


def test_a_layer_that_was_asked_in_inference_mode_trains_what_lies_below_it() -> None:
    holder = nn.Sequential(nn.Linear(16, 16)).requires_grad_(False)
    integer.put(holder, asked(8), 0)
    x = torch.randn(3, 16, requires_grad=True)
    with torch.inference_mode():
        holder.eval()(x)
    holder.train()(x).sum().backward()
    assert x.grad is not None


def test_a_gradient_of_a_gradient_is_refused_rather_than_left_out() -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    integer.put(layer, asked(8), 0)
    x = torch.randn(3, 8, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


def test_ids_of_32_bits_draw_as_those_of_64() -> None:
    noise = Noise(1)
    places = torch.tensor([3, 2**30, 7])
    one, other = (
        noise.of("words", torch.Size([3, 4]), torch.device("cpu"), p) for p in (places, places.to(torch.int32))
    )
    assert torch.equal(one[0], other[0])


@built
def test_a_folder_that_cannot_be_removed_or_a_strange_compiler_is_no_error(tmp_path: Path) -> None:
    code = "import shutil\ndef fails(*a, **k): raise OSError(39, 'Directory not empty')\nshutil.os.rmdir = fails\n"
    assert said(code + CODE, TMPDIR=str(tmp_path)).startswith("True ")
    assert said(CC="it's").startswith("False ")
    assert said(CODE, TMPDIR=str(tmp_path / "none")).split(" ", 1)[1] == said().split(" ", 1)[1]
