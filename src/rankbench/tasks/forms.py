"""Ways of writing structured input as a prompt has it: `{column:form}` in `task.prompts`."""

from __future__ import annotations

import json
import re
from string import ascii_uppercase

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


def texts_of(text: str) -> list[str]:
    """A list of texts, as JSON. Raises ValueError for another text."""
    try:
        listed = json.loads(text)
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed) or not listed:
        raise ValueError('is no list of texts, such as ["one", "two"]')
    return listed


def lettered(text: str) -> str:
    """A list of texts, as JSON, as a line for each behind its letter. Raises ValueError for another text."""
    listed = texts_of(text)
    if len(listed) > len(ascii_uppercase):
        raise ValueError(f"has {len(listed)} texts, and there are {len(ascii_uppercase)} letters")
    return "\n".join(f"{mark}. {one}" for mark, one in zip(ascii_uppercase, listed, strict=False))


def letter(text: str) -> str:
    """The letter of a place in a list, from 0; a letter stays. Raises ValueError for another text."""
    text = text.strip()
    if text in ascii_uppercase and len(text) == 1:
        return text
    text = text.removesuffix(".0")  # pandas has a float where other rows are missing
    if text.isdecimal() and int(text) < len(ascii_uppercase):
        return ascii_uppercase[int(text)]
    raise ValueError(f"is {text!r}, neither a place in a list, from 0, nor a letter")


def words(text: str) -> str:
    """The words of a name that joins them by underlines."""
    return text.replace("_", " ")


FORMS = {"e2e": e2e, "dart": dart, "lettered": lettered, "letter": letter, "words": words}


class Cell(str):
    """A column's text, which a template may write in a form."""

    def __format__(self, form: str) -> str:
        """The text in that form; as it is for none."""
        return FORMS[form](str(self)) if form else str(self)


class Listed(Cell):
    """A list of texts, as JSON, which has no text but in the form that writes one."""

    def __format__(self, form: str) -> str:
        """The list in that form. Raises ValueError for another one."""
        if form != "lettered":
            raise ValueError("is a list of texts, which the form {column:lettered} writes")
        return lettered(str(self))
