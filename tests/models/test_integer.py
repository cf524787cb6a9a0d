"""Integer arithmetic: exact products, the format, the layers' formulas, and whole runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankbench.models import integer
from rankbench.models.integer.fixed_point import mapped
from rankbench.models.integer.noise import Noise
from rankbench.models.integer.products import WAYS, in_parts, largest, longest, matmul_exact, product
from rankbench.settings import arithmetic as settings

WIDTHS = (8, 10, 12, 16)
# Relative Frobenius errors against float64 of x, y, dx and dw at 8 bits, to the nearest; two bits more are a quarter.
ERRORS = (0.0180, 0.0213, 0.0210, 0.0252)


def numbers(bits: int, shape: tuple[int, int], full: bool, seed: int = 0) -> torch.Tensor:
    """Integers (int64) of so many bits: all of the largest magnitude, or drawn."""
    most = largest(bits)
    if full:
        return torch.full(shape, -most if seed else most)
    return torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("inner", [64, 65, 1040, 1041, 3072, 8192])
@pytest.mark.parametrize("bits", [(8, 8), (8, 12), (10, 10), (12, 12), (15, 15), (15, 4), (16, 16), (16, 8)])
def test_every_way_gives_the_same_integers_where_it_is_proved_and_is_refused_elsewhere(
    bits: tuple[int, int], inner: int, full: bool
) -> None:
    a, b = numbers(bits[0], (5, inner), full), numbers(bits[1], (inner, 8), full, 1)
    exact = a @ b
    narrow = [x.to(torch.int8 if w <= 8 else torch.int16) for x, w in zip((a, b), bits, strict=True)]
    for way in WAYS:
        if inner > longest(way, bits):
            with pytest.raises(ValueError, match=f"{inner} products of {bits[0]} by {bits[1]} bits"):
                matmul_exact(*narrow, bits, way)
        else:
            assert torch.equal(matmul_exact(*narrow, bits, way).long(), exact), way
    if longest("fp32", bits):
        assert torch.equal(in_parts(*narrow, bits).long(), exact)
    assert torch.equal(product(*narrow, bits).float(), exact.float())


def test_one_product_more_than_is_proved_is_no_longer_exact() -> None:
    assert [longest(way, (8, 8)) for way in WAYS] == [133144, 65535, 1040, 2**53 // 127**2] and longest(
        "fp32", (16, 16)
    ) == 0
    for way, dtype in (("fp32", torch.float32), ("fp64", torch.float64)):
        more = longest(way, (8, 8)) + 1
        sums = torch.tensor([(more - 1) * 127**2, (more + (more + 1) % 2) * 127**2])  # the second is odd
        assert (sums.to(dtype).long() == sums).tolist() == [True, False], way
    assert longest("int8", (8, 8)) * 127**2 < 2**31 <= (longest("int8", (8, 8)) + 1) * 127**2


@pytest.mark.parametrize("bits", WIDTHS)
def test_numbers_come_back_within_half_a_step(bits: int) -> None:
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 64)[:, None]
    x[3], x[4, 5], x[5, 0] = 0, 2.0**7, -(2.0**9)
    for by_row in (True, False):
        q, scale = mapped(x, bits, by_row)
        error, clamped = (q * scale - x).abs(), q.abs() == largest(bits)
        assert (error <= scale / 2 * (1 + clamped * 2)).all()
        again, same = mapped(q * scale, bits, by_row)
        assert torch.equal(again, q) and torch.equal(same, scale)
        top = q.abs().amax(-1) if by_row else q.abs().amax()[None]
        assert ((top >= 2 ** (bits - 2)) | (top == 0)).all() and q.min() >= -largest(bits)
    noise = torch.rand(64, 1, generator=torch.Generator().manual_seed(1))
    q, scale = mapped(x, bits, noise=(noise, torch.rand(96, generator=torch.Generator().manual_seed(2))))
    assert ((q * scale - x).abs() < scale * (1 + (q.abs() == largest(bits)))).all()


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_what_rounding_lifts_over_the_largest_is_clamped_alike_on_both_sides(
    bits: int, dtype: torch.dtype | None
) -> None:
    most = largest(bits)
    for by_row in (True, False):
        q, _ = mapped(torch.tensor([[-2.0, 2.0, 0.0]]) * (1 - 2**-20), bits, by_row, dtype=dtype)
        assert q.tolist() == [[-most, most, 0]]


@pytest.mark.parametrize("x", [[0.0, 0.0], [1e-42, -3e-41], [3.0e38, -1.0], [2.0**-149, 0.0], [-1.0, 0.5]])
def test_the_ends_of_the_range(x: list[float]) -> None:
    q, scale = mapped(torch.tensor([x]), 8)
    assert torch.isfinite(q * scale).all() and ((q * scale - torch.tensor([x])).abs() <= scale / 2).all()
    for bad in (float("inf"), float("nan")):
        with pytest.raises(FloatingPointError, match="not finite"):
            mapped(torch.tensor([[*x, bad]]), 8)


def test_stochastic_rounding_has_the_right_mean_and_no_two_draws_are_alike() -> None:
    x = torch.rand(8, 6, 32, generator=torch.Generator().manual_seed(0)) * 1.98 - 0.99  # none is clamped
    noise, maps, draws = Noise(0), [], []
    for step in range(2000):
        noise.at(step, torch.arange(8))
        tokens, columns = noise.of("layer", x.shape, x.device)
        q, scale = mapped(x, 8, noise=(tokens, columns))
        maps.append(q * scale)
        draws.append(torch.frac(tokens + columns).flatten())
    assert ((torch.stack(maps).double().mean(0) - x).abs() / scale).max() <= 5 * 0.5 / 2000**0.5
    table = torch.stack(draws)  # (steps, elements): uniform, and no two elements correlated
    assert (table.mean(0) - 0.5).abs().max() < 5 * 12**-0.5 / 2000**0.5 and table.min() >= 0 and table.max() < 1
    correlated = torch.corrcoef(table.T).fill_diagonal_(0).abs().max()
    assert correlated < 6 / 2000**0.5


def drawn(noise: Noise, layer: str, *shape: int) -> torch.Tensor:
    """The noise of each number."""
    tokens, columns = noise.of(layer, torch.Size(shape), torch.device("cpu"))
    return torch.frac(tokens + columns)


def test_noise_is_of_a_rows_number_and_not_of_its_batch() -> None:
    noise = Noise(3)
    noise.at(7, torch.tensor([5, 2, 9]))
    whole = drawn(noise, "a", 3, 4, 6)
    noise.at(7, torch.tensor([9]))
    alone = drawn(noise, "a", 1, 2, 6)
    assert torch.equal(alone[0], whole[2, :2])
    others = [drawn(noise, "b", 1, 2, 6)]
    noise.at(8, torch.tensor([9]))
    others.append(drawn(noise, "a", 1, 2, 6))
    noise = Noise(4)
    noise.at(7, torch.tensor([9]))
    others.append(drawn(noise, "a", 1, 2, 6))
    assert not any(torch.equal(alone, other) for other in others)


def asked(bits: int, scale: str = "row", gradient: str = "nearest") -> settings.Arithmetic:
    """Integers of one width."""
    of = dict.fromkeys(settings.ROLES, bits)
    rounding = {"weight": "nearest", "activation": "nearest", "gradient": gradient}
    return settings.Arithmetic(f"int{bits}", of, rounding, settings.Scale(scale))


def linear(bits: int, frozen: bool = False, scale: str = "row", kind: type = nn.Linear) -> Any:
    """A layer of 384 by 384 in integers, in training mode."""
    torch.manual_seed(0)
    layer = nn.Linear(384, 384) if kind is nn.Linear else Conv1D(384, 384)
    layer.weight.data.normal_(0, 0.05)
    layer.weight.requires_grad_(not frozen)
    holder = nn.Sequential(layer)
    integer.put(holder, asked(bits, scale), 0)
    return holder


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_errors_of_a_linear_layer_are_those_of_its_width(bits: int, kind: type) -> None:
    x = torch.randn(256, 384, generator=torch.Generator().manual_seed(1), requires_grad=True)
    g = torch.randn(256, 384, generator=torch.Generator().manual_seed(2)) * 1e-3
    holder = linear(bits, kind=kind)
    y = holder(x)
    y.backward(g)
    weight = holder[0].weight
    w, wx, wg = weight.detach().double(), x.detach().double(), g.double()
    w = w.t() if kind is nn.Linear else w
    dw = wx.t() @ wg
    exact = {
        "y": wx @ w + holder[0].bias.double(),
        "dx": wg @ w.t(),
        "dw": dw.t() if kind is nn.Linear else dw,
    }
    q, scale = mapped(x.detach(), bits)
    errors = [float((q * scale - wx).norm() / wx.norm())]
    errors += [float((a - b).norm() / b.norm()) for a, b in zip((y, x.grad, weight.grad), exact.values(), strict=True)]
    for error, known in zip(errors, ERRORS, strict=True):
        assert 0.7 < error / (known / 4 ** ((bits - 8) / 2)) < 1.25


@pytest.mark.parametrize("frozen", [True, False])
def test_the_backward_uses_the_integers_of_the_forward(frozen: bool) -> None:
    x = torch.randn(4, 7, 384, generator=torch.Generator().manual_seed(1), requires_grad=True)
    g = torch.randn(4, 7, 384, generator=torch.Generator().manual_seed(2))
    holder = linear(8, frozen)
    holder(x).backward(g)
    (qw, sw), (qx, sx) = mapped(holder[0].weight.detach(), 8), mapped(x.detach(), 8)
    qg, sg = mapped(g, 8, by_row=frozen)
    assert torch.equal(x.grad, (qg.double() @ qw.double()).float() * sg * sw)
    flat = qg.flatten(0, 1).double()
    if frozen:
        assert holder[0].weight.grad is None
        assert torch.equal(holder[0].bias.grad, (qg * sg).flatten(0, 1).sum(0))
    else:
        assert torch.equal(holder[0].weight.grad, (flat.T @ qx.flatten(0, 1).double()).float() * sg * sx)
        assert torch.equal(holder[0].bias.grad, flat.sum(0).float() * sg)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_layer_norm_has_the_error_of_its_width_and_no_scale(bits: int) -> None:
    torch.manual_seed(0)
    holder = nn.Sequential(nn.LayerNorm(384))
    holder[0].weight.data.normal_(1, 0.2)
    plain = nn.LayerNorm(384).double()
    plain.load_state_dict(holder[0].state_dict())
    integer.put(holder, asked(bits, "tensor"), 0)
    x = torch.randn(256, 384, requires_grad=True)
    other = x.detach().double().requires_grad_()
    g = torch.randn(256, 384)
    y, exact = holder(x), plain(other)
    y.backward(g)
    exact.backward(g.double())
    known = {8: 0.0179, 10: 0.0045, 12: 0.0011, 16: 7.0e-5}[bits]
    assert 0.7 < float((y - exact).norm() / exact.norm()) / known < 1.25
    for ours, theirs in ((x.grad, other.grad), (holder[0].weight.grad, plain.weight.grad)):
        assert float((ours - theirs).norm() / theirs.norm()) < 2.5 * known
    small = x.detach() * 2**-9  # eps weighs as much as the numbers
    small_exact = plain(small.double())
    assert float((holder(small) - small_exact).norm() / small_exact.norm()) < 1.25 * known
    holder[0].eps = 0.0
    assert torch.equal(holder(x.detach() * 2**5), holder(x.detach()))


def test_an_embedding_adds_the_gradients_of_a_repeated_word_exactly_in_any_order() -> None:
    torch.manual_seed(0)
    holder = nn.Sequential(nn.Embedding(11, 16, padding_idx=0))
    integer.put(holder, asked(8), 0)
    ids, g = torch.randint(0, 11, (6, 50)), torch.randn(6, 50, 16)
    holder(ids).backward(g)
    q, scale = mapped(g, 8)
    expected = torch.zeros(11, 16, dtype=torch.int64).index_add_(0, ids.flatten(), q.flatten(0, 1).long())
    expected[0] = 0
    assert torch.equal(holder[0].weight.grad, expected.float() * scale)
    before = holder[0].weight.grad.clone()
    holder[0].weight.grad = None
    order = torch.randperm(50)
    holder(ids[:, order]).backward(g[:, order])
    assert torch.equal(holder[0].weight.grad, before)


def test_an_outlier_hurts_the_other_rows_with_one_scale_and_not_with_one_a_row() -> None:
    x = torch.randn(256, 384, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 100
    exact, errors = x[1:], {}
    for by_row in (False, True):
        q, scale = mapped(x, 8, by_row)
        errors[by_row] = float(((q * scale)[1:] - exact).norm() / exact.norm())
    assert 0.25 < errors[False] < 0.33 and errors[True] < 0.02
    out = {}
    for scale in ("row", "tensor"):
        holder = linear(8, frozen=True, scale=scale)
        plain = nn.functional.linear(x, holder[0].weight, holder[0].bias)[1:]
        out[scale] = float((holder(x)[1:] - plain).norm() / plain.norm())
    assert 0.25 < out["tensor"] < 0.33 and out["row"] < 0.03


def test_a_frozen_weight_is_mapped_once_and_again_when_it_changes() -> None:
    holder = linear(8, frozen=True)
    layer = holder[0]
    holder(torch.ones(1, 384))
    kept = layer.integers()[0]
    holder(torch.ones(1, 384))
    assert layer.integers()[0] is kept
    holder.eval()
    before = holder(torch.ones(1, 384))
    layer.weight.data.mul_(3)  # as PEFT merges: the tensor's version stays
    assert not torch.equal(holder(torch.ones(1, 384)), before)


@pytest.mark.parametrize("frozen", [True, False])
def test_in_evaluation_no_row_shares_a_scale_though_training_was_asked_to(frozen: bool) -> None:
    holder = linear(8, frozen, scale="tensor")
    x = torch.randn(8, 384, generator=torch.Generator().manual_seed(3)) * torch.logspace(-2, 2, 8)[:, None]
    with torch.no_grad():
        in_training = holder.train()(x)
        apart = torch.cat([holder.eval()(row[None]) for row in x])
        assert torch.equal(holder(x), apart) and not torch.equal(in_training, apart)


def test_a_trained_weight_has_its_gradient_in_evaluation_mode_too() -> None:
    holder = linear(16).eval()
    x, g = torch.randn(384, 384), torch.randn(384, 384)
    holder(x).backward(g)
    exact = g.double().T @ x.double()
    assert float((holder[0].weight.grad - exact).norm() / exact.norm()) < 2e-4


def test_layers_that_read_the_same_share_its_integers_until_it_changes() -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    nearest = integer.Arithmetic(asked(8), 0)
    first = nearest.activation(x, "query", True, False, torch.int8)
    assert nearest.activation(x, "key", True, False, torch.int8)[0] is first[0]
    assert nearest.activation(x, "key", True, True, torch.int8)[1].dim() == 0
    other = x * 4
    assert torch.equal(nearest.activation(other, "key", True, False, torch.int8)[1], first[1] * 4)
    x.mul_(8)
    assert torch.equal(nearest.activation(x, "value", True, False, torch.int8)[1], first[1] * 8)
    drawing = asked(8)
    drawing.rounding["activation"] = "stochastic"
    drawn = integer.Arithmetic(drawing, 0)
    one, two = (drawn.activation(x, name, True, False, torch.int8)[0] for name in ("query", "key"))
    assert not torch.equal(one, two)


def test_the_noise_of_a_weight_is_not_of_the_batch_that_has_as_many_rows() -> None:
    drawing = asked(8)
    drawing.rounding["weight"] = "stochastic"
    arithmetic, weight = integer.Arithmetic(drawing, 0), torch.randn(4, 64)
    found = []
    for rows in ([0, 1, 2, 3], [7, 5, 9, 6]):
        arithmetic.noise.at(3, torch.tensor(rows))
        found.append(arithmetic.map(weight, "weight", "a", True)[0])
    assert torch.equal(*found)
    assert not torch.equal(found[0], arithmetic.map(weight, "weight", "b", True)[0])


SHARED = """
import json, torch
from rankbench.models.integer import Arithmetic
from rankbench.settings import arithmetic as settings
from rankbench.system import processes
processes.gathered(None)
x = torch.arange(-37.0, 11).view(8, 6) ** 3
q, scale = Arithmetic(settings.Arithmetic("int8"), 0).map(x[processes.place() :: 2], "activation", "a", True)
print(json.dumps([q.tolist(), scale.item()]))
"""


@pytest.mark.slow
def test_processes_share_the_scale_of_a_tensor() -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {"PYTHONPATH": os.pathsep.join(sys.path), "LOCAL_WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED], stdout=subprocess.PIPE, env=shared | {"RANK": n, "LOCAL_RANK": n}, text=True
        )
        for n in "01"
    ]
    said = [json.loads(worker.communicate(timeout=120)[0].splitlines()[-1]) for worker in workers]
    x = torch.arange(-37.0, 11).view(8, 6) ** 3
    q, scale = mapped(x, 8)
    assert not torch.equal(mapped(x[1::2], 8)[1], scale), "alone, one of the two would have another scale"
    assert [one[0] for one in said] == [q[0::2].tolist(), q[1::2].tolist()]
    assert [one[1] for one in said] == [scale.item()] * 2
