"""A task's data: read the splits and refuse what would train on the wrong thing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.sources import Source, fetch, locate
from rankbench.settings.task import Task
from rankbench.system.files import sha256
from rankbench.system.memo import Last
from rankbench.system.seeds import generator
from rankbench.tasks.reading import read, split_files

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Split:
    """Labelled texts: `texts` one or two columns of n strings, `labels` (n,), `index` the row in the file (n,).

    For a causal_lm task `texts` are the prompts and the responses, `references` the accepted answers of each row, and
    `labels` are empty.
    """

    name: str
    texts: tuple[list[str], ...]
    labels: np.ndarray
    index: np.ndarray
    references: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Data:
    """A task's splits, with what its record says of their origin."""

    train: Split
    validation: tuple[Split, ...]
    label_names: tuple[str, ...] | None
    origin: dict[str, Any]
    kind: str = "classification"

    @property
    def num_labels(self) -> int | None:
        """Outputs of the head: one for a regression; None for a language model under its own head."""
        if self.kind == "causal_lm":
            return None
        return len(self.label_names) if self.label_names else 1


_last: Last[Data] = Last()


def load(task: Task) -> Data:
    """Read and check every split of the task. Raises RequestError for anything that would train on wrong data.

    What was read last is given again while the task and the content of its files are the same: do not change it.
    """
    source = locate("task", task)
    names = [task.train_split] if task.validation_fraction else [task.train_split, *task.validation_splits]
    inside = f"{task.hub_config}/" if task.hub_config else ""
    patterns = [f"{inside}{name}-*.parquet" for name in names]
    root = fetch("task", task, source, patterns)
    files = split_files(task, root / inside if source.kind == "hub" else root)
    try:
        sums = {file: sha256(file) for file in files.values()}
    except OSError as error:
        raise RequestError(f"{error.filename} cannot be read: {error.strerror}") from error
    return _last.of(repr((task, source, files, sums)), lambda: _load(task, source, files, sums))


def _load(task: Task, source: Source, files: dict[str, Path], sums: dict[Path, str]) -> Data:
    frames = {name: read(file, task.encoding, as_text=task.kind == "causal_lm") for name, file in files.items()}
    for name, frame in frames.items():
        _check_columns(frame, task, files[name])
    if len(frames) == 1:
        frames = _hold_out(frames[task.train_split], task)
    file_of = {name: files.get(name, files[task.train_split]) for name in frames}
    label_names = _label_names(frames[task.train_split], task) if task.kind == "classification" else None
    splits = {}
    for name, frame in frames.items():
        limit = task.max_train_examples if name == task.train_split else task.max_eval_examples
        if limit is not None and limit < len(frame):
            # Fixed, not seeded: every seed and every method sees the same examples.
            rows = np.sort(generator(0, f"subset/{name}").permutation(len(frame))[:limit])
            frame = frame.iloc[rows]
        if task.kind == "causal_lm":
            splits[name] = _responses(name, frame, task, file_of[name])
        else:
            splits[name] = _split(name, frame, task, label_names, file_of[name])
    origin = {
        "source": source.kind,
        "location": task.package if source.kind == "package" else source.hub or task.data_dir,
        "revision": source.revision,
        "label_names": label_names,
        "splits": {
            name: {"file": file_of[name].name, "sha256": sums[file_of[name]], "rows": len(split)}
            for name, split in splits.items()
        },
    }
    return Data(
        train=splits[task.train_split],
        validation=tuple(splits[name] for name in task.validation_splits),
        label_names=tuple(label_names) if label_names else None,
        origin=origin,
        kind=task.kind,
    )


def _hold_out(frame: pd.DataFrame, task: Task) -> dict[str, pd.DataFrame]:
    """Validation by a hash of the text: the same rows whatever the seed, and equal texts on one side."""
    import pandas as pd

    if len(task.validation_splits) > 1:
        raise RequestError("task.validation_fraction holds out one split; name one in task.validation_splits")
    columns = _named(*(task.prompts or []), task.response) if task.kind == "causal_lm" else task.text_columns
    texts = frame[columns].astype(str).agg("\x1f".join, axis=1)
    draws = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") / 2**64 for text in texts]
    held = pd.Series(draws, index=frame.index) < task.validation_fraction
    if held.all() or not held.any():
        raise RequestError(
            f"task.validation_fraction={task.validation_fraction} of {len(frame)} rows leaves nothing to "
            f"{'train on' if held.all() else 'score'}; change it"
        )
    return {task.train_split: frame[~held], task.validation_splits[0]: frame[held]}


def _check_columns(frame: pd.DataFrame, task: Task, file: Path) -> None:
    import pandas as pd

    if frame.empty:
        raise RequestError(f"{file.name} has no rows; a split needs at least one")
    if task.kind == "causal_lm":
        for key, templates in (("task.prompts", task.prompts or []), ("task.response", [task.response])):
            for column in _named(*templates):
                if column not in frame.columns:
                    raise RequestError(_lacks(file, column, frame, key))
        return
    named = [("task.text_columns", column) for column in task.text_columns]
    for key, column in [*named, ("task.label_column", task.label_column)]:
        if column not in frame.columns:
            raise RequestError(_lacks(file, column, frame, key))
    for column in task.text_columns:
        if pd.api.types.is_numeric_dtype(frame[column]):
            raise RequestError(f"{file.name}: column '{column}' holds numbers, not text; set task.text_columns")
        wrong = ~frame[column].map(lambda value: isinstance(value, str)).astype(bool)
        if wrong.any():
            row = int(np.argmax(wrong.to_numpy()))
            raise RequestError(
                f"{file.name} row {row}: '{column}' is {frame[column].iloc[row]!r}, not text; correct the row"
            )


def _lacks(file: Path, column: str, frame: pd.DataFrame, key: str) -> str:
    return f"{file.name} has no column '{column}' (it has {', '.join(map(str, frame.columns))}); set {key}"


def _named(*templates: str) -> list[str]:
    """The columns that templates name, each once."""
    fields = [name for template in templates for _, name, _, _ in Formatter().parse(template) if name]
    return list(dict.fromkeys(fields))


def _responses(name: str, frame: pd.DataFrame, task: Task, file: Path) -> Split:
    """Prompts and responses from the templates; the accepted answers are the response and its aliases."""
    templates = [(template, _named(template)) for template in task.prompts or []]
    prompts, responses, references = [], [], []
    for row, values in zip(frame.index, frame.to_dict("records"), strict=True):
        filled = {str(key): text for key, value in values.items() if (text := _text(value)) is not None}
        fitting = [template for template, columns in templates if all(filled.get(c, "").strip() for c in columns)]
        if not fitting:
            lacking = ", ".join(c for c in templates[-1][1] if not filled.get(c, "").strip())
            raise RequestError(f"{file.name} row {row}: {lacking} is empty, so no template of task.prompts fits")
        wrong = [column for column in _named(task.response) if column not in filled]
        if wrong:
            raise RequestError(f"{file.name} row {row}: '{wrong[0]}' holds {values[wrong[0]]!r}, not text; correct it")
        prompts.append(fitting[0].format(**filled))
        responses.append(task.response.format(**filled))
        references.append((responses[-1].strip(), *_aliases(values, task, file, row)))
    texts = (prompts, responses)
    return Split(name, texts, np.zeros(0, np.int64), frame.index.to_numpy(), tuple(references))


def _aliases(values: Mapping[Hashable, Any], task: Task, file: Path, row: Any) -> list[str]:
    if task.aliases_column is None:
        return []
    aliases = values.get(task.aliases_column)
    if isinstance(aliases, np.ndarray):
        aliases = aliases.tolist()
    elif isinstance(aliases, str) and aliases.lstrip().startswith("["):  # a list as CSV can hold one
        with contextlib.suppress(ValueError):
            aliases = json.loads(aliases)
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise RequestError(
            f"{file.name} row {row}: '{task.aliases_column}' is {aliases!r}, not a list of texts; correct the row, or "
            "set task.aliases_column=null"
        )
    return aliases


def _text(value: Any) -> str | None:
    """A cell as text; None for what is neither text nor a number."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return str(value)


def _label_names(frame: pd.DataFrame, task: Task) -> list[str]:
    import pandas as pd

    if task.label_names is not None:
        return list(task.label_names)
    labels = frame[task.label_column].dropna()
    if pd.api.types.is_bool_dtype(labels.infer_objects()):
        names = ["False", "True"]
    elif pd.api.types.is_numeric_dtype(labels):
        if (labels != np.floor(labels)).any():
            raise RequestError(
                f"column '{task.label_column}' holds fractions; for a regression give task.regression=true "
                "task.metrics=[pearson,spearman]"
            )
        names = [str(i) for i in range(int(labels.max()) + 1)]
    else:
        names = sorted(map(str, labels.unique()))
    if not 2 <= len(names) <= 1000:
        raise RequestError(f"column '{task.label_column}' has {len(names)} classes; a classification needs 2 to 1000")
    return names


def _split(name: str, frame: pd.DataFrame, task: Task, label_names: list[str] | None, file: Path) -> Split:
    import pandas as pd

    column = frame[task.label_column]
    if label_names is None:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        bad = ~np.isfinite(numbers)
        labels = np.where(bad, 0, numbers).astype(np.float32)
    else:
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            numbers = column.to_numpy(dtype=np.float64)
        else:
            places = {label: i for i, label in enumerate(label_names)}
            numbers = column.map(lambda value: places.get(str(value), -1)).to_numpy(dtype=np.float64)
        bad = ~((numbers >= 0) & (numbers < len(label_names)) & (numbers == np.floor(numbers)))
        labels = np.where(bad, 0, numbers).astype(np.int64)
    if bad.any():
        row = int(np.argmax(bad))
        value = column.iloc[row]
        value = value.item() if isinstance(value, np.generic) else value
        expected = "a number" if label_names is None else f"0..{len(label_names) - 1} or {', '.join(label_names[:8])}"
        hint = " (test splits of GLUE have no labels: score validation)" if value == -1 else ""
        raise RequestError(
            f"{file.name} row {frame.index[row]}: label {value!r} is not {expected}{hint}; correct the row"
        )
    texts = tuple(frame[c].tolist() for c in task.text_columns)
    return Split(name, texts, labels, frame.index.to_numpy())
