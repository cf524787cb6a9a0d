"""Exact products of integer matrices, in the fastest of four ways that are proved for their size.

Each gives the same integers bit for bit, so a result does not depend on the machine.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator

import torch

from rankbench.models.integer import kernels

INT32, FP32, FP64 = 2**31 - 1, 2**24, 2**53  # the largest sum that each way holds without rounding
WAYS = ("int8", "digits", "fp32", "fp64")
DIGIT = 8  # bits of a digit: an integer of up to 15 bits is two bytes with a sign each
FEW, MANY = 3, 64  # parts of float32 products that cost less than a float64 one, and chunks that are tried as parts


def largest(bits: int) -> int:
    """The largest magnitude of a number of so many bits: 127 of 8."""
    return 2 ** (bits - 1) - 1


def longest(way: str, bits: tuple[int, int]) -> int:
    """The most products of a sum that a way is proved for, where the factors have these bits; 0 where it is not."""
    if way in ("int8", "digits"):
        if max(bits) > (DIGIT if way == "int8" else 2 * DIGIT - 1):
            return 0
        return INT32 // (largest(bits[0]) * largest(bits[1]) if way == "int8" else 2 * 4 ** (DIGIT - 1))
    return {"fp32": FP32, "fp64": FP64}[way] // (largest(bits[0]) * largest(bits[1]))


def matmul_exact(a: torch.Tensor, b: torch.Tensor, bits: tuple[int, int], way: str | None = None) -> torch.Tensor:
    """`a` (m, k) times `b` (k, n), integers of so many bits in any dtype, without any rounding.

    Returns whole numbers (m, n) in the dtype of the way: int32, int64, float32 (then below 2^24) or float64. Raises
    ValueError where the way asked for is not proved.
    """
    inner = a.shape[1]
    way = way or _chosen(inner, bits, a.device.type)
    if inner > longest(way, bits):
        raise ValueError(f"{inner} products of {bits[0]} by {bits[1]} bits are not proved exact by {way}")
    if way == "int8":
        return _int8(a, b)
    if way == "digits":
        return _by_digits(_digits(a, bits[0]), _digits(b, bits[1]))
    if way == "fp64":
        return a.double() @ b.double()
    return _fp32(a, b)


def in_parts(a: torch.Tensor, b: torch.Tensor, bits: tuple[int, int], most: int | None = None) -> torch.Tensor | None:
    """As `matmul_exact` for sums that float32 is not proved for: parts of them that it is, added in float64.

    The proof is of the numbers at hand: no partial sum is larger than the largest number of `a`'s bits times the sum of
    a column's magnitudes in `b`. None where it takes more than `most` parts.
    """
    b = b.float()
    cuts = [*_cuts(b, largest(bits[0]), longest("fp32", bits), most), len(b)]
    if most is not None and len(cuts) > most + 1:
        return None
    parts = [_fp32(a[:, start:end], b[start:end]) for start, end in itertools.pairwise(cuts)]
    return parts[0] if len(parts) == 1 else functools.reduce(torch.add, (part.double() for part in parts))


def _cuts(b: torch.Tensor, factor: int, step: int, most: int | None = None) -> list[int]:
    """Where parts of the sums begin that stay below 2^24, each of `step` products or more; not all beyond `most`."""
    cuts = [0]
    reach = torch.zeros(b.shape[1], device=b.device)
    for place, rows in enumerate(b.split(step)):
        more = rows.abs().sum(0)
        reach = reach + more
        if place and float(reach.max()) * factor >= FP32:
            cuts.append(place * step)
            reach = more
            if most is not None and len(cuts) > most:
                break
    return cuts


def product(a: torch.Tensor, b: torch.Tensor, bits: tuple[int, int]) -> torch.Tensor:
    """`matmul_exact` in the way that is fastest here: whole numbers, as `matmul_exact` gives them."""
    inner, step = a.shape[1], longest("fp32", bits)
    # A GPU would wait for each part's largest sum, and the cards for this multiply float64 as fast as float32.
    if a.device.type == "cpu" and _chosen(inner, bits, "cpu") == "fp64" and inner <= MANY * step:
        sums = in_parts(a, b, bits, FEW)
        if sums is not None:
            return sums
    return matmul_exact(a, b, bits)


def column_sums(q: torch.Tensor, bits: int) -> torch.Tensor:
    """The exact sums (k,) of integers (m, k), as a product with ones, which is quicker than a sum of bytes."""
    return matmul_exact(q.new_ones(1, len(q)), q, (2, bits))[0]


def form(bits: int, device: str) -> torch.dtype:
    """The dtype that products here want integers in: int8, int16, or float32, which holds up to 24 bits."""
    if bits >= 2 * DIGIT or not has_int8(device):
        return torch.float32
    return torch.int8 if bits <= DIGIT else torch.int16


def _chosen(inner: int, bits: tuple[int, int], device: str) -> str:
    fast = WAYS if has_int8(device) else ("fp32", "fp64")
    return next((way for way in fast if inner <= longest(way, bits)), "fp64")


@functools.cache
def has_int8(device: str) -> bool:
    """Whether products of bytes are there, right, and faster than of floats: on most GPUs, and on a CPU with VNNI."""
    if device == "cpu":
        return bool(getattr(torch.cpu, "_is_vnni_supported", bool)())
    a, b = (torch.arange(rows * 64, device=device).view(rows, 64) % 255 - 127 for rows in (32, 24))
    try:
        return torch.equal(_int8(a, b.t()).double(), a.double() @ b.t().double())
    except RuntimeError:  # a card without them
        return False


def _int8(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.to(torch.int8), b.to(torch.int8)
    if a.device.type != "cuda":
        return torch._int_mm(_plain(a), _plain(b))
    # A GPU wants more than 16 rows, the other sides in eights, and its second matrix turned.
    (m, k), n = a.shape, b.shape[1]
    a = torch.nn.functional.pad(a, (0, -k % 8, 0, max(0, 17 - m))).contiguous()
    b = torch.nn.functional.pad(b.t(), (0, -k % 8, 0, -n % 8)).contiguous().t()
    return torch._int_mm(a, b)[:m, :n]


def _plain(x: torch.Tensor) -> torch.Tensor:
    """`x` in rows or in columns. torch._int_mm multiplies others wrongly on a CPU, and a side of 1 with other strides.

    torch calls the latter contiguous, so `contiguous()` would leave them as they are.
    """
    rows, columns = x.shape
    if x.stride() == (columns, 1) or (x.stride() == (1, rows) and 1 not in x.shape):
        return x
    return x.new_empty(x.shape).copy_(x)


def _digits(x: torch.Tensor, bits: int) -> list[torch.Tensor]:
    """`x` as sums of 256^i times bytes, the lowest first."""
    if bits <= DIGIT:
        return [x]
    made = kernels.digits(x)
    if made is not None:
        return made
    x = x.to(torch.int16)
    low = x.to(torch.int8)  # drops the upper byte, and reads what is left with a sign
    return [low, ((x - low) >> DIGIT).to(torch.int8)]


def _by_digits(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    """The product in int64, from that of each digit with each."""
    products = [[_int8(one, other) for other in b] for one in a]
    levels = [_int8_sum(products, level) for level in range(len(a) + len(b) - 1)]
    made = kernels.joined(levels)
    if made is None:
        made = functools.reduce(lambda high, low: (high << DIGIT) + low, (x.long() for x in reversed(levels)))
    return made


def _int8_sum(products: list[list[torch.Tensor]], level: int) -> torch.Tensor:
    """The products of digits of this power of 256, of which there are at most two."""
    found = [one[level - i] for i, one in enumerate(products) if 0 <= level - i < len(one)]
    return functools.reduce(torch.add, found)


def _fp32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    with _whole_floats(), torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float()


@contextlib.contextmanager
def _whole_floats() -> Iterator[None]:
    """Without TF32, whose ten bits would round."""
    matmul = torch.backends.cuda.matmul
    key, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, key)
    if before == exact or not torch.cuda.is_available():
        yield
        return
    setattr(matmul, key, exact)
    try:
        yield
    finally:
        setattr(matmul, key, before)
