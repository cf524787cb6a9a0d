"""A task's files: which belong to its splits, and their rows as they are written."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.settings.task import Task
from rankbench.tasks import official_squad

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
_SHARD = re.compile(r"-(\d+)-of-(\d+)(?:-\w+)?$")


def split_files(task: Task, root: Path) -> dict[str, list[Path]]:
    """The files of each split under `root` in order, or the one file that it is. Raises RequestError for a lack."""
    shares = dict.fromkeys(task.validation_splits, task.validation_fraction)
    shares |= dict.fromkeys(task.test_splits, task.test_fraction)
    if root.is_file():
        for name, share in shares.items():
            key, what = held_by(task, name), "a part to score" if name in task.validation_splits else f"{name} too"
            if not share:
                raise RequestError(f"{root.name} is one file; set {key}=0.1 to hold out {what}")
        return {task.train_split: [root]}
    files = {}
    for name in (task.train_split, *shares):
        found = of_split(root, name)
        if found:
            files[name] = found
        elif not shares.get(name):
            have = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
            key = next(k for k in ("train_split", "validation_splits", "test_splits") if name in getattr(task, k))
            other = f", or hold out a part with {held_by(task, name)}=0.1" if name in shares else ""
            sheets = [p.name for p in root.glob(f"{name}*") if _ending(p) in SHEETS]
            mend = f"save {sheets[0]} as .csv" if sheets else f"add it or change task.{key}{other}"
            raise RequestError(f"{root} has no {name}.jsonl, .csv, .tsv or .parquet (it holds {have}); {mend}")
    return files


def held_by(task: Task, split: str) -> str:
    """The setting that holds a split out of the training split."""
    return "task.test_fraction" if split in task.test_splits else "task.validation_fraction"


def splits_in(root: Path) -> list[str]:
    """The names of the splits that a folder may hold: those of its files, shards counted as one."""
    return sorted({_SHARD.sub("", p.stem) for p in root.iterdir() if _ending(p) in SUFFIXES and p.is_file()})


def of_split(root: Path, name: str) -> list[Path]:
    """The file of a split, or its shards `NAME-00000-of-00002.parquet` in order. Raises RequestError."""
    of = {suffix: [p for p in sorted(root.iterdir()) if _ending(p) == suffix and p.is_file()] for suffix in SUFFIXES}
    found = [p for files in of.values() for p in files if p.stem == name]
    found += [p for files in of.values() for p in files if p.stem.startswith(f"{name}-")]
    if len(found) < 2 and not (found and _SHARD.search(found[0].stem)):
        return found
    marks = [_SHARD.search(file.stem) for file in found]
    sizes = {int(mark[2]) for mark in marks if mark}
    places = [int(mark[1]) for mark in marks if mark]
    count = min(sizes, default=0)
    wanted = range(1, count + 1) if count in places else range(count)  # some number shards from 1
    one_set = None not in marks and len(sizes) == 1 and len({_ending(p) for p in found}) == 1
    if not one_set or len(set(places)) < len(places) or not set(places) <= set(wanted):
        raise RequestError(
            f"{root} has {', '.join(p.name for p in found)} for split {name}; keep one, or one set of shards"
        )
    lacking = sorted(set(wanted) - set(places))
    if lacking:
        raise RequestError(
            f"{root} lacks {', '.join(f'{i:05d}' for i in lacking[:8])} of the shards of split {name} "
            f"({found[0].name} says how many there are); add what is missing"
        )
    return [file for _, file in sorted(zip(places, found, strict=True))]


def _ending(file: Path) -> str:
    """The ending that says a file's form, in small letters."""
    return file.suffix.lower()


SEPARATORS = {";": "a semicolon", "\t": "a tab", "|": "a bar", ",": "a comma"}


def other_separator(file: str, line: str) -> str | None:
    """What to do about a header whose columns another separator parts than its file's ending says; None for none."""
    ending = Path(file.split(" ... ")[0]).suffix.lower()
    own = {".csv": ",", ".tsv": "\t"}.get(ending)
    other = next((mark for mark in SEPARATORS if mark in line and mark != own), None)
    if own is None or own in line or other is None:
        return None
    kept = {"\t": ", or call it .tsv", ",": ", or call it .csv"}.get(other, "")
    return f"its separator seems to be {SEPARATORS[other]}: save it with {'commas' if own == ',' else 'tabs'}{kept}"


def shown(names: Sequence[str]) -> str:
    """Names of columns in a message, in quotes where a space would hide where one ends."""
    return ", ".join(name if re.fullmatch(r"[^\s,']+", name) else f"'{name}'" for name in names)


def called(files: Sequence[Path]) -> str:
    """What messages and records call the files of a split."""
    return files[0].name if len(files) == 1 else f"{files[0].name} ... {files[-1].name}"


def read(files: Sequence[Path], encoding: str) -> pd.DataFrame:
    """A split's rows as they are written, numbered from 0 through all its files; every cell a Python value.

    Text files hold texts, and None for an empty field; JSON its own values; parquet what is stored: a whole number
    stays one beside a null, and a 32-bit 0.1 is 0.1. Raises RequestError that names the file, and the line.
    """
    import pandas as pd

    frames = []
    for file in files:
        (piece,) = pieces(file, encoding, None)
        frames.append(pd.DataFrame(piece.rows, columns=piece.names, dtype=object))
        if list(frames[-1].columns) != list(frames[0].columns):
            raise RequestError(f"{file.name} has other columns than {files[0].name}; these shards are not of one split")
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class Piece:
    """Rows of a file with the names of their columns, and as parquet stores them where it does."""

    names: list[str]
    rows: list[Any]
    stored: Any = None


def pieces(file: Path, encoding: str, size: int | None) -> Iterator[Piece]:
    """A file's rows as `read` has them, `size` at a time, or all together; one piece at least.

    So a file may be larger than memory; .json alone is read whole. A piece of JSON has the columns that its own rows
    have. Raises RequestError as `read` does.
    """
    encoding = _checked(file, encoding)
    try:
        if _ending(file) == ".parquet":
            yield from _parquet(file, size)
        elif _ending(file) in (".csv", ".tsv"):
            lines = _delimited(file, encoding)
            names = next(lines)
            yield from (Piece(names, rows) for rows in _parts(lines, size))
        else:
            objects = _json(file, encoding) if _ending(file) == ".json" else _json_lines(file, encoding)
            yield from map(_objects, _parts(objects, size))
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not {encoding} ({error.reason}); set task.encoding=latin-1, say") from error
    except (ValueError, OSError) as error:  # the parsing errors of json and pyarrow are ValueErrors
        raise RequestError(f"{file} cannot be read as {_ending(file)[1:]}: {str(error).splitlines()[0]}") from error


def _parts(rows: Iterable[Any], size: int | None) -> Iterator[list[Any]]:
    """The rows in lists of `size`, the last of those that are left; an empty one where there are no rows."""
    left = iter(rows)
    part = list(islice(left, size))
    yield part
    while size is not None and (part := list(islice(left, size))):
        yield part


def _checked(file: Path, encoding: str) -> str:
    """The encoding to read a text file in, its byte order mark left out. Raises RequestError for what is no data."""
    if _ending(file) in SHEETS:
        raise RequestError(f"{file.name} is a spreadsheet; save it as .csv")
    if _ending(file) not in SUFFIXES:
        raise RequestError(f"{file.name} is none of {', '.join(SUFFIXES)}; save it as one of these")
    try:
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise RequestError(f"task.encoding={encoding} is not an encoding; use utf-8 or latin-1, say") from error
    try:
        with open(file, "rb") as stream:
            begin = stream.read(64)
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror}") from error
    if begin.startswith(b"version https://git-lfs"):
        raise RequestError(f"{file} is a pointer of Git LFS, not the data; fetch the data with git lfs pull")
    if _ending(file) == ".parquet":
        return encoding
    wide = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if wide and not codec.startswith(("utf-16", "utf-32")):
        raise RequestError(f"{file} is written in UTF-16; set task.encoding=utf-16, or save it as UTF-8")
    return "utf-8-sig" if codec == "utf-8" else encoding


def _parquet(file: Path, size: int | None) -> Iterator[Piece]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        batches = [opened.read()] if size is None or not opened.metadata.num_rows else opened.iter_batches(size)
        for batch in batches:
            columns = map(_values, batch.columns)
            yield Piece(list(batch.schema.names), list(zip(*columns, strict=True)), batch)


def _values(column: Any) -> list[Any]:
    import numpy as np
    import pyarrow as pa

    values: list[Any] = column.to_pylist()
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        short = np.float32 if pa.types.is_float32(column.type) else np.float16
        values = [value if value is None else float(str(short(value))) for value in values]
    return values


def _delimited(file: Path, encoding: str) -> Iterator[list[Any]]:
    """The header, then rows as long: CSV with quotes, or TSV as GLUE writes it, where a quote is a character."""
    tabs = _ending(file) == ".tsv"
    how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    csv.field_size_limit(2**31 - 1)
    with open(file, encoding=encoding, newline="") as stream:
        lines = csv.reader(stream, **how)
        begin = 1
        try:
            names = next((row for row in lines if row), None)
            if names is None:
                raise RequestError(f"{file} has no header; its first line names the columns")
            yield names
            begin = lines.line_num + 1
            for row in lines:
                if len(row) != len(names) and row:
                    raise RequestError(_uneven(file, begin, len(row), names, tabs))
                if row:
                    yield [field or None for field in row]
                begin = lines.line_num + 1
        except csv.Error as error:
            raise RequestError(
                f"{file.name} line {begin}: {error}; write a quote inside a quoted field twice, and close the field"
            ) from error


def _uneven(file: Path, line: int, fields: int, names: list[str], tabs: bool) -> str:
    delimiter = "tab" if tabs else "comma"
    if tabs:
        mend = "a text in a .tsv holds no tab and no line break: save the data as .csv or .jsonl"
    elif fields > len(names):
        mend = "put a text that holds a comma in quotes, and take a delimiter off the ends of the rows"
    else:
        mend = "give it the missing fields, and put a text that holds a line break in quotes"
    if len(names) == 1:
        mend = other_separator(file.name, names[0]) or mend
    return (
        f"{file.name} line {line} has {fields} {delimiter}-separated field{'s' * (fields != 1)} where the header has "
        f"{len(names)} ({shown(names[:8])}); {mend}"
    )


def _json_lines(file: Path, encoding: str) -> Iterator[Any]:
    with open(file, encoding=encoding) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _parsed(file, number, line)


def _parsed(file: Path, number: int, line: str) -> Any:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RequestError(f"{file.name} line {number}, column {error.colno}: {error.msg}; correct the line") from error
    if not isinstance(row, dict):
        raise RequestError(f"{file.name} line {number} is no object; every line is one, {{...}}")
    _refuse_halves(row, line, f"{file.name} line {number}")
    return row


def _refuse_halves(found: Any, text: str, place: str) -> None:
    """JSON may escape half of a character, which no text file can hold and no tokenizer reads."""
    if "\\ud" in text.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"{place} has {error.object[error.start]!r}, half a character (a lone surrogate); correct the text"
            ) from error


def _json(file: Path, encoding: str) -> Any:
    """A list of objects, an object of columns, or, as some write them, lines of objects."""
    text = file.read_text(encoding=encoding)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _json_lines(file, encoding)
        raise RequestError(
            f"{file} cannot be read as json: line {error.lineno}, column {error.colno}: {error.msg}; correct it"
        ) from error
    _refuse_halves(found, text, file.name)
    if isinstance(found, dict):
        return _of_columns(file, found)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise RequestError(f"{file} is no list of objects; write [{{...}}, ...] or a .jsonl")
    return found


def _of_columns(file: Path, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of `{"column": [values]}`, or `{"column": {"row": value}}` as pandas writes it."""
    if (questions := official_squad.rows(found)) is not None:
        return questions
    inside = [name for name, value in found.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if inside:
        raise RequestError(f"{file} has its rows below '{inside[0]}'; save that list alone")
    columns = {name: list(v.values()) if isinstance(v, dict) else v for name, v in found.items()}
    if not all(isinstance(values, list) for values in columns.values()):
        return [found]  # a single row
    if len({len(values) for values in columns.values()}) > 1:
        raise RequestError(f"{file} has columns of several lengths; save it as a list of objects")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _objects(rows: list[dict[str, Any]]) -> Piece:
    """Columns in the order in which they first come; a key that a row lacks is None there."""
    names = list(dict.fromkeys(_keys(rows)))
    return Piece(names, [[row.get(name) for name in names] for row in rows])


def _keys(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield from row
