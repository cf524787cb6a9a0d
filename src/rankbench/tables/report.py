"""`rankbench table`: comparisons of records, printed or written as text, page or picture."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rankbench.errors import RequestError
from rankbench.records.record import Paths, load_records, of_task
from rankbench.system.files import expanded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rankbench.tables.choice import Chosen
    from rankbench.tables.layout import Block

# As comparisons.COMPARISONS has them, which takes seconds to load.
NAMES = (
    "lora_search_vs_dylora",
    "glue",
    "nlg",
    "qdylora_vs_qlora",
    "integer",
    "distribution",
    "loss",
    "flop",
    "soft_vs_early_exit",
    "leaderboard",
    "budget",
)
EVERY = ("curve", *NAMES, "choose_rank", "classes")
FORMS = ("md", "csv", "latex", "html")
NAMED = {"md": "Markdown", "csv": "CSV", "latex": "LaTeX", "html": "a page"}
PICTURES = (".png", ".svg", ".pdf")
WIDTH = 80  # of what a terminal shows


@dataclass(frozen=True, repr=False)
class Table:
    """A comparison of runs: blocks over them, what papers printed apart, and closing lines; a notebook shows it all."""

    name: str
    runs: Paths
    metric: str | None
    ours: list[Block]
    published: list[Block]
    closing: list[str]
    chosen: Chosen | None = None  # of choose_rank, for its page

    def pictures(self) -> list[Figure]:
        """The pictures of these runs, the one that matters most first.

        Raises RequestError where there is none: the runs are of several tasks, or have no ranks or exits.
        """
        return _pictures(self.name, self.runs, self.metric)

    def text(self, form: str, width: int | None = None) -> str:
        """The table as `md`, `csv`, `latex`, or `html`: one page with its pictures.

        With a `width`, in characters, Markdown that is wider goes on in tables below it.
        """
        from rankbench.tables import choice, curve, layout

        if form == "html":
            return self._page()
        if self.name == "choose_rank":
            return choice.text(self.ours, self.closing, form, width)
        if self.name == "curve":  # one table, so its CSV and LaTeX need no comment
            frame = self.ours[0].frame
            told = f"\n{layout.remarks(self.closing, form)}" if self.closing and form == "md" else ""
            return (
                (f"{curve.caption(frame)}\n\n" if form == "md" else "")
                + layout.as_text(frame, form, width, "method")
                + told
            )
        parts = [layout.render(self.ours, form, width), layout.remarks(self.closing, form)]
        return "\n".join(filter(None, [*parts, layout.render(self.published, form, width)]))

    def save(self, file: str | os.PathLike[str], form: str | None = None) -> None:
        """Write the table to a file, in the form that its ending says (.md, .csv, .tex, .html), or in `form`.

        An ending of .png, .svg or .pdf draws the first picture. Raises RequestError where there is none.
        """
        file = expanded(file)
        if file.suffix in PICTURES:
            from rankbench.tables import plots

            plots.save(self.pictures()[0], file)
        else:
            file.write_text(self.text(form or _form(file)), encoding="utf-8")

    def _page(self) -> str:
        from rankbench.tables import answered, page

        title = self.name.replace("_", " ")
        try:
            drawn = self.pictures()
        except RequestError:  # several tasks, or no ranks: the tables say it all
            drawn = []
        if self.chosen is not None:
            return answered.answered(self.chosen, drawn)
        return page.page(title, [*self.ours, *self.published], drawn, self.closing)

    def __repr__(self) -> str:
        return self.text("md", WIDTH)

    def _repr_html_(self) -> str:
        from rankbench.tables import layout, page

        return "\n".join([*map(layout.figure, [*self.ours, *self.published]), *map(page.line, self.closing)])


def table(
    name: str,
    runs: Paths,
    metric: str | None = None,
    margin: float = 0.5,
    task: str | None = None,
    rank: int | None = None,
    depth: int | None = None,
    cut: str | None = None,
) -> Table:
    """The comparison that `rankbench table NAME RUNS` prints.

    `runs` are runs folders, run folders or record files, of which `task` keeps one task's. `margin` is the difference,
    in points or nats, that choose_rank and tables of a search take for none. `rank`, `depth` and `cut` (svd,
    svd_global, alpha_over_b) say of which sub-model `classes` is (default: the largest, uncut). Raises RequestError
    for an unknown name, and where the runs cannot be compared.
    """
    from rankbench.tables import closing, comparisons
    from rankbench.tables.comparisons.published import NOT_OURS

    if name not in EVERY:
        raise RequestError(f"{name} is no table; choose from {', '.join(EVERY)}")
    if name != "classes" and (rank, depth, cut) != (None, None, None):
        raise RequestError(f"--rank, --depth and --cut say of which sub-model classes is; leave them out for {name}")
    if task is not None:
        runs = of_task(runs, task)
    told: list[str] = []
    chosen = None
    if name == "choose_rank":
        from rankbench.tables import choice

        chosen = choice.chosen(runs, metric, margin)
        made, told = chosen.blocks, chosen.lines
    elif name == "classes":
        from rankbench.tables import classes

        made = classes.classes(runs, rank, depth, cut)
    elif name == "curve":
        made = [_curve(runs, metric)]
    elif name == "lora_search_vs_dylora":
        made = comparisons.lora_search_vs_dylora(runs, metric, margin)
    elif name == "qdylora_vs_qlora":
        made = comparisons.qdylora_vs_qlora(runs, metric, margin)
    elif name == "integer":
        made = comparisons.integer(runs, metric, margin)
    else:
        made = comparisons.COMPARISONS[name](runs, metric)
    shown = {run: by for block in made for run, by in block.shown.items()}
    told = told or closing.lines(load_records(runs), shown)
    theirs = [block for block in made if block.caption.startswith(NOT_OURS)]
    return Table(name, runs, metric, [block for block in made if block not in theirs], theirs, told, chosen)


def choose_rank(runs: Paths, metric: str | None = None, margin: float = 0.5) -> Table:
    """The sub-models of finished runs held to the best of them; the closing lines name the one to ship.

    `runs` are runs folders, run folders or record files over one data set: a search, nested methods, cuts, exits and
    seeds beside each other. Named is the smallest that is at most `margin` worse than the best, whichever that is, at
    95 %, in points or nats, as `rankbench table choose_rank` says.
    Raises RequestError when no run is done, there is one sub-model, or predictions are missing or not their run's.
    """
    return table("choose_rank", runs, metric, margin)


def main(words: list[str]) -> None:
    """Compare records, as asked on the command line."""
    parser = argparse.ArgumentParser(prog="rankbench table", description="Compare records.")
    parser.add_argument(
        "name",
        metavar="name",
        choices=EVERY,
        help="curve: metric against rank or depth, for any set of runs; choose_rank: which method and rank to ship; "
        f"classes: one run by class; or a comparison: {', '.join(NAMES)}",
    )
    parser.add_argument("runs", nargs="+", help="runs folders, run folders or record files")
    parser.add_argument("--metric", help="which metric (default: the records' first)")
    parser.add_argument("--task", help="the runs of this task alone (default: all)")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.5,
        help="choose_rank, lora_search_vs_dylora, qdylora_vs_qlora, integer: how much worse is as good, in points or "
        "nats (0.5)",
    )
    parser.add_argument("--rank", type=int, help="classes: of this rank (default: the largest)")
    parser.add_argument("--depth", type=int, help="classes: of this exit (default: the largest)")
    parser.add_argument("--cut", help="classes: of a rank that was cut so, svd, svd_global or alpha_over_b")
    parser.add_argument("--format", choices=FORMS, help="how to print it (default: by the ending of --to, or md)")
    parser.add_argument("--to", type=Path, help="write it to this file; .png, .svg and .pdf draw the picture instead")
    asked = parser.parse_args(words)
    load_records(asked.runs)  # says what is wrong with them before anything heavy is loaded
    runs = asked.runs if asked.task is None else of_task(asked.runs, asked.task)
    try:
        if asked.to is not None and asked.to.suffix in PICTURES:
            if asked.format is not None:
                told = f"--to {asked.to} draws a picture, which --format {asked.format} is none of"
                raise RequestError(f"{told}; leave one out")
            from rankbench.tables import plots

            plots.save(_pictures(asked.name, runs, asked.metric)[0], asked.to)
            print(f"wrote {asked.to}: the picture of {asked.name}", file=sys.stderr)
            return
        made = table(asked.name, runs, asked.metric, asked.margin, None, asked.rank, asked.depth, asked.cut)
        if asked.to is None:
            print(made.text(asked.format or "md", WIDTH), end="")
        else:
            made.save(asked.to, asked.format)
            form = asked.format or _form(asked.to)
            print(f"wrote {asked.to}: {asked.name} as {NAMED[form]}", file=sys.stderr)
    except OSError as error:
        if asked.to is None:
            raise
        raise RequestError(f"--to {asked.to} cannot be written ({error.strerror}); choose another file") from error


def _form(file: Path) -> str:
    """The form that a file's ending says. Raises RequestError for an ending that says none."""
    known = {".md": "md", ".txt": "md", ".csv": "csv", ".tex": "latex", ".html": "html", "": "md"}
    if file.suffix not in known:
        written = ", ".join([ending for ending in known if ending] + sorted(PICTURES))
        raise RequestError(f"--to {file}: {file.suffix} is no form of a table or picture; end it in {written}")
    return known[file.suffix]


def _curve(runs: Paths, metric: str | None) -> Block:
    from rankbench.tables import curve, labels
    from rankbench.tables.layout import Block

    made = curve.curve(runs, metric)
    records = curve.taken(load_records(runs), metric)
    return Block(f"{labels.title(records)}: {curve.caption(made)}.", made, curve.shown(records, metric), "method")


def _pictures(name: str, runs: Paths, metric: str | None) -> list[Figure]:
    from rankbench.tables import baselines, curve, labels, plots
    from rankbench.tables.comparisons import budgets, depth, ranks

    if name == "classes":
        raise RequestError("classes has tables and no picture; end --to in .html, .md, .csv or .tex")
    if name in ("curve", "choose_rank"):
        long = curve.curve_long(runs, metric)
        records = curve.taken(load_records(runs), metric)
        metrics = list(dict.fromkeys(long["metric"]))
        levels = baselines.lines(records, metrics[0]) if len(metrics) == 1 else {}
        one = plots.draw(long, ", ".join(metrics), labels.title(records), levels)
        drawn = [one] if one is not None else []
    else:
        drawn = {"soft_vs_early_exit": depth, "budget": budgets}.get(name, ranks).pictures(runs, metric)
    if not drawn:
        raise RequestError("these runs have no ranks or exits, so there is no curve to draw; ask for the table")
    return drawn
