"""Labels as the data write them, and the classes they are of: matched by name, whatever type a file stores."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rankbench.errors import RequestError

MOST = 1000
FEW = 20  # so many classes are no sign of a wrong column, however few the rows
NOT_CLASSES = "for a regression give task.regression=true; if another column has the class, set task.label_column"
_QUOTES = " \"'`‘’“”«»"
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")  # 7, 7.0 and "7" are one label; 07 is a text


def written(value: Any) -> str | None:
    """A label's name: one for 1, 1.0 and "1", and one for true and "True"; None for a label that is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return _written(str(value))


@functools.lru_cache(2 * MOST)  # a column has few labels and many rows
def _written(text: str) -> str | None:
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.capitalize()
    if _WHOLE.fullmatch(text):
        return str(int(text.split(".")[0]))
    return text or None


def number(value: Any) -> float | None:
    """A score as a finite number; None for what is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def with_point(value: Any) -> str | None:
    """A number that is written with a decimal comma, with a point; None for what is none."""
    text = str(value).strip()
    return text.replace(",", ".") if re.fullmatch(r"[+-]?\d*,\d+", text) else None


@dataclass(frozen=True)
class Classes:
    """The classes of a task in the order of their numbers, and how labels name them.

    `positions`: a whole number is a class's place, as in GLUE, where `task.label_names` names what the data number.
    """

    names: tuple[str, ...]
    positions: bool = False
    given: bool = False
    unlike: str = ""  # why these seem to be no classes

    def number(self, value: Any) -> int | None:
        """The number of a label's class; None for a label of no class."""
        label = written(value)
        if label is None:
            return None
        if self.positions and _WHOLE.fullmatch(label):
            return int(label) if 0 <= int(label) < len(self.names) else None
        return self.by_name(label)

    def by_name(self, name: str) -> int | None:
        """The number of the class of this name, or None."""
        return self._places.get(str(written(name)))

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {str(written(name)): place for place, name in enumerate(self.names)}

    def numbers(self, values: Sequence[Any]) -> list[int | None]:
        """Of each label the number of its class."""
        known = {key: self.number(value) for key, value in {_key(value): value for value in values}.items()}
        return [known[_key(value)] for value in values]

    def expected(self) -> str:
        """What a label may be, in words."""
        names = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
        source = "of task.label_names" if self.given else "that the training split has"
        return f"one {source} ({names})" + (f" or 0..{len(self.names) - 1}" if self.positions else "")


def _key(value: Any) -> tuple[type, str]:
    return type(value), str(value)


def classes_named(names: Sequence[str], labels: Sequence[Any]) -> Classes:
    """The classes that a task names. Labels are names where all in training are; else whole numbers are positions.

    Raises RequestError where two names are one.
    """
    known = [written(name) for name in names]
    twice = [name for name, count in Counter(known).items() if count > 1 or name is None]
    if twice:
        raise RequestError(f"task.label_names has {twice[0]!r} twice, or an empty name; give each class one name")
    by_name = {written(value) for value in labels} <= set(known)
    numbers = any(_WHOLE.fullmatch(str(name)) for name in known)
    return Classes(tuple(map(str, names)), positions=not (by_name and numbers), given=True)


def classes_found(labels: Sequence[Any], place: str) -> Classes:
    """The classes of a training split: one for each distinct label, numbers by value and before words.

    `place` says which column of which file in messages; `labels` has none missing. Raises RequestError.
    """
    names = list(dict.fromkeys(str(written(value)) for value in labels))
    whole = [name for name in names if _WHOLE.fullmatch(name)]
    others = sorted(set(names) - set(whole))
    if others and all(_is_fraction(name) for name in others):
        if all(number(name) is None for name in others):  # nan or inf among whole numbers
            raise RequestError(f"{place} has {others[0]}, which is no class; correct or remove these rows")
        raise RequestError(
            f"{place} holds fractions ({others[0]}); for a regression give task.regression=true "
            "task.metrics=[pearson,spearman]"
        )
    many = len(names) > FEW and len(names) > len(labels) / 2
    if many and others and all(with_point(name) for name in others):
        raise RequestError(
            f"{place} holds numbers with a comma ({others[0]}); write {with_point(others[0])}, and {NOT_CLASSES}"
        )
    unlike = f"{place} has {len(names):,} labels in {len(labels):,} rows" if many else ""
    ordered = [*sorted(whole, key=int), *others]
    values = sorted(map(int, whole))
    if values[:1] == [-1] and values[1:] == list(range(len(values) - 1)) and values[1:] and not others:
        count = sum(written(value) == "-1" for value in labels)
        raise RequestError(
            f"{place} has -1 in {count:,} rows, which marks a row without a label, as in test splits of GLUE; remove "
            f"these rows, or name the classes if -1 is one: task.label_names=[{','.join(ordered)}]"
        )
    if not 2 <= len(ordered) <= MOST:
        few = f"one class alone ({ordered[0]})" if len(ordered) < 2 else f"{len(ordered):,} classes"
        scores = f"; {NOT_CLASSES}" if len(ordered) > MOST else ""
        raise RequestError(f"{place} has {few}; a classification needs 2 to {MOST}{scores}")
    return Classes(tuple(ordered), unlike=unlike)


def _is_fraction(text: str) -> bool:
    """Whether a text is a number that is not whole, or none that is finite; 007 and 1e3 are words."""
    try:
        return not float(text).is_integer()
    except ValueError:
        return False


def alike(names: Sequence[str]) -> list[list[str]]:
    """Classes whose names differ in case, quotes and spaces alone, or are 0 or 1 beside false or true."""
    found: dict[str, list[str]] = {}
    for name in names:
        plain = " ".join(name.strip(_QUOTES).casefold().split())
        found.setdefault({"false": "0", "true": "1", "0.0": "0", "1.0": "1"}.get(plain, plain), []).append(name)
    return [twins for twins in found.values() if len(twins) > 1]


def counts(numbers: Iterable[int], names: Sequence[str]) -> dict[str, int]:
    """How many rows each class has, by name, also where it is none."""
    seen = Counter(numbers)
    return {name: seen[place] for place, name in enumerate(names)}
