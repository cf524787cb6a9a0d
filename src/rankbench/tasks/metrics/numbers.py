"""Answers that end in a number, held to that number."""

from __future__ import annotations

import re
from decimal import Decimal

import numpy as np

from rankbench.tasks.metrics.text import References, Rows, TextPairs

MARK = "####"  # behind which GSM8K writes the answer
_NUMBER = re.compile(r"(?:(?<![\w.)])[-+])?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")  # a sign behind a digit is a minus


class ExactNumber(TextPairs):
    """Share of texts whose final number is that of an accepted text (GSM8K, Cobbe et al. 2021).

    The final number is the first behind the last `####`, or where there is none the last of the text. Numbers are equal
    by value: `1,200`, `$1200` and `1200.0` are.
    """

    key = "exact_number"
    description = "share of texts whose final number is an accepted one's"

    @staticmethod
    def against(references: References) -> Rows:
        """Whether a text has a number, and it is that of an accepted text."""
        accepted = [{final_number(text) for text in row} - {None} for row in references]
        return lambda texts: np.array([[final_number(text) in own] for text, own in zip(texts, accepted, strict=True)])


def final_number(text: str) -> Decimal | None:
    """The number that a text ends in; None where it has none."""
    _, mark, answer = text.rpartition(MARK)
    found = _NUMBER.findall(answer)
    return Decimal((found[0] if mark else found[-1]).replace(",", "")) if found else None
