"""A task's files: which belong to its splits, and their rows as they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.settings.task import Task

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def split_files(task: Task, root: Path) -> dict[str, Path]:
    """The file of each split under `root`, or the one file that it is. Raises RequestError where one is not there."""
    if root.is_file():
        if not task.validation_fraction:
            raise RequestError(f"{root.name} is one file; set task.validation_fraction=0.1 to hold out a part to score")
        return {task.train_split: root}
    files = {}
    for name in (task.train_split, *task.validation_splits):
        found = [p for s in SUFFIXES for p in (root / f"{name}{s}", *sorted(root.glob(f"{name}-*{s}"))) if p.is_file()]
        if len(found) > 1:
            raise RequestError(f"{root} has {', '.join(p.name for p in found)} for split {name}; keep one")
        if found:
            files[name] = found[0]
        elif name == task.train_split or not task.validation_fraction:
            have = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
            key = "task.train_split" if name == task.train_split else "task.validation_splits"
            other = "" if name == task.train_split else ", or hold out a part with task.validation_fraction=0.1"
            raise RequestError(
                f"{root} has no {name}.jsonl, .csv, .tsv or .parquet (it holds {have}); add it or change {key}{other}"
            )
    return files


def read(file: Path, encoding: str, as_text: bool) -> pd.DataFrame:
    """A split's table; `as_text` keeps what is written: pandas would make 3.0 of a 3 beside a blank, 7 of 007."""
    import pandas as pd

    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        if file.suffix == ".jsonl":
            with open(file, encoding=encoding) as lines:
                rows = [(i, json.loads(line)) for i, line in enumerate(lines, 1) if line.strip()]
            wrong = [i for i, row in rows if not isinstance(row, dict)]
            if wrong:
                raise ValueError(f"line {wrong[0]} is no object")
            return pd.DataFrame([row for _, row in rows], dtype=object if as_text else None)
        if file.suffix == ".json":
            return pd.DataFrame(json.loads(file.read_text(encoding=encoding)), dtype=object if as_text else None)
        how: dict[str, Any] = {"dtype": str} if as_text else {"na_values": [""]}
        if file.suffix == ".tsv":  # as GLUE writes it: a quote is a character
            how |= {"sep": "\t", "quoting": 3}
        frame: pd.DataFrame = pd.read_csv(file, encoding=encoding, keep_default_na=False, **how)
        return frame
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not {encoding} ({error.reason}); set task.encoding=latin-1, say") from error
    except LookupError as error:
        raise RequestError(f"task.encoding={encoding} is not an encoding; use utf-8 or latin-1, say") from error
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parsing errors are ValueErrors
        raise RequestError(f"{file} cannot be read as {file.suffix[1:]}: {str(error).splitlines()[0]}") from error
