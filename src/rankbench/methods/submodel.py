"""A member of a nested family: what everything from the loop to the record speaks of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Submodel:
    """A member of a nested family: a rank b (1-based), a depth, or neither (the whole model)."""

    rank: int | None = None
    depth: int | None = None

    def __str__(self) -> str:
        parts = [f"{name} {value}" for name, value in (("rank", self.rank), ("depth", self.depth)) if value is not None]
        return " ".join(parts) or "whole"
