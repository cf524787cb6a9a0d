"""A comparison as people read it: tables one under the other, each under words that say what it holds."""

from __future__ import annotations

import html
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rankbench import tables

COMMENT = {"csv": "# ", "latex": "% ", "md": ""}


@dataclass(frozen=True, repr=False)
class Block:
    """One table, its cells made for reading, and a caption of one sentence; a notebook shows both."""

    caption: str
    frame: pd.DataFrame

    def __repr__(self) -> str:
        return render([self], "md")

    def _repr_html_(self) -> str:
        return figure(self)


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


def chance(p: float) -> str:
    """A p-value as a cell."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def render(blocks: Sequence[Block], form: str, width: int | None = None) -> str:
    """The blocks as Markdown, CSV or LaTeX, a blank line between them, ending in a newline.

    In CSV and LaTeX a caption is a comment. `width` is that of `tables.render`.
    """
    mark = COMMENT[form]
    parts = []
    for block in blocks:
        caption = textwrap.fill(block.caption, 80, initial_indent=mark, subsequent_indent=mark)
        parts.append(f"{caption}\n{'' if mark else chr(10)}{tables.render(block.frame, form, width)}")
    return "\n".join(parts)


def figure(block: Block) -> str:
    """The block as HTML, its caption above the table."""
    flat = block.frame.reset_index()
    head = "".join(f'<th scope="col">{html.escape(str(column))}</th>' for column in flat.columns)
    rows = []
    for first, *cells in flat.itertuples(index=False):
        others = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{html.escape(str(first))}</th>{others}</tr>')
    caption = html.escape(block.caption)
    return (
        f"<figure><figcaption>{caption}</figcaption>\n<table><thead><tr>{head}</tr></thead>\n<tbody>"
        + "\n".join(rows)
        + "</tbody></table></figure>"
    )
