"""Methods, samplers and metrics of other packages, found by their entry points.

Their settings are imported at every start, so they must not import torch; what implements them is not.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rankbench.settings import names

NAMED = ("rankbench.methods", "rankbench.samplers")  # whose names a run's folder has, or its tables' columns
GROUPS = (*NAMED, "rankbench.metrics")


@functools.cache
def _points() -> Any:
    """Those of all packages, of any group: each look reads a file of every package."""
    return metadata.entry_points()


def installed(group: str, kind: type, taken: Collection[str]) -> dict[str, Any]:
    """The settings that other packages offer under a group, by name; `kind` is what they must be, or a class of it.

    One that cannot be loaded, or whose name is `taken` or none, is left out, with a warning that names its package.
    """
    found = {}
    for point in _points().select(group=group):
        try:
            if point.name in taken:
                raise ValueError("rankbench has one of that name")
            if group in NAMED and not names.good(point.name):
                raise ValueError(names.RULE)
            offered = point.load()
            if not (isinstance(offered, kind) or (isinstance(offered, type) and issubclass(offered, kind))):
                raise TypeError(f"it is no {kind.__name__}")
        except Exception as error:  # somebody else's code
            package = point.dist.name if point.dist else point.value
            warnings.warn(f"{group}: {point.name} of {package} is left out: {error}", stacklevel=2)
            continue
        found[point.name] = offered
    return found


def load(place: str) -> Any:
    """What `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


@functools.cache
def conf_folders() -> list[str]:
    """Where these packages keep their YAML: the folder `conf` in the top package that an entry point names."""
    folders = []
    for group in GROUPS:
        for point in _points().select(group=group):
            spec = find_spec(point.module.split(".")[0])
            for place in (spec.submodule_search_locations or []) if spec else []:
                if (folder := Path(place) / "conf").is_dir():
                    folders.append(f"file://{folder}")
    return list(dict.fromkeys(folders))
