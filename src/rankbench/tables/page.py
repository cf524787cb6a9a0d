"""A comparison as one HTML page that needs no other file."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rankbench.tables.layout import Block, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
figure { margin: 2rem 0; overflow-x: auto }
figcaption { margin-bottom: .5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child { text-align: left; font-weight: normal }
thead th { border-bottom: 2px solid #555; font-weight: 600 }
section { margin-top: 3rem; padding: .5rem 1.25rem; background: #f4f4f1 }
svg { max-width: 100%; height: auto }
footer { margin-top: 3rem; color: #555; font-size: .875rem }
"""


def page(title: str, made: Sequence[Block], drawn: Sequence[Figure], closing: Sequence[str] = ()) -> str:
    """One HTML page that needs no other file: our tables, the pictures, and the papers' figures in a section apart.

    Lines in `closing` follow our tables; an indented one is a command.
    """
    from rankbench.tables.comparisons.published import NOT_OURS

    ours = [block for block in made if not block.caption.startswith(NOT_OURS)]
    theirs = [block for block in made if block not in ours]
    body = [
        f"<h1>{html.escape(title)}</h1>",
        *map(figure, ours[:1]),
        *map(_svg, drawn),
        *map(figure, ours[1:]),
    ]
    body += map(line, closing)
    if theirs:
        body += ["<section>", "<h2>Published figures, not ours</h2>", *map(figure, theirs), "</section>"]
    body.append("<footer>Made by <code>rankbench table</code> from records.</footer>")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def line(line: str) -> str:
    """A closing line; an indented one is a command."""
    return f"<p>{html.escape(line)}</p>" if line[:1] != " " else f"<pre>{html.escape(line.strip())}</pre>"


def _svg(drawn: Figure) -> str:
    """The picture as inline SVG, without the lines that belong to a file of its own."""
    from rankbench.tables import plots

    out = io.StringIO()
    plots.write(drawn, out, "svg")
    return f"<figure>{re.sub(r'^.*?(?=<svg)', '', out.getvalue(), flags=re.S)}</figure>"
