"""A comparison as people read it: tables one under the other, each under words that say what it holds."""

from __future__ import annotations

import html
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from rankbench.system import markup
from rankbench.tables.shown import Shown

WIDTH = 80  # of what a terminal shows
SHORTEST = 10  # characters of a name that is shortened
COMMENT = {"csv": "# ", "latex": "% ", "md": ""}


@dataclass(frozen=True, repr=False)
class Block:
    """One table, its cells made for reading, and a caption of one sentence; a notebook shows both.

    `shown` are the runs that it is of, each with the metric that it is shown by. `across` says what its columns are
    where they may as well be rows, which is how they are shown when they are more than fit beside each other.
    """

    caption: str
    frame: pd.DataFrame
    shown: Shown = field(default_factory=dict)
    across: str = ""

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
    return mean if len(values) == 1 else f"{mean} ± {deviation(values):,.{digits}f}"


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation, 0 of a single value; not a number where a value is none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def chance(p: float) -> str:
    """A p-value as a cell."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def render(blocks: Sequence[Block], form: str, width: int | None = None) -> str:
    """The blocks as Markdown, CSV or LaTeX, a blank line between them, ending in a newline.

    In CSV and LaTeX a caption is a comment. `width` is that of `as_text`.
    """
    apart = "\n" if form == "md" else ""
    parts = [
        f"{said(block.caption, form)}\n{apart}{as_text(block.frame, form, width, block.across)}" for block in blocks
    ]
    return "\n".join(parts)


def remarks(lines: Sequence[str], form: str) -> str:
    """Closing lines below the blocks; in CSV and LaTeX comments."""
    return "".join(said(line, form) + "\n" for line in lines)


def said(line: str, form: str) -> str:
    """A sentence in lines of at most 80 characters, in CSV and LaTeX comments; a command, which is indented, in one."""
    mark = COMMENT[form]
    if line.startswith(" "):
        return mark + line
    return textwrap.fill(
        markup.markdown(line) if form == "md" else markup.on_one_line(line),
        80,
        initial_indent=mark,
        subsequent_indent=mark,
    )


def figure(block: Block, kind: str = "") -> str:
    """The block as HTML, its caption above the table; a style sheet knows it by its `kind`."""
    flat = _shaped(block.frame, block.across).reset_index()
    head = "".join(f'<th scope="col">{html.escape(str(column))}</th>' for column in flat.columns)
    rows = []
    for first, *cells in flat.itertuples(index=False):
        others = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{html.escape(str(first))}</th>{others}</tr>')
    caption, named = html.escape(block.caption), f' class="{kind}"' if kind else ""
    return (
        f"<figure{named}><figcaption>{caption}</figcaption>\n<table><thead><tr>{head}</tr></thead>\n<tbody>"
        + "\n".join(rows)
        + "</tbody></table></figure>"
    )


def as_text(table: pd.DataFrame, form: str, width: int | None = None, across: str = "") -> str:
    """The table as Markdown, CSV or LaTeX, ending in a newline.

    With a `width`, in characters, Markdown that is wider goes on in tables below it: the same rows, further columns.
    `across` is that of a Block; CSV, which programs read, keeps rows and columns as they are.
    """
    if form != "csv":
        table = _shaped(table, across)
    if width is not None and form == "md":
        table, names = _shortened(table, width) if across else (table, [])
        parts = [as_text(part, form) for part in _folded(table, width)]
        return "\n".join([*parts, *([remarks(names, form)] if names else [])])
    flat = table.reset_index()
    if form == "csv":
        return flat.to_csv(index=False, lineterminator="\n")
    escape = markup.latex if form == "latex" else markup.markdown
    head = [escape(str(column)) for column in flat.columns]
    rows = [[escape(str(value)) for value in row] for row in flat.itertuples(index=False)]
    if form == "latex":
        lines = [" & ".join(line) + r" \\" for line in [head, *rows]]
        body = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
        return "\n".join([*body, r"\bottomrule", r"\end{tabular}"]) + "\n"
    widths = _widths(table)
    pad = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, *rows]]
    rule = ["-" * (width - 1) + ":" for width in widths]
    return "\n".join("| " + " | ".join(line) + " |" for line in [pad[0], rule, *pad[1:]]) + "\n"


def _shaped(table: pd.DataFrame, across: str) -> pd.DataFrame:
    """The table, or its columns as rows where a terminal shows that in fewer pieces."""
    if not across or len(_folded(table, WIDTH)) == 1:
        return table
    kind = str(table.index.name)
    heads = [f"{kind} {place}" if str(place).isdigit() else str(place) for place in table.index]
    turned = pd.DataFrame(table.T.to_numpy(), index=pd.Index(table.columns, name=across), columns=heads)
    pieces = len(_folded(_shortened(turned, WIDTH)[0], WIDTH))
    return turned if pieces < len(_folded(table, WIDTH)) else table


def _shortened(table: pd.DataFrame, width: int) -> tuple[pd.DataFrame, list[str]]:
    """The table with names of rows that leave room for all its columns, and sentences that give the names in full."""
    longest, *others = _widths(table)
    room = width - 4 - sum(size + 3 for size in others)
    if longest <= room or room < SHORTEST:
        return table, []
    names: list[str] = []
    told: list[str] = []
    for name in map(str, table.index):
        if len(markup.markdown(name)) > room:
            mark = f" [{len(told) + 1}]"
            told.append(f"{mark.strip()} {name}")
            whole = textwrap.shorten(name, room - len(mark), placeholder="")
            name = (whole or name[: room - len(mark)]) + mark
        names.append(name)
    return table.set_axis(pd.Index(names, name=table.index.name), axis="index"), told


def _folded(table: pd.DataFrame, width: int) -> list[pd.DataFrame]:
    """The columns in as few tables as are at most `width` characters of Markdown; a wider column stands alone."""
    index, *columns = _widths(table)
    parts: list[list[int]] = []
    left = 0
    for place, size in enumerate(columns):
        needed = size + 3  # a cell takes three characters beside its text, and a line one more
        if not parts or needed > left:
            parts.append([])
            left = width - index - 4
        parts[-1].append(place)
        left -= needed
    return [table.iloc[:, part] for part in parts] or [table]


def _widths(table: pd.DataFrame) -> list[int]:
    """Characters of the index and of each column in Markdown, its head included; a rule, `-:`, has two."""
    flat = table.reset_index()
    return [
        max(2, *(len(markup.markdown(str(cell))) for cell in (name, *flat.iloc[:, place])))
        for place, name in enumerate(flat.columns)
    ]
