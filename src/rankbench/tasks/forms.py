"""Ways of writing structured input as a prompt has it: `{column:form}` in `task.prompts`."""

from __future__ import annotations

import re

_SLOT = re.compile(r"\s*([^\[\],]+?)\s*\[([^\[\]]*)\]\s*(?:,|$)")
_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


def e2e(text: str) -> str:
    """E2E's meaning representation as LoRA's data write it: `name[A], eatType[pub]` is `name : A | Type : pub`.

    What is written so already stays. Raises ValueError for a text that is neither.
    """
    slots, end = [], 0
    while end < len(text) and (found := _SLOT.match(text, end)):
        slots.append((found[1], found[2].strip()))
        end = found.end()
    if slots and not text[end:].strip() and not text.rstrip().endswith(","):
        return " | ".join(f"{_NAMES.get(name, name)} : {value}" for name, value in slots)
    if " : " in text and "[" not in text:
        return text.strip()
    raise ValueError("is no meaning representation of E2E, such as 'name[Blue Spice], eatType[pub]'")


def dart(text: str) -> str:
    """Triples `subject : RELATION : object | ...` with the relation in lower case, as LoRA's DART has them.

    A part that is no triple stays as it is.
    """
    return " | ".join(_lowered(part) for part in text.split(" | "))


def _lowered(part: str) -> str:
    triple = part.split(" : ")
    return " : ".join([triple[0], triple[1].lower(), triple[2]]) if len(triple) == 3 else part


FORMS = {"e2e": e2e, "dart": dart}


class Cell(str):
    """A column's text, which a template may write in a form."""

    def __format__(self, form: str) -> str:
        """The text in that form; as it is for none."""
        return FORMS[form](str(self)) if form else str(self)
