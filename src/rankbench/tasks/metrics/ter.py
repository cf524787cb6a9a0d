"""TER of sacreBLEU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rankbench.system.progress import Counted
from rankbench.tasks.metrics.text import References, Rows, TextPairs


class Ter(TextPairs):
    """TER as sacreBLEU has it from tercom (Snover et al. 2006): all edits over the mean lengths, a share.

    Words are parted by blanks, in lower case; of the references that of fewest edits counts. It takes minutes for
    thousands of rows.
    """

    key = "ter"
    description = "TER by sacreBLEU, as tercom's: all edits over the mean lengths of the references"

    @staticmethod
    def against(references: References) -> Rows:
        """The edits and the mean length of the references."""
        from sacrebleu.metrics import TER

        metric = TER()

        def rows(texts: Sequence[str]) -> np.ndarray:
            found = np.zeros((len(texts), 2))
            told = Counted("TER, answers", len(texts))
            for row, text, own in zip(found, texts, references, strict=True):
                score = metric.corpus_score([text], [[one] for one in own])
                row[:] = score.num_edits, score.ref_length
                told.add()
            told.close()
            return found

        return rows
