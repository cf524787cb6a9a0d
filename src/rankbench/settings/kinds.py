"""The dataclasses behind the groups of settings, and what each setting means where a record does not have it."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from rankbench.settings.base import neutrals
from rankbench.settings.methods import METHODS
from rankbench.settings.run import Run
from rankbench.settings.samplers import SAMPLERS

KINDS: dict[str, dict[str, Any]] = {"adapter": dict(METHODS), "sampler": dict(SAMPLERS)}
GROUPS = {name: type(group) for name, group in vars(Run()).items() if is_dataclass(group)}
NEUTRAL: dict[str, Any] = {
    f"{group}.{name}": neutral
    for group, kind in GROUPS.items()
    for one in KINDS.get(group, {group: kind}).values()
    for name, neutral in neutrals(one).items()
}
"""Every setting that came after the first records, whoever's it is, with the value that means what was before it."""
