"""The longest common subsequence of two texts."""

from __future__ import annotations

from collections.abc import Sequence


class Subsequence:
    """A text's words, to be held against many others: a row of the table at a time, as bits (Hyyro 2004)."""

    def __init__(self, words: Sequence[str]) -> None:
        self.length = len(words)
        self.places: dict[str, int] = {}
        for place, word in enumerate(words):
            self.places[word] = self.places.get(word, 0) | 1 << place

    def common(self, words: Sequence[str]) -> int:
        """The length of the longest common subsequence."""
        every = (1 << self.length) - 1
        row = every
        for word in words:
            met = row & self.places.get(word, 0)
            row = (row + met | row - met) & every
        return self.length - row.bit_count()
