"""The last value of an expensive computation, for the run that comes next in the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Last(Generic[Value]):
    """Remembers one value by what it was computed from. Nobody may change it."""

    def __init__(self) -> None:
        self._kept: dict[str, Value] = {}

    def of(self, key: str, compute: Callable[[], Value]) -> Value:
        """The value for `key`: the remembered one, or that of `compute()`, which then is."""
        if key not in self._kept:
            self._kept.clear()  # first: two may not fit into the memory
            self._kept[key] = compute()
        return self._kept[key]
