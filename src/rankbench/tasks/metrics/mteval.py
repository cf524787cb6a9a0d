"""BLEU and NIST over the tokens of NIST's mteval-v13a, which sacreBLEU calls `13a`."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rankbench.tasks.metrics.text import References, Rows, TextPairs

Tokens = list[str]
Tokenized = Callable[[str], Tokens]


class BleuSacre(TextPairs):
    """Corpus BLEU of sacreBLEU (Post 2018): `13a` tokens, case kept, smoothed `exp`, as a share.

    All accepted texts of a row are its references. Papers report the BLEU of other scripts, whose values differ.
    """

    key = "bleu_sacre"
    description = "corpus BLEU by sacreBLEU, 13a tokens, case-sensitive"

    @staticmethod
    def against(references: References) -> Rows:
        """The counts of sacreBLEU's BLEU."""
        return bleu_rows(references, tokens)


class BleuE2E(TextPairs):
    """Corpus BLEU of the E2E challenge's script (Dusek et al. 2020): `13a` tokens, lower case, as a share.

    That is sacreBLEU's `lowercase`. The script's `-p`, LoRA's, is the same but for texts of fewer than 4 tokens, which
    it takes to have less than no n-grams, so that BLEU may pass 1.
    """

    key = "bleu_e2e"
    description = "corpus BLEU by the E2E challenge's script, lower case"

    @staticmethod
    def against(references: References) -> Rows:
        """The counts of BLEU."""
        return bleu_rows(references, lambda text: tokens(text.lower()))


class NistE2E(TextPairs):
    """NIST of the E2E challenge's script with `-p` (Doddington 2002): up to 5-grams, lower case, in its own unit.

    The challenge's own figures, without `-p`, take another reference length and differ where rows have unlike numbers
    of references. An empty text counts as one token, as there.
    """

    key = "nist_e2e"
    description = "NIST by the E2E challenge's script with -p, lower case"

    @staticmethod
    def against(references: References) -> Rows:
        """The information of the matches by their n, length and the mean length of the references."""
        every = [[challenge_tokens(text) for text in row] for row in references]
        seen: Counter[tuple[str, ...]] = Counter()
        wanted = [_Wanted(row, 5, seen) for row in every]
        seen[()] = sum(len(words) for row in every for words in row)
        information = {gram: math.log2(seen[gram[:-1]] / count) for gram, count in seen.items() if gram}
        lengths = [sum(map(len, row)) / len(row) for row in every]

        def rows(texts: Sequence[str]) -> np.ndarray:
            found = np.zeros((len(texts), 7))
            for row, text, own, length in zip(found, texts, wanted, lengths, strict=True):
                words = challenge_tokens(text)
                for gram, count in own.matches(words):
                    row[len(gram) - 1] += count * information[gram]
                row[5:] = len(words), length
            return found

        return rows


class _Wanted:
    """The n-grams of a row's references, each as often as the one has it that has it most."""

    def __init__(self, references: Sequence[Tokens], most: int, seen: Counter[tuple[str, ...]] | None = None) -> None:
        """Of up to `most` tokens; all that the references have are counted in `seen` too."""
        self.most, self.lengths = most, [len(words) for words in references]
        self.counts: dict[tuple[str, ...], int] = {}
        for words in references:
            grams = ngrams(words, most)
            for gram, count in Counter(grams).items():
                if count > self.counts.get(gram, 0):
                    self.counts[gram] = count
            if seen is not None:
                seen.update(grams)

    def matches(self, words: Tokens) -> list[tuple[tuple[str, ...], int]]:
        """The n-grams of a text that are met, and how often."""
        made = Counter(ngrams(words, self.most))
        return [(gram, min(made[gram], self.counts[gram])) for gram in made.keys() & self.counts.keys()]

    def matched(self, words: Tokens) -> list[int]:
        """How many n-grams of each n are met."""
        found = [0] * self.most
        for gram, count in self.matches(words):
            found[len(gram) - 1] += count
        return found

    def nearest(self, words: Tokens) -> int:
        """The length of the reference that is nearest in length, of two the shorter."""
        return min(self.lengths, key=lambda length: (abs(length - len(words)), length))


def bleu_rows(references: References, tokenized: Tokenized) -> Rows:
    """For texts (n,) their matches and n-grams for each n up to 4, length and the nearest reference's: (n, 10)."""
    wanted = [_Wanted([tokenized(text) for text in row], 4) for row in references]

    def rows(texts: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(texts), 10), dtype=int)
        for row, text, own in zip(found, texts, wanted, strict=True):
            words = tokenized(text)
            total = [max(0, len(words) - n) for n in range(4)]
            row[:] = [*own.matched(words), *total, len(words), own.nearest(words)]
        return found

    return rows


def ngrams(words: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """All n-grams of a text, of each n up to `most`."""
    return [gram for n in range(1, most + 1) for gram in zip(*(words[i:] for i in range(n)), strict=False)]


def tokens(text: str) -> Tokens:
    """mteval's tokens, as sacreBLEU makes them; of an empty text none."""
    return str(_tokenizer()(text.rstrip())).split()


def challenge_tokens(text: str) -> Tokens:
    """mteval's tokens in lower case; of an empty text one that is empty, as the E2E challenge's script has it."""
    return tokens(text.lower()) or [""]


@functools.cache
def _tokenizer() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()
