"""Predict a file with a finished run or an export of one: read in pieces, written in pieces, however large it is."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.records.finished import Finished
from rankbench.settings.sources import fetch, locate
from rankbench.settings.task import Task
from rankbench.shipping.shipped import opened, refuse_lacking
from rankbench.system.files import expanded
from rankbench.system.markup import on_one_line
from rankbench.system.progress import Progress, clock, speak
from rankbench.system.stopping import Stopped, obeyed
from rankbench.tasks.reading import Piece, called, of_split, pieces, splits_in

if TYPE_CHECKING:
    from rankbench.shipping.predictor import Predictor
    from rankbench.shipping.rows_file import Layout

log = logging.getLogger("rankbench")

PIECE = 4096  # rows that are read, sorted by length and predicted together
SHOWN = 10  # rows of the table where nothing is written
WIDE = 40  # characters of a text in it
TEXTS = (".csv", ".tsv")


def main(words: list[str]) -> None:
    """`rankbench predict RUN --data FILE`: what a finished run says of a file's rows."""
    parser = argparse.ArgumentParser(
        prog="rankbench predict",
        description="Predict the rows of a file with a rank or depth of a finished run, or with an export of one.",
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run, or of an export")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="the rows, labelled or not: a file, or with --split a "
        "folder of splits (default: the run's own data, with --split)",
    )
    parser.add_argument("--split", metavar="NAME", help="which split of the folder")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="OUT",
        help=f"write all rows to this .csv, .jsonl or .parquet (default: show the first {SHOWN})",
    )
    parser.add_argument("--rank", type=int, help="a rank that the run trained (default: the largest, r)")
    parser.add_argument("--depth", type=int, help="an exit that the run trained (default: all layers)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows of a batch (default: as the run measured)")
    parser.add_argument("--new-tokens", type=int, metavar="N", help="longest answer (default: the task's)")
    parser.add_argument("--encoding", help="the encoding of a text file (default: the run's task.encoding)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that came with an export's model")
    asked = parser.parse_args(words)
    speak()
    try:
        with obeyed():
            print("\n".join(predict(asked)))
    except (KeyboardInterrupt, Stopped) as stop:
        print("rankbench: stopped; nothing is written" if asked.to else "rankbench: stopped", file=sys.stderr)
        sys.exit(stop.code if isinstance(stop, Stopped) else 130)


@dataclass(frozen=True)
class Data:
    """The files of rows, read in pieces, and what messages call them."""

    files: Sequence[Path]
    encoding: str

    @property
    def name(self) -> str:
        """The file, or the first and last of its shards."""
        return called(self.files)

    def __iter__(self) -> Iterator[tuple[Path, Piece]]:
        for file in self.files:
            try:
                yield from ((file, piece) for piece in pieces(file, self.encoding, PIECE))
            except RequestError as error:
                raise RequestError(str(error).replace("task.encoding=", "--encoding ")) from error


def predict(asked: argparse.Namespace) -> list[str]:
    """Do what the command line asks; returns what to say of it. Raises RequestError before anything is written."""
    found = opened(asked.run, asked.trust_remote_code)
    refuse_lacking(found, asked.rank, asked.depth)
    task = found.run.task
    data = Data(_files(task, asked.data, asked.split), asked.encoding or task.encoding)
    from rankbench.shipping import rows_file

    to = None if asked.to is None else rows_file.place(asked.to, data.files)
    first = _first(task, data)
    predictor = _predictor(found, asked)
    if to is None:
        return _shown(predictor, data, first)
    layout, rows = _looked_through(predictor, data, to)
    cut, longest = _write(predictor, data, layout, rows, to), predictor.max_length
    if cut:
        log.warning(
            "%s of the %s are longer than %d tokens and were cut there, as in training",
            *((f"{cut:,}", "questions", task.max_query_length) if task.extracts else (f"{cut:,}", "texts", longest)),
        )
    further = list(layout.further)
    named = ", ".join(further) if len(further) <= SHOWN else f"{further[0]} and {len(further) - 1:,} columns score_NAME"
    return [f"{to}: {rows:,} rows of {data.name}, with {named}"]


def _files(task: Task, data: Path | None, split: str | None) -> list[Path]:
    """The files that are asked for. Raises RequestError."""
    if data is None:
        if split is None:
            raise RequestError("give --data FILE, or --split NAME for a split of the run's own data")
        source = locate("task", task)
        inside = f"{task.hub_config}/" if task.hub_config else ""
        data = fetch("task", task, source, [f"{inside}{split}-*.parquet"])
        data = data / inside if source.kind == "hub" else data
    data = expanded(data)
    if not data.exists():
        raise RequestError(f"--data {data} does not exist; correct the path")
    if data.is_file():
        if split is not None:
            raise RequestError(f"{data} is one file and has no splits; give it as --data, and leave out --split")
        return [data]
    names = splits_in(data)
    if split is None and len(names) != 1:
        raise RequestError(
            f"{data} is a folder; say which of its splits with --split ({', '.join(names) or 'none is there'})"
        )
    found = of_split(data, split or names[0])
    if not found:
        raise RequestError(f"{data} has no split {split}; give one of {', '.join(names) or 'another folder'}")
    return found


def _first(task: Task, data: Data) -> Piece:
    """The first rows, once they are seen to be what the task reads. Raises RequestError."""
    from rankbench.tasks.unlabelled import check_names, unlabelled

    piece = next((piece for _, piece in data if piece.rows), None)
    if piece is None:
        raise RequestError(f"{data.name} has no rows; there is nothing to predict")
    check_names(task, piece.names, data.name)
    unlabelled(task, piece.names, piece.rows, data.name)
    return piece


def _predictor(found: Finished, asked: argparse.Namespace) -> Predictor:
    from rankbench.shipping.loading import loaded
    from rankbench.shipping.predictor import Predictor

    model = loaded(found, asked.rank, asked.depth)
    return Predictor(model, model.told, asked.batch_size, asked.new_tokens)


def _looked_through(predictor: Predictor, data: Data, to: Path) -> tuple[Layout, int]:
    """All columns and the number of rows, once each row is seen to be one that can be answered. Raises RequestError."""
    from rankbench.shipping import rows_file
    from rankbench.tasks.unlabelled import unlabelled

    columns: dict[Path, dict[str, None]] = {file: {} for file in data.files}
    rows, schema = 0, None
    for file, piece in data:
        columns[file].update(dict.fromkeys(piece.names))
        if to.suffix.lower() != ".csv" and (twice := [name for name in piece.names if piece.names.count(name) > 1]):
            raise RequestError(f"{file.name} has two columns '{twice[0]}'; rename one, or write .csv")
        predictor.check(unlabelled(predictor.task, piece.names, piece.rows, data.name, rows))
        rows += len(piece.rows)
        if to.suffix.lower() == ".parquet":
            schema = rows_file.types_of(piece, schema, file.suffix.lower() in TEXTS)
        names = piece.names if file.suffix.lower() in TEXTS else list(columns[file])
    first, *others = data.files
    if unlike := [file for file in others if columns[file] != columns[first]]:
        raise RequestError(f"{unlike[0].name} has other columns than {first.name}; these shards are not of one split")
    return rows_file.Layout(names, schema, _further(predictor, names)), rows


def _further(predictor: Predictor, names: Sequence[str]) -> dict[str, str]:
    """The columns of predictions and their kinds; all are numbered where the file has one of their names."""
    further = predictor.columns
    taken = sorted(set(further) & set(names))
    if not taken:
        return further
    number = next(n for n in count(2) if not {f"{name}_{n}" for name in further} & set(names))
    log.warning("the data have a column '%s' already: what is predicted has names that end in _%d", taken[0], number)
    return {f"{name}_{number}": kind for name, kind in further.items()}


def _columns(
    predictor: Predictor, data: Data, piece: Piece, first: int, done: Callable[[float], None]
) -> tuple[list[list[Any]], int]:
    """The columns of predictions for a piece, whose first row is row `first`, and how many texts were cut."""
    from rankbench.tasks.unlabelled import unlabelled

    encoded = predictor.encode(unlabelled(predictor.task, piece.names, piece.rows, data.name, first))
    return list(predictor(encoded, done).values()), encoded.cut


def _write(predictor: Predictor, data: Data, layout: Layout, rows: int, to: Path) -> int:
    """Predict and write every row, saying how far it is; returns how many texts were cut."""
    from rankbench.shipping import rows_file

    progress = _Progress(rows)
    read = cut = 0
    with contextlib.closing(progress), rows_file.new_file(to, layout) as add:
        for _, piece in data:
            if not piece.rows:
                continue
            further, long = _columns(predictor, data, piece, read, progress.more)
            add(piece, further)
            read, cut = read + len(piece.rows), cut + long
        if read != rows:
            raise RequestError(f"{data.name} has changed while it was read; predict it again")
    return cut


class _Progress(Progress):
    """Rows rather than steps."""

    def more(self, rows: float) -> None:
        """So many rows more are answered."""
        self.rows = getattr(self, "rows", 0) + round(rows)
        rate = self.rows / max(1e-9, time.monotonic() - self.began)
        pace = f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
        left = clock((self.steps - self.rows) / max(1e-9, rate))
        self.tell(f"{self.rows:,}/{self.steps:,} rows  {pace} rows/s  {left} left", self.rows == self.steps)


def _shown(predictor: Predictor, data: Data, piece: Piece) -> list[str]:
    """The first rows as a table, and how to have all of them."""
    from rankbench.shipping.rows_file import rows_of
    from rankbench.tables.layout import as_text, frame
    from rankbench.tasks.unlabelled import columns_read

    task = predictor.task
    some = Piece(piece.names, piece.rows[:SHOWN])
    (said, *scores), _ = _columns(predictor, data, some, 0, lambda rows: None)
    names = [*columns_read(task), *([task.label_column] if task.kind != "causal_lm" else [])]
    names = [name for name in names if name in piece.names]
    rows = {}
    for place, (row, answer) in enumerate(zip(rows_of(some, names), said, strict=True)):
        best = predictor.classes.index(answer) if predictor.classes else 0
        sure = [f"{scores[best][place]:.3f}"] if scores else []
        rows[str(place)] = [*map(_brief, row), f"{answer:.4g}" if isinstance(answer, float) else _brief(answer), *sure]
    table = as_text(frame(rows, [*names, "prediction", *(["score"] if scores else [])], "row"), "md")
    return [table, f"The first {len(rows)} rows of {data.name}; --to OUT.csv writes all, with every column."]


def _brief(value: Any) -> str:
    """A cell of the table that is shown."""
    text = on_one_line("" if value is None else str(value))
    return text if len(text) <= WIDE else text[: WIDE - 3] + "..."
