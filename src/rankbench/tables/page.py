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
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #f4f4f1; --faint: #ddd; --dim: #555 }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.75rem; line-height: 1.2 }
h1, p, figcaption { overflow-wrap: anywhere }
p, figcaption { max-width: 60rem }
figure { margin: 2rem 0; overflow-x: auto }
figcaption { margin-bottom: .5rem; position: sticky; left: 0 }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap }
th:first-child { text-align: left; font-weight: normal; padding-left: 0; position: sticky; left: 0;
  background: var(--paper) }
tbody th:first-child { white-space: normal; min-width: 7rem; max-width: 22rem }
thead th { border-bottom: 2px solid var(--dim); font-weight: 600; vertical-align: bottom }
.words th, .words td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top }
section { margin-top: 3rem; padding: .5rem 1.25rem; background: var(--soft) }
section th:first-child { background: var(--soft) }
.answer { margin-top: 1rem; border-left: .25rem solid #0072b2 }
.lead { font-size: 1.2rem }
pre { padding: .75rem 1rem; background: var(--paper); border: 1px solid var(--faint); white-space: pre-wrap;
  overflow-wrap: anywhere; user-select: all }
svg { width: 50rem; max-width: 100%; height: auto }
footer { margin-top: 3rem; color: var(--dim); font-size: .875rem }
@media (max-width: 40rem) {
  body { margin: 1rem auto }
  th, td { padding: .25rem .4rem }
  thead th { white-space: normal }
  tbody th:first-child { min-width: 5rem; max-width: 9rem }
  svg { width: 36rem; max-width: none }
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --paper: #1f1f1f; --soft: #2a2a2a; --faint: #444; --dim: #aaa }
  svg { filter: invert(.88) hue-rotate(180deg) }
}
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
        *map(svg, drawn),
        *map(figure, ours[1:]),
    ]
    body += map(line, closing)
    if theirs:
        body += ["<section>", "<h2>Published figures, not ours</h2>", *map(figure, theirs), "</section>"]
    return document(title, body)


def document(title: str, body: Sequence[str]) -> str:
    """A page of these parts, which are HTML, under a title, which is text."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            *body,
            "<footer>Made by <code>rankbench table</code> from records.</footer>",
            "</body></html>\n",
        ]
    )


def line(line: str) -> str:
    """A closing line; an indented one is a command."""
    return f"<p>{html.escape(line)}</p>" if line[:1] != " " else f"<pre><code>{html.escape(line.strip())}</code></pre>"


def svg(drawn: Figure) -> str:
    """The picture as inline SVG, without the lines that belong to a file of its own."""
    from rankbench.tables import plots

    out = io.StringIO()
    plots.write(drawn, out, "svg")
    return f"<figure>{re.sub(r'^.*?(?=<svg)', '', out.getvalue(), flags=re.S)}</figure>"
