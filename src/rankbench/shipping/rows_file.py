"""A file of rows as they came with further columns after theirs: CSV, JSON lines or parquet, whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.system.files import expanded, flush
from rankbench.tasks.reading import Piece

FORMS = (".csv", ".jsonl", ".parquet")
Add = Callable[[Piece, list[list[Any]]], None]  # rows, and the further columns of them


@dataclass(frozen=True)
class Layout:
    """The columns of the rows, their types where parquet is asked for, and the further ones with their kinds.

    A kind is `text` or `number`.
    """

    names: list[str]
    schema: Any
    further: dict[str, str]


def place(to: Path, sources: Sequence[Path]) -> Path:
    """The file that --to names. Raises RequestError where it cannot be written, or is one that is read."""
    file = expanded(to)
    if file.suffix.lower() not in FORMS:
        raise RequestError(f"--to {to} says no form by its ending; end it in {', '.join(FORMS)}")
    if file.is_dir():
        raise RequestError(f"--to {to} is a folder; choose a file")
    if file.exists() and any(source.exists() and file.samefile(source) for source in sources):
        raise RequestError(f"--to {to} is the data that is read; choose another file")
    folder = file.absolute().parent
    if not folder.is_dir():
        raise RequestError(f"--to {to} cannot be written ({folder} is no folder); choose another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"--to {to} cannot be written ({folder} is closed to you); choose another file")
    return file


@contextlib.contextmanager
def new_file(file: Path, layout: Layout) -> Iterator[Add]:
    """Rows are added to a file beside `file`, which takes its name when all are there; else it goes away.

    Raises RequestError where a value does not go into the form, or the disk is full.
    """
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    write = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}[file.suffix.lower()]
    try:
        with write(aside, layout) as add:
            yield add
        flush(aside)
        os.replace(aside, file)
        flush(file.absolute().parent)
    except OSError as error:
        raise RequestError(f"--to {file} cannot be written ({error.strerror or error}); choose another file") from error
    except (TypeError, ValueError) as error:  # those of pyarrow are among them
        cause = str(error).splitlines()[0]
        others = " or ".join(form for form in FORMS if form != file.suffix.lower())
        raise RequestError(f"--to {file} cannot hold these rows ({cause}); write {others}") from error
    finally:
        aside.unlink(missing_ok=True)


def rows_of(piece: Piece, names: list[str]) -> list[Any]:
    """The rows by these columns; None where a piece has one of them not."""
    if piece.names == names:
        return piece.rows
    where = {name: place for place, name in enumerate(piece.names)}
    places = [where.get(name) for name in names]
    return [[None if place is None else row[place] for place in places] for row in piece.rows]


@contextlib.contextmanager
def _csv(aside: Path, layout: Layout) -> Iterator[Add]:
    with open(aside, "w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream, lineterminator="\n")
        out.writerow([*layout.names, *layout.further])

        def add(piece: Piece, further: list[list[Any]]) -> None:
            for row, *more in zip(rows_of(piece, layout.names), *further, strict=True):
                out.writerow(map(_cell, (*row, *more)))

        yield add


@contextlib.contextmanager
def _json_lines(aside: Path, layout: Layout) -> Iterator[Add]:
    with open(aside, "w", encoding="utf-8") as stream:
        names = [*layout.names, *layout.further]

        def add(piece: Piece, further: list[list[Any]]) -> None:
            for row, *more in zip(rows_of(piece, layout.names), *further, strict=True):
                record = dict(zip(names, (*row, *more), strict=True))
                stream.write(json.dumps(record, ensure_ascii=False, default=_plain) + "\n")

        yield add


@contextlib.contextmanager
def _parquet(aside: Path, layout: Layout) -> Iterator[Add]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {name: pa.float32() if kind == "number" else pa.string() for name, kind in layout.further.items()}
    schema = layout.schema
    for name, kind in types.items():
        schema = schema.append(pa.field(name, kind))
    with pq.ParquetWriter(aside, schema) as out:

        def add(piece: Piece, further: list[list[Any]]) -> None:
            if piece.stored is not None:
                columns = [column.cast(f.type) for column, f in zip(piece.stored.columns, layout.schema, strict=True)]
            else:
                rows = rows_of(piece, layout.names)
                columns = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(layout.schema)]
            columns += [pa.array(values, kind) for values, kind in zip(further, types.values(), strict=True)]
            out.write_table(pa.table(columns, schema=schema))

        yield add


def types_of(piece: Piece, before: Any, texts: bool) -> Any:
    """The types of the columns in parquet, as stored, or as far as values say them; `before` are those of other pieces.

    With `texts` all are texts. Raises RequestError where a column's values are of several types.
    """
    import pyarrow as pa

    if piece.stored is not None:
        own = piece.stored.schema
    elif texts:
        own = pa.schema([(name, pa.string()) for name in piece.names])
    else:
        own = pa.schema([(name, _type(name, [row[i] for row in piece.rows])) for i, name in enumerate(piece.names)])
    try:
        return own if before is None else pa.unify_schemas([before, own], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RequestError(f"the columns hold values of several types ({error}); write .jsonl instead") from error


def _type(name: str, values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RequestError(f"column '{name}' holds values of several types ({error}); write .jsonl instead") from error


def _cell(value: Any) -> str:
    """A value as CSV has it: lists and objects as JSON, nothing for what is not there."""
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return "" if value is None else value if isinstance(value, str) else str(_plain(value))


def _plain(value: Any) -> Any:
    """What JSON has no form for, as text."""
    if isinstance(value, date | time | Decimal):
        return str(value)
    if isinstance(value, bytes):
        raise TypeError("a column holds bytes, which are no text")
    return value if isinstance(value, bool | int | float) else str(value)
