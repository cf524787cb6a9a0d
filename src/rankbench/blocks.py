"""A comparison as people read it: tables one under the other, each under words that say what it holds."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rankbench import tables

COMMENT = {"csv": "# ", "latex": "% ", "md": ""}


@dataclass(frozen=True)
class Block:
    """One table, its cells made for reading, and a caption of one sentence."""

    caption: str
    frame: pd.DataFrame


def frame(rows: Mapping[str, Sequence[str]], columns: Sequence[str], index: str) -> pd.DataFrame:
    """Rows of cells by their names, under a name for the rows."""
    made = pd.DataFrame.from_dict(dict(rows), orient="index", columns=list(columns))
    made.index.name = index
    return made


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, with the sample standard deviation where there are several values; "-" for none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def render(blocks: Sequence[Block], form: str) -> str:
    """The blocks as Markdown, CSV or LaTeX, a blank line between them, ending in a newline.

    In CSV and LaTeX a caption is a comment.
    """
    mark = COMMENT[form]
    parts = []
    for block in blocks:
        caption = textwrap.fill(block.caption, 80, initial_indent=mark, subsequent_indent=mark)
        parts.append(f"{caption}\n{'' if mark else chr(10)}{tables.render(block.frame, form)}")
    return "\n".join(parts)
