"""One rule for the names that folders, tables, pictures and W&B call a run by."""

from __future__ import annotations

import re

from rankbench.settings.base import require

LONGEST = 96  # bytes of a task's, a model's and a method's name together: W&B takes 128 with a run's hash and seed
RULE = "a name is of letters, digits, _ . and -, and begins with a letter, a digit or _"
_GOOD = re.compile(r"\w[\w.-]*")


def good(name: str) -> bool:
    """Whether it follows RULE."""
    return _GOOD.fullmatch(name) is not None


def made_good(name: str, instead: str) -> str:
    """The name with `_` for what a name may not hold, and cut where it is very long; `instead` for an empty one."""
    kept = re.sub(r"[^\w.-]+", "_", name).lstrip(".-")
    return kept.encode()[: LONGEST * 2 // 3].decode(errors="ignore") or instead


def check(key: str, name: str, mend: str = "") -> None:
    """Refuse a setting `key` that is no name; `mend` says where to write the better one. Raises RequestError."""
    where = mend or f"give {key}="
    require(good(name), f"{key}={name!r}: {RULE}; {where}{made_good(name, key.split('.')[0])}")
