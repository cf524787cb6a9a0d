"""`rankbench table`: comparisons of records, printed or written as text, page or picture."""

from __future__ import annotations

import argparse
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rankbench.record import load_records
from rankbench.sources import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rankbench.blocks import Block

# As comparisons.COMPARISONS has them, which takes seconds to load.
NAMES = ("lora_search_vs_dylora", "glue", "distribution", "loss", "flop", "soft_vs_early_exit", "leaderboard")
FORMS = ("md", "csv", "latex", "html")
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


def main(words: list[str]) -> None:
    """Compare records, as asked on the command line."""
    parser = argparse.ArgumentParser(prog="rankbench table", description="Compare records.")
    parser.add_argument(
        "name",
        metavar="name",
        choices=["curve", *NAMES, "choose_rank"],
        help="curve: metric against rank or depth, for any set of runs; choose_rank: which rank of one run to ship; or "
        f"a comparison: {', '.join(NAMES)}",
    )
    parser.add_argument("runs", nargs="+", help="runs folders, run folders or record files")
    parser.add_argument("--metric", help="which metric (default: the records' first)")
    parser.add_argument(
        "--margin", type=float, default=0.5, help="choose_rank: how much worse is as good, in points or nats (0.5)"
    )
    parser.add_argument("--format", choices=FORMS, help="how to print it (default: by the ending of --to, or md)")
    parser.add_argument("--to", type=Path, help="write it to this file; .png and .svg draw the picture instead")
    asked = parser.parse_args(words)
    endings = {".csv": "csv", ".tex": "latex", ".html": "html"}
    form = asked.format or endings.get(asked.to.suffix if asked.to else "", "md")
    load_records(asked.runs)  # says what is wrong with them before anything heavy is loaded
    from rankbench import plots

    try:
        if asked.to is not None and asked.to.suffix in (".png", ".svg"):
            plots.save(_pictures(asked.name, asked.runs, asked.metric)[0], asked.to)
            return
        if asked.name == "choose_rank":
            text = _choice(asked.runs, asked.metric, asked.margin, form)
        else:
            text = _text(asked.name, asked.runs, asked.metric, form)
        if asked.to is None:
            print(text, end="")
        else:
            asked.to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"--to {asked.to} cannot be written ({error.strerror}); choose another file") from error


def _text(name: str, runs: list[str], metric: str | None, form: str) -> str:
    from rankbench import blocks, tables
    from rankbench.comparisons import COMPARISONS

    if name == "curve" and form != "html":
        made = tables.curve(runs, metric)
        return (f"{tables.caption(made)}\n\n" if form == "md" else "") + tables.render(made, form)
    made_of = [_curve(runs, metric)] if name == "curve" else COMPARISONS[name](runs, metric)
    if form != "html":
        return blocks.render(made_of, form)
    try:
        drawn = _pictures(name, runs, metric)
    except RequestError:  # several tasks, or no ranks: the tables say it all
        drawn = []
    return page(name.replace("_", " "), made_of, drawn)


def _choice(runs: list[str], metric: str | None, margin: float, form: str) -> str:
    if len(runs) != 1:
        raise RequestError(f"choose_rank looks at one run, not {len(runs)}; give the folder of one finished run")
    from rankbench import choose

    made, closing = choose.choose_rank(Path(runs[0]), metric, margin)
    if form == "html":
        return page(f"choose a rank: {Path(runs[0]).name}", made, [], closing)
    return choose.text(made, closing, form)


def _curve(runs: list[str], metric: str | None) -> Block:
    from rankbench import tables
    from rankbench.blocks import Block

    made = tables.curve(runs, metric)
    return Block(f"{tables.title(load_records(runs))}: {tables.caption(made)}.", made)


def _pictures(name: str, runs: list[str], metric: str | None) -> list[Figure]:
    """The pictures of a comparison, the one that matters most first. Raises RequestError where there is none."""
    from rankbench import plots, tables
    from rankbench.comparisons.ranks import pictures

    if name in ("curve", "soft_vs_early_exit", "choose_rank"):
        long = tables.curve_long(runs, metric)
        one = plots.draw(long, ", ".join(dict.fromkeys(long["metric"])), tables.title(load_records(runs)))
        drawn = [one] if one is not None else []
    else:
        drawn = pictures(runs, metric)
    if not drawn:
        raise RequestError("these runs have no ranks or exits, so there is no curve to draw; leave out --to")
    return drawn


def page(title: str, made: Sequence[Block], drawn: Sequence[Figure], closing: Sequence[str] = ()) -> str:
    """One HTML page that needs no other file: our tables, the pictures, and the papers' figures in a section apart.

    Lines in `closing` follow our tables; an indented one is a command.
    """
    from rankbench.comparisons.published import NOT_OURS

    ours = [block for block in made if not block.caption.startswith(NOT_OURS)]
    theirs = [block for block in made if block not in ours]
    body = [f"<h1>{html.escape(title)}</h1>", *map(_table, ours[:1]), *map(_svg, drawn), *map(_table, ours[1:])]
    body += [f"<p>{html.escape(line)}</p>" if line[:1] != " " else _command(line) for line in closing]
    if theirs:
        body += ["<section>", "<h2>Published figures, not ours</h2>", *map(_table, theirs), "</section>"]
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


def _table(block: Block) -> str:
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


def _command(line: str) -> str:
    return f"<pre>{html.escape(line.strip())}</pre>"


def _svg(figure: Figure) -> str:
    """The picture as inline SVG, without the lines that belong to a file of its own."""
    from rankbench import plots

    out = io.StringIO()
    plots.write(figure, out, "svg")
    return f"<figure>{re.sub(r'^.*?(?=<svg)', '', out.getvalue(), flags=re.S)}</figure>"
