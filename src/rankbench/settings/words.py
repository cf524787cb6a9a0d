"""What people type before Hydra reads it: one name for a list of one, a sweep without -m."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException

from rankbench.errors import RequestError
from rankbench.settings.kinds import GROUPS, KINDS
from rankbench.settings.run import Run

log = logging.getLogger("rankbench")

_TYPES = {one.name: str(one.type) for one in fields(Run)} | {
    f"{group}.{one.name}": str(one.type)
    for group, own in GROUPS.items()
    for kind in (own, *KINDS.get(group, {}).values())
    for one in fields(kind)
}
WHERE = re.compile(r"\+*(cluster[.=]|hydra\.launcher\.|log\.group=)")  # where a run is done, not what it is
_OF_TEXTS = {key for key, kind in _TYPES.items() if kind.startswith("list[str]")}
_TEXTS = {key for key, kind in _TYPES.items() if kind in ("str", "str | None")}
_PLAIN = re.compile(r"[\w./@-]+(?: [\w./@-]+)*")
_GRAMMAR = ("[", "{", "'", '"')  # what begins so is written for Hydra


def typed(words: Sequence[str], several: bool = False) -> list[str]:
    """The same words, where plain texts that Hydra would not read stand in quotes.

    A setting that is a list of texts may be one name: `task.text_columns=review`. A comma parts values where `several`
    runs are asked for.
    """
    return [_typed(word, several) for word in words]


def _typed(word: str, several: bool) -> str:
    key, equals, value = word.partition("=")
    setting = key.lstrip("+")
    if setting == "task.positive_label" and _read(word):
        return word  # a class that data hold as a number or a truth goes by how Python writes that
    if not equals or setting not in _TEXTS | _OF_TEXTS:
        return word
    if setting in _OF_TEXTS and value.startswith("[") and value.endswith("]") and not set("'\"[]") & set(value[1:-1]):
        return word if _read(word) else f"{key}=[{','.join(map(_quoted, value[1:-1].split(',')))}]"
    if value.startswith(_GRAMMAR):
        return word
    if setting in _OF_TEXTS:
        one = value != "null" and "," not in value and (_PLAIN.fullmatch(value) or not _read(word))
        return f"{key}=[{_quoted(value)}]" if one else word
    if several:
        whole = _read(word) and not any(_turned(part) for part in value.split(","))
        return word if whole else f"{key}={','.join(map(_quoted, value.split(',')))}"
    return f"{key}={_quoted(value)}"


def _turned(value: str) -> bool:
    """Whether Hydra takes a text for a number or a truth that is written otherwise: 1e3, 007, true."""
    found = _read(f"key={value}")
    return found is not None and isinstance(read := found.value(), bool | int | float) and str(read) != value


def _quoted(value: str) -> str:
    """The text, in quotes where Hydra would not take it for one; as it is where no quotes help."""
    if _read(f"key={value}") and not _turned(value):
        return value
    for mark in ("'", '"'):
        word = f"{mark}{value}{mark}"
        if (found := _read(f"key={word}")) and found.value() == value:
            return word
    return value


def _read(word: str) -> Any:
    """What Hydra reads in a word; None where it cannot, or takes commas of a text for several values."""
    try:
        found = OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    value = found.value()
    return None if isinstance(value, ChoiceSweep) and value.simple_form else found


def check(words: Sequence[str], several: bool = False) -> None:
    """Refuse a sweep where `several` runs are not asked for, and a hub without its revision; say which value counts.

    Raises RequestError.
    """
    for word in words:
        if word.lstrip("+").startswith("sweeps=") and not several:
            raise RequestError(f"{word} is a sweep of many runs; start it with -m: rankbench -m {word}")
    given: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and not key.startswith(("-", "~")):
            if given.get(key, word) != word:
                log.warning("%s is given twice; the last counts: %s", key, word)
            given[key] = word
    keys = {key.lstrip("+"): word.partition("=")[2] for key, word in given.items()}
    for group in ("model", "task"):
        hub = keys.get(f"{group}.hub", "null")
        if hub != "null" and f"{group}.revision" not in keys:
            raise RequestError(
                f"{group}.hub={hub} without its revision would be read at the revision of another {group}; add "
                f"{group}.revision=<commit of {hub}>"
            )
