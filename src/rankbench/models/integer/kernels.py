"""The maps and scalings of the integer layers in one pass each, where the machine has a C compiler.

`kernels.c` is built when a process first asks, in a fraction of a second, into a folder that does not stay. Every
function gives the bits of the torch operations that it stands for, which do the work where there is none.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("kernels.c")
# No contraction to fused multiply-adds, which round once where torch rounds twice.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
SECONDS = 60  # that a build may take
WIDEST = 2**14  # numbers of a row that a layer norm's 32-bit sums are safe for
BYTES = {torch.int8: 1, torch.int16: 2, torch.float32: 4}
Draws = tuple[torch.Tensor, torch.Tensor]  # noise frac(rows + columns), as `Noise.of` gives it

_P, _N, _I, _F, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float, ctypes.c_double
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "mapped": (_P, _P, _P, _N, _N, _I, _I, _I, _P, _P, _P),
    "scaled_32": (_P, _P, _N, _N, _P, _I, _F, _P),
    "scaled_64": (_P, _P, _N, _N, _P, _I, _F, _P),
    "digits": (_P, _P, _P, _N),
    "joined": (_P, _P, _P, _P, _N),
    "normalized": (_P, _P, _P, _P, _P, _P, _N, _N, _I, _I, _D, _P, _P),
    "inner": (_P, _I, _P, _P, _I, _P, _P, _P, _N, _N, _P),
    "descended": (_P, _P, _I, _P, _P, _P, _P, _P, _N, _N),
    "uniform": (_P, _P, _N, ctypes.c_uint64),
}


@functools.cache
def library() -> Any:
    """The built functions; None where this is not Linux or nothing here can build them."""
    if not sys.platform.startswith("linux"):
        return None
    # The OpenMP of torch, whose threads would otherwise wait beside those of another.
    threads = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    parallel = ["-fopenmp"] if threads else []
    try:
        compiler = shlex.split(os.environ.get("CC") or "cc")
        with tempfile.TemporaryDirectory(prefix="rankbench-", ignore_cleanup_errors=True) as folder:
            parts, built = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
            for words in (
                [*FLAGS, *parallel, "-c", SOURCE, "-o", parts],
                ["-shared", parts, *threads[:1], "-lm", "-o", built],
            ):
                subprocess.run([*compiler, *map(str, words)], check=True, capture_output=True, timeout=SECONDS)
            found = ctypes.CDLL(str(built))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    for name, arguments in _FUNCTIONS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, _I if name in ("mapped", "normalized") else None
    return found


def here(*tensors: torch.Tensor | None) -> Any:
    """The built functions where they take these tensors: real ones on a CPU, in one piece, float32 if in floats."""
    for x in tensors:
        if x is not None and not (
            type(x) in (torch.Tensor, torch.nn.Parameter)
            and x.device.type == "cpu"
            and x.layout is torch.strided
            and x.is_contiguous()
            and x.dtype in (torch.float32, torch.int64, torch.int32, torch.int16, torch.int8)
        ):
            return None
    return library()


def mapped(
    x: torch.Tensor, bits: int, by_row: bool, noise: Draws | None, top: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, bool] | None:
    """Integers and scales of `x` (..., k) as `fixed_point.mapped` gives them, and whether `x` is finite."""
    fits = x.dtype is torch.float32 and x.device.type == "cpu" and x.dim() and x.numel()
    if not fits or (by_row and top is not None):
        return None
    x, width = x.contiguous(), x.shape[-1]
    built = here(x, top, *(noise or ()))
    if built is None:
        return None
    q, scale = torch.empty(x.shape, dtype=dtype), torch.empty((*x.shape[:-1], 1) if by_row else ())
    given = (None if one is None else one.data_ptr() for one in (top, *(noise or (None, None))))
    at = x.data_ptr(), q.data_ptr(), scale.data_ptr()
    return q, scale, not built.mapped(*at, x.numel() // width, width, bits, BYTES[dtype], by_row, *given)


def scaled(y: torch.Tensor, rows: torch.Tensor, other: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
    """`y rows other + bias` in float32, of a product `y` (m, n) and scales `rows` () or (m, 1), `other` ()."""
    built = here(y, rows, other, bias) if y.dtype in (torch.int32, torch.int64) else None
    if built is None or (bias is not None and bias.dtype is not torch.float32):
        return None
    z = torch.empty(y.shape)
    given = None if bias is None else bias.data_ptr()
    act = built.scaled_32 if y.dtype is torch.int32 else built.scaled_64
    act(y.data_ptr(), z.data_ptr(), *y.shape, rows.data_ptr(), rows.dim() > 0, float(other), given)
    return z


def digits(x: torch.Tensor) -> list[torch.Tensor] | None:
    """Bytes `low` and `high` of integers x = low + 256 high in int16, laid out as `x`."""
    turned = not x.is_contiguous()
    flat = x.t() if turned and x.dim() == 2 else x
    built = here(flat) if x.dtype is torch.int16 else None
    if built is None:
        return None
    made = [torch.empty(flat.shape, dtype=torch.int8) for _ in range(2)]
    built.digits(flat.data_ptr(), *(one.data_ptr() for one in made), flat.numel())
    return [one.t() for one in made] if turned else made


def joined(levels: list[torch.Tensor]) -> torch.Tensor | None:
    """Their sum in int64, each times 256 to the power of its place: two or three in int32."""
    built = here(*levels) if len(levels) in (2, 3) else None
    if built is None:
        return None
    x = torch.empty(levels[0].shape, dtype=torch.int64)
    places = [one.data_ptr() for one in levels] + [None] * (3 - len(levels))
    built.joined(*places, x.data_ptr(), x.numel())
    return x


Normalized = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, bool]


def normalized(
    x: torch.Tensor, bits: int, dtype: torch.dtype, eps: float, gain: torch.Tensor | None, bias: torch.Tensor | None
) -> Normalized | None:
    """The layer norm of the integers of each row of `x` (..., n), to the nearest.

    Also those integers, in int8 or int16, and of each row (..., 1) in float64 their sum, 1 / root and n / (root scale);
    then whether `x` is finite.
    """
    fits = x.dtype is torch.float32 and 0 < x.shape[-1] <= WIDEST and x.numel()
    built = here(x, gain, bias) if fits else None
    if built is None or any(p is not None and p.dtype is not torch.float32 for p in (gain, bias)):
        return None
    q, y, n = torch.empty(x.shape, dtype=dtype), torch.empty(x.shape), x.shape[-1]
    rows = [torch.empty((*x.shape[:-1], 1), dtype=torch.float64) for _ in range(3)]
    at = [tensor.data_ptr() for tensor in (x, q, y, *rows)]
    given = (None if p is None else p.data_ptr() for p in (gain, bias))
    bad = built.normalized(*at, x.numel() // n, n, bits, BYTES[dtype], eps, *given)
    return q, y, rows[0], rows[1], rows[2], not bad


def inner(
    g: torch.Tensor,
    scale: torch.Tensor,
    q: torch.Tensor,
    total: torch.Tensor,
    inverse: torch.Tensor,
    gain: torch.Tensor | None,
) -> torch.Tensor | None:
    """g scale xhat of the gradient's integers `g`, which are scaled in place; both times the gain where it is given."""
    built = _for_norm(g, scale, q, total) if gain is None or gain.dtype is torch.float32 else None
    if built is None or here(gain) is None:
        return None
    product, n = torch.empty(g.shape), g.shape[-1]
    given = None if gain is None else gain.data_ptr()
    rows = product.data_ptr(), total.data_ptr(), inverse.data_ptr()
    width = BYTES[q.dtype]
    built.inner(scale.data_ptr(), scale.dim() > 0, g.data_ptr(), q.data_ptr(), width, *rows, g.numel() // n, n, given)
    return product


def descended(
    g: torch.Tensor, q: torch.Tensor, rows: tuple[torch.Tensor, ...], mean: torch.Tensor, slope: torch.Tensor
) -> torch.Tensor | None:
    """(g - mean - xhat slope) n / (root scale), in place; `rows` are `normalized`'s three."""
    built = _for_norm(g, mean, q, rows[0])
    if built is None:
        return None
    n = g.shape[-1]
    at = (tensor.data_ptr() for tensor in (*rows, mean, slope))
    built.descended(g.data_ptr(), q.data_ptr(), BYTES[q.dtype], *at, g.numel() // n, n)
    return g


def _for_norm(g: torch.Tensor, scale: torch.Tensor, q: torch.Tensor, total: torch.Tensor) -> Any:
    """The functions, for what `normalized` kept."""
    fits = total.dtype is torch.float64 and q.dtype in (torch.int8, torch.int16) and g.shape[-1] <= WIDEST
    return here(g, scale, q) if fits and g.dtype is scale.dtype is torch.float32 else None


def uniform(counters: torch.Tensor | int, key: int) -> torch.Tensor | None:
    """A uniform number of each counter of int64 (n,), or of 0 to n - 1, as `noise` makes it."""
    built = library() if isinstance(counters, int) else here(counters)
    if built is None:
        return None
    given, n = (None, counters) if isinstance(counters, int) else (counters.data_ptr(), len(counters))
    u = torch.empty(n)
    built.uniform(given, u.data_ptr(), n, key)
    return u
