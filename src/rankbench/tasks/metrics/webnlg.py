"""BLEU and TER by the route of LoRA's repository for WebNLG and DART: its own splitting, then GenerationEval."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rankbench.tasks.metrics.mteval import bleu_rows, tokens
from rankbench.tasks.metrics.text import References, Rows, TextPairs

MOST = 6  # references of a row that are read; the first stands in for missing ones, which changes none of the values


class BleuWebNLG(TextPairs):
    """Corpus BLEU of multi-bleu-detok.perl over texts as LoRA's decoding leaves them, as a share; not smoothed."""

    key = "bleu_webnlg"
    description = "corpus BLEU by LoRA's route for WebNLG and DART"

    @staticmethod
    def against(references: References) -> Rows:
        """The counts of BLEU."""
        return bleu_rows([row[:MOST] for row in references], lambda text: tokens(split(text)))


class TerWebNLG(TextPairs):
    """TER of the package pyter over texts as LoRA's decoding leaves them: the mean of each row's least, as a share.

    It lies below the TER of tercom and sacreBLEU, which divides all edits by the mean lengths of the references.
    """

    key = "ter_webnlg"
    description = "TER by LoRA's route for WebNLG and DART: mean over rows of the least over references"

    @staticmethod
    def against(references: References) -> Rows:
        """Each text's least TER."""
        wanted = [list(dict.fromkeys(tuple(words(text)) for text in row[:MOST])) for row in references]

        def rows(texts: Sequence[str]) -> np.ndarray:
            pairs = zip(map(words, texts), wanted, strict=True)
            return np.array([[min(rate(made, list(one)) for one in own)] for made, own in pairs])

        return rows


def split(text: str) -> str:
    """A text in lower case, split at every character that is none of a word: `18.3` becomes `18 . 3`."""
    return " ".join(" ".join(re.split(r"(\W)", text.lower())).split())


# NLTK's word_tokenize parts these and turns a quotation mark; of texts that are split already it changes nothing else.
PARTED = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "lemme": "lem me", "wanna": "wan na"}
PARTED |= {"gimme": "gim me", '"': "``"}


def words(text: str) -> list[str]:
    """The words that GenerationEval gives METEOR and TER."""
    return " ".join(PARTED.get(word, word) for word in split(text).split()).split()


def rate(made: list[str], wanted: list[str]) -> float:
    """Edits and shifts that turn one text into another, over the words of that; 1 where it has none.

    As in pyter: a shift moves words to the place that equal ones have in the reference. The shift that saves most edits
    is made first, of equals that whose result sorts last.
    """
    if not wanted:
        return 1.0
    distance = _distance_to(wanted)
    shifts, edits = 0, distance(made)
    while moved := max(((edits - distance(one), one) for one in _shifted(made, wanted)), default=None):
        if moved[0] <= 0:
            break
        made, edits, shifts = moved[1], edits - moved[0], shifts + 1
    return (shifts + edits) / len(wanted)


def _shifted(made: list[str], wanted: list[str]) -> Iterator[list[str]]:
    """The text after each shift: the longest run from each place that equals one of the reference, moved there."""
    for start, to in itertools.product(range(len(made)), range(len(wanted))):
        if start != to and made[start] == wanted[to]:
            pairs = zip(made[start:], wanted[to:], strict=False)
            length = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            rest = made[:start] + made[start + length :]
            yield rest[:to] + made[start : start + length] + rest[to:]


def _distance_to(wanted: list[str]) -> Callable[[list[str]], int]:
    """The edit distance of a text from this one: a column of the table at a time, as bits (Hyyro 2003)."""
    places: dict[str, int] = {}
    for place, word in enumerate(wanted):
        places[word] = places.get(word, 0) | 1 << place
    last, every = 1 << len(wanted) - 1, (1 << len(wanted)) - 1

    def distance(made: list[str]) -> int:
        found, up, down = len(wanted), every, 0  # where the next cell of the column is one more, and one less
        for word in made:
            equal = places.get(word, 0)
            across = (((equal & up) + up) ^ up) | equal
            more, less = down | ~(across | up) & every, up & across
            found += bool(more & last) - bool(less & last)
            more, less = more << 1 | 1, less << 1
            up, down = (less | ~(equal | down | more)) & every, more & (equal | down) & every
        return found

    return distance
