"""METEOR 1.5, by the Java program that the package pycocoevalcap brings; never NLTK's, which is another metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rankbench.settings.text_sums import METEOR_CONTENT, METEOR_MATCHERS
from rankbench.tasks.metrics import meteor_java
from rankbench.tasks.metrics.text import References, Rows, TextPairs
from rankbench.tasks.metrics.webnlg import MOST, words


class MeteorE2E(TextPairs):
    """METEOR 1.5 of the E2E challenge's script (Denkowski and Lavie 2014): English, tokens of the Penn Treebank."""

    key = "meteor_e2e"
    description = "METEOR 1.5 by the E2E challenge's script, in Java"

    @staticmethod
    def against(references: References) -> Rows:
        """The weighted matches, words and chunks against the best reference."""
        return _rows(references, meteor_java.treebank)


class MeteorWebNLG(TextPairs):
    """METEOR 1.5 by LoRA's route for WebNLG and DART: its own splitting, six references."""

    key = "meteor_webnlg"
    description = "METEOR 1.5 by LoRA's route for WebNLG and DART, in Java"

    @staticmethod
    def against(references: References) -> Rows:
        """The weighted matches, words and chunks against the best reference."""
        return _rows([row[:MOST] for row in references], lambda texts: [" ".join(words(text)) for text in texts])


def _rows(references: References, tokenized: Callable[[Sequence[str]], list[str]]) -> Rows:
    every = iter(tokenized([text for row in references for text in row]))
    wanted = [[next(every) for _ in row] for row in references]

    def rows(texts: Sequence[str]) -> np.ndarray:
        return _added(np.array(meteor_java.statistics(tokenized(texts), wanted)))

    return rows


def _added(found: np.ndarray) -> np.ndarray:
    """What adds up to METEOR, (n, 6) as `settings.metrics` names it, of the program's statistics (n, 23).

    These are the words of both sides, those of them that are function words, the matches of each matcher (content
    words of both sides, then function words), and the chunks with the matched words of both sides. A text that is its
    reference has no chunk.
    """
    every, function, matches = found[:, 0:2], found[:, 2:4], found[:, 4:20].reshape(-1, 4, 4)
    content, of_function = METEOR_CONTENT, 1 - METEOR_CONTENT
    matched = (content * matches[:, :, :2] + of_function * matches[:, :, 2:]).transpose(0, 2, 1) @ METEOR_MATCHERS
    weight = content * (every - function) + of_function * function
    chunks, met = found[:, 20], found[:, 21:23].sum(1)
    chunks = np.where((met == every.sum(1)) & (chunks == 1), 0, chunks)
    return np.stack([matched[:, 0], weight[:, 0], matched[:, 1], weight[:, 1], chunks, met], axis=1)
