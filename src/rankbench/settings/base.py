"""What the settings of every group share: refusing, and settings that came after the first records."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import field, fields
from enum import Enum
from typing import Any

from rankbench.errors import RequestError

MISSING: Any = "???"  # OmegaConf's own; a table of records needs none of the rest of it
_DEFAULT = object()


def require(condition: bool, message: str) -> None:
    """Raise RequestError with the message unless the condition holds."""
    if not condition:
        raise RequestError(message)


def finite(number: float) -> bool:
    """Whether a number is above 0 and finite."""
    return 0 < number < math.inf


def added(default: Any, *, neutral: Any = _DEFAULT) -> Any:
    """A setting that earlier records lack: at its `neutral` value a run is what it was before there was the setting.

    So a run whose setting is neutral keeps its folder, and a record without it is read as if it were neutral.
    The neutral value is the first default; whoever changes the default keeps it: `added(new, neutral=old)`.
    """
    told = {"neutral": default if neutral is _DEFAULT else neutral}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy(default), metadata=told)
    return field(default=default, metadata=told)


def neutrals(group: Any) -> dict[str, Any]:
    """The neutral value of each setting of a group (a dataclass, or one of it) that is `added`."""
    return {s.name: plain(s.metadata["neutral"]) for s in fields(group) if "neutral" in s.metadata}


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}  # a class may be called 1, or true
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value
