"""What people type before Hydra reads it: one name for a list of one, a sweep without -m."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import fields

from rankbench.errors import RequestError
from rankbench.settings.compose import GROUPS, KINDS

log = logging.getLogger("rankbench")

_OF_TEXTS = {
    f"{group}.{setting.name}"
    for group, kind in GROUPS.items()
    for one in (kind, *KINDS.get(group, {}).values())
    for setting in fields(one)
    if str(setting.type).startswith("list[str]")
}
WHERE = re.compile(r"\+*(cluster[.=]|hydra\.launcher\.|log\.group=)")  # where a run is done, not what it is
_PLAIN = re.compile(r"[\w./@-]+(?: [\w./@-]+)*")


def typed(words: Sequence[str]) -> list[str]:
    """The same words, where a setting that is a list of texts may be one name: `task.text_columns=review`."""
    found = []
    for word in words:
        key, _, value = word.partition("=")
        one = key.lstrip("+") in _OF_TEXTS and _PLAIN.fullmatch(value) and value != "null"
        found.append(f"{key}=[{value}]" if one else word)
    return found


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
