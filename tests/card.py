"""A machine with a card that is not there: what runs inside of `card()` runs as on a GPU, computed by the CPU.

Tensors lie where tests/places.py says; an op that mixes places raises, as numpy does, and as kernels do where dtypes
are mixed. What the libraries ask of `torch.cuda` is answered as by one card of compute capability 8.0. Autocast and
the gradient scaler are the CPU's under the card's name. Moments of a paged optimizer, small ones too, are tensors of
the CPU, as torch sees them on a real card.

It cannot see: how fast anything is and what memory it takes; the card's own kernels, what they refuse and how they
round; which ops its autocast keeps in float32 (the CPU's keeps fewer); that autograd brings the gradient of a number
back to the CPU; what another thread, stream or process does.
"""

from __future__ import annotations

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import bitsandbytes  # while there is no card: it would look for CUDA's libraries
import torch
import torch.utils.checkpoint
from bitsandbytes.optim.optimizer import Optimizer8bit
from places import HERE, THERE, Calls, Ops

CAPABILITY, MEMORY, NAME = (8, 0), 16 * 2**30, "a card that is not there"


def _of_torch_cuda() -> dict[str, Callable[..., Any]]:
    """What `torch.cuda` says where there is one card."""
    major, minor = CAPABILITY
    card = types.SimpleNamespace(name=NAME, major=major, minor=minor, total_memory=MEMORY, multi_processor_count=1)
    numbers = ("memory_reserved", "memory_allocated", "max_memory_allocated", "current_device")
    nothing = (
        *("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "manual_seed", "manual_seed_all"),
        *("set_per_process_memory_fraction", "set_rng_state", "set_rng_state_all", "_lazy_init", "init"),
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "get_arch_list": lambda: [f"sm_{major}{minor}"],
        "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: CAPABILITY,
        "get_device_properties": lambda *_: card,
        "get_rng_state": lambda *_: torch.empty(0, dtype=torch.uint8),
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "get_per_process_memory_fraction": lambda *_: 1.0,
        **{name: lambda *_, **__: 0 for name in numbers},
        **{name: lambda *_, **__: None for name in nothing},
    }


def _as_the_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """An autocast function under whose first argument the card is the CPU."""

    def asked(*args: Any) -> Any:
        return function(*(HERE if word == THERE else word for word in args or (HERE,)))

    return asked


def _paged(_: Any, parameter: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A moment in memory that the card reads and torch takes for the CPU's; bitsandbytes pages large ones only."""
    buffer = torch.zeros(parameter.shape, dtype=dtype)
    buffer.is_paged, buffer.page_deviceid = True, 0
    return buffer


def _backwards(engine: Callable[..., Any]) -> Callable[..., Any]:
    """Autograd's engine, in which hooks, checkpoints and custom functions call torch, and torch has left its modes."""

    def run(*args: Any, **kwargs: Any) -> Any:
        on = torch._C._is_torch_function_mode_enabled()
        with contextlib.nullcontext() if on else Calls():
            return engine(*args, **kwargs)

    return run


def _recomputed(tensor: torch.Tensor) -> dict[str, Any]:
    """What a recomputed tensor must have of the first; its device reads otherwise inside of an op."""
    return {"shape": tensor.shape, "dtype": tensor.dtype}


def _forget() -> None:
    """What the libraries remember of this machine's devices."""
    from accelerate.utils import imports
    from transformers.utils import generic, import_utils

    for module in (imports, generic, import_utils):
        for remembered in list(vars(module).values()):
            if hasattr(remembered, "cache_clear"):
                remembered.cache_clear()


@contextlib.contextmanager
def card() -> Iterator[None]:
    """While open, this machine has a card of compute capability 8.0."""
    from accelerate.state import AcceleratorState

    from rankbench.forecast import doctor

    made = torch.autocast.__init__

    def autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        if device_type == THERE and not args and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float16  # the card's own default
        made(self, HERE if device_type == THERE else device_type, *args, **kwargs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"))  # modes hold in one thread
        for name, answer in _of_torch_cuda().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        for name in ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype"):
            stack.enter_context(mock.patch.object(torch, name, _as_the_cpu(getattr(torch, name))))
        stack.enter_context(mock.patch.object(torch.autocast, "__init__", autocast))
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        stack.enter_context(mock.patch.dict(checks, default=_recomputed))
        engine = _backwards(torch.autograd._engine_run_backward)
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", engine))
        stack.enter_context(mock.patch.object(torch.version, "cuda", "12.6"))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda own, *_: own))  # no page moves
        stack.enter_context(mock.patch.object(Optimizer8bit, "get_state_buffer", _paged))
        stack.enter_context(mock.patch.object(bitsandbytes.functional, "prefetch_tensor", lambda *_, **__: None))
        stack.enter_context(mock.patch.object(doctor, "_bitsandbytes", lambda *_: []))  # its CPU build serves here
        for forget in (_forget, functools.partial(AcceleratorState._reset_state, True)):
            stack.callback(forget)
            forget()
        stack.enter_context(Ops())
        stack.enter_context(Calls())
        yield
