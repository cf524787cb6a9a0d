"""Where a tensor lies, by what its storage says: on the CPU or on a card that is not there. Ops that mix the two raise.

A storage is tagged when Python makes a tensor on the card or moves it there. Views share it, results of an op on the
card are on the card, and `device` says so. A tensor that C++ makes out of nothing lies anywhere: it takes the place of
what it first meets. All numbers are computed by the CPU. tests/card.py makes a whole machine of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode

HERE, THERE, ANY = "cpu", "cuda", "any"
CARD = torch.device("cuda", 0)

# Ops besides the pointwise ones that read a CPU tensor beside the card's where it has no dimension.
TAKE_SCALARS = ("fill_", "fill", "masked_fill", "masked_fill_", "where", "lerp", "lerp_", "index_put", "index_put_")
ACROSS = ("copy_", "_copy_from", "set_", "set_data")  # from one place to another
BY_PLACE = ("_foreach_", "_fused_")  # lists of which only what stands at the same place meets


def place(tensor: torch.Tensor) -> str | None:
    """Where a tensor lies; None for one without memory, as those on the meta device."""
    if tensor.is_meta or tensor.layout is not torch.strided or isinstance(tensor, FakeTensor):
        return None
    return getattr(tensor.untyped_storage(), "place", HERE)


def put(tensor: torch.Tensor, where: str) -> torch.Tensor:
    """Say where a tensor's storage lies."""
    if place(tensor) is not None:
        tensor.untyped_storage().place = where
    return tensor


def _tensors(*trees: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for tree in trees:
        if isinstance(tree, torch.Tensor):
            found.append(tree)
        elif isinstance(tree, list | tuple):
            found += _tensors(*tree)
        elif isinstance(tree, dict):
            found += _tensors(*tree.values())
    return found


class Ops(TorchDispatchMode):
    """Every op's operands lie in one place, and so do its results."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Raises RuntimeError as CUDA does where places are mixed."""
        with torch._C.DisableTorchFunction():
            return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    given = _tensors(args, kwargs)
    if given and all(place(one) is None for one in given):
        return func(*args, **kwargs)
    if name.startswith(BY_PLACE):
        where = [_meet(func, name, row) for row in _rows(args, kwargs)]
    else:
        where = [_meet(func, name, _minding(name, args, given))]
    known = {tensor.untyped_storage()._cdata for tensor in given if place(tensor)}
    found = func(*args, **kwargs)
    for one in given:  # what C++ made out of nothing has met its place
        if place(one) == ANY and len(set(where)) == 1:
            put(one, where[0])
    made = _tensors(found)
    for index, one in enumerate(made):
        if place(one) and one.untyped_storage()._cdata not in known:
            put(one, where[index] if len(where) == len(made) else where[0])
    return found


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[list[torch.Tensor]]:
    """The tensors at each place of the lists, each with those that stand alone."""
    words = [*args, *kwargs.values()]
    lists = [word for word in words if isinstance(word, list | tuple) and _tensors(word)]
    alone = [word for word in words if isinstance(word, torch.Tensor)]
    return [[*row, *alone] for row in zip(*lists, strict=False)] or [alone]


def _minding(name: str, args: tuple[Any, ...], given: list[torch.Tensor]) -> list[torch.Tensor]:
    """The operands that must lie in one place."""
    if name in ACROSS:
        return given[:1]
    if name in ("index", "index_put", "index_put_", "_unsafe_index") and place(args[0]) == THERE:
        return _tensors(args[0], args[2:])  # indices may lie on the CPU
    return given


def _meet(func: Any, name: str, operands: Sequence[torch.Tensor]) -> str:
    """The place of an op's result."""
    if func.namespace == "bitsandbytes":
        operands = [one for one in operands if not getattr(one, "is_paged", False)]
    scalars = name in TAKE_SCALARS or name.startswith(BY_PLACE) or torch.Tag.pointwise in func.tags
    written = operands[0] if operands and name.endswith("_") else None  # it stays where it is, so it must be there
    places = {(place(one), scalars and one.dim() == 0 and one is not written) for one in operands}
    places -= {(None, True), (None, False)}
    found = {where for where, _ in places} - {ANY}
    if found == {HERE, THERE}:
        if (HERE, False) not in places:
            return THERE
        shapes = ", ".join(f"{tuple(one.shape)} on {place(one)}" for one in operands)
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! {func} of "
            f"{shapes}"
        )
    return found.pop() if found else ANY


class Calls(TorchFunctionMode):
    """What Python asks of torch, with the card's name in it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The answer of a machine with a card."""
        kwargs = kwargs or {}
        answer = ANSWERS.get(func)
        if answer is not None:
            return answer(func, *args, **kwargs)
        if kwargs.get("device") is not None:
            return _made(func, _where(kwargs["device"]), args, kwargs)
        if func in _device_constructors() and not _tensors(args, kwargs):
            return _made(func, HERE, args, kwargs)
        return func(*args, **kwargs)


def _where(device: Any) -> str | None:
    """The place that a device names; None for any that is neither the CPU nor the card."""
    kind = THERE if isinstance(device, int) else torch.device(device).type
    return kind if kind in (HERE, THERE) else None


def _made(func: Any, where: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A new tensor, or one made of another, where it was asked for."""
    if where is None:
        return func(*args, **kwargs)
    found = func(*args, **(kwargs | ({"device": HERE} if "device" in kwargs else {})))
    if func in (torch.as_tensor, torch.asarray):
        return _moved(found, where)
    for one in _tensors(found):
        put(one, where)
    return found


def _moved(tensor: torch.Tensor, where: str | None, dtype: Any = None, copy: bool = False, **options: Any) -> Any:
    """A tensor where it was asked for: itself if it is there, else a copy."""
    dtype = dtype or tensor.dtype
    if place(tensor) in (where, None):
        return torch.Tensor.to(tensor, tensor.device, dtype, copy=copy, **options)
    return put(torch.Tensor.to(tensor, HERE, dtype, copy=True, **options), where or HERE)


def _to(func: Any, tensor: torch.Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Any:
    if args and isinstance(args[0], torch.Tensor):
        args, kwargs = args[1:], kwargs | {"other": args[0]}
    if (other := kwargs.pop("other", None)) is not None:
        where, dtype, layout = place(other), other.dtype, None
    else:
        if args and isinstance(args[0], int) and not isinstance(args[0], bool):
            args = (CARD, *args[1:])
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        where = place(tensor) if device is None else _where(device)
        if where is None:
            return func(tensor, *args, copy=copy, **kwargs)
    options = {} if layout is None else {"memory_format": layout}
    return _moved(tensor, where, dtype, copy, **options)


def _cuda(func: Any, tensor: torch.Tensor, *_: Any, **__: Any) -> Any:
    return _moved(tensor, THERE)


def _cpu(func: Any, tensor: torch.Tensor, *_: Any, **__: Any) -> Any:
    return _moved(tensor, HERE)


def _numpy(func: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if place(tensor) == THERE:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first"
        )
    return func(tensor, *args, **kwargs)


def _instead(value: Any) -> Callable[..., Any]:
    """A property of a tensor on the card, which is another's own elsewhere."""
    return lambda func, tensor, *rest: value if place(tensor) == THERE else func(tensor, *rest)


ANSWERS: dict[Any, Callable[..., Any]] = {
    torch.Tensor.device.__get__: _instead(CARD),
    torch.Tensor.is_cuda.__get__: _instead(True),
    torch.Tensor.is_cpu.__get__: _instead(False),
    torch.Tensor.get_device: _instead(0),
    torch.Tensor.to: _to,
    torch.Tensor.cuda: _cuda,
    torch.Tensor.cpu: _cpu,
    torch.Tensor.numpy: _numpy,
    torch.Tensor.__array__: _numpy,
}
