"""What stands before a row's prompt: a header, and worked examples of the row's subject (few-shot prompts)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.settings.sources import fetch, locate
from rankbench.settings.task import Task
from rankbench.system.files import sha256
from rankbench.system.memo import Last
from rankbench.tasks.columns import check_columns, columns_of, filled, lacks, prompt_of, response_of, templates_of
from rankbench.tasks.reading import called, of_split, read

Examples = Mapping[str, tuple[str, ...]]  # the worked examples by the value of `task.shots_column`; of "" without one
_last: Last[Examples] = Last()


@dataclass(frozen=True)
class Lead:
    """What stands before a prompt: a header, and then worked examples with an empty line after each."""

    header: str = ""
    shots: tuple[str, ...] = ()

    def __call__(self, shots: int) -> str:
        """The header with the first so many of the examples."""
        return self.header + "".join(f"{shot}\n\n" for shot in self.shots[:shots])


@dataclass(frozen=True)
class Leads:
    """The lead of each row; as many examples stand in it as leave room for a response of `reserved` tokens."""

    rows: tuple[Lead, ...]
    reserved: int = 0

    def prompts(
        self, bare: Sequence[str], ids: Callable[[list[str]], list[list[int]]], most: int | None
    ) -> tuple[list[str], int]:
        """The whole prompts, and how many have fewer examples than they might.

        Prompt and response fit into `most` tokens, where there is such a limit and the prompt alone leaves room;
        examples go from the last, as in MMLU's own evaluation. `ids` gives the tokens of prompts.
        """
        counts = np.array([len(lead.shots) for lead in self.rows])
        texts = [lead(len(lead.shots)) + prompt for lead, prompt in zip(self.rows, bare, strict=True)]
        long = np.flatnonzero(counts)
        while most is not None and len(long):
            lengths = np.array([len(row) for row in ids([texts[row] for row in long.tolist()])])
            long = long[(lengths + self.reserved > most) & (counts[long] > 0)]
            counts[long] -= 1
            for row in long.tolist():
                texts[row] = self.rows[row](int(counts[row])) + bare[row]
        return texts, sum(int(count) < len(lead.shots) for lead, count in zip(self.rows, counts, strict=True))


def leads_of(task: Task, rows: Sequence[Mapping[Any, Any]], places: Sequence[str], examples: Examples | None) -> Leads:
    """The lead of each row, which is said by its cells and its place in a file.

    Without `examples` it is a header alone. Raises RequestError for a row of a value that has no examples.
    """
    header, columns = task.header, columns_of(task.header)
    found = []
    for values, place in zip(rows, places, strict=True):
        texts = filled(values)
        full = all(texts.get(column, "").strip() for column in columns)
        shots = () if examples is None else _of_row(task, values, place, examples)
        found.append(Lead(prompt_of([(header, columns)], texts, place) if header and full else "", shots))
    return Leads(tuple(found), task.max_new_tokens)


def examples_of(task: Task) -> Examples | None:
    """The worked examples of a task's rows; None where it wants none.

    Read from the task's data; kept while their files are the same. Raises RequestError.
    """
    if not task.shots:
        return None
    files = files_of(task)
    return _last.of(repr((task, files, sha256(*files))), lambda: _read(task, files))


def files_of(task: Task) -> list[Path]:
    """The files of the split of examples, none where the task wants none. Raises RequestError where there are none."""
    if not task.shots:
        return []
    source = locate("task", task)
    inside = f"{task.hub_config}/" if task.hub_config else ""
    root = fetch("task", task, source, [f"{inside}{task.shots_split}-*.parquet"])
    root = root / inside if source.kind == "hub" else root
    files = of_split(root, task.shots_split) if root.is_dir() else []
    if not files:
        raise RequestError(
            f"{root} has no {task.shots_split}.jsonl, .csv, .tsv or .parquet, which task.shots={task.shots} takes its "
            "examples from; add it, name another with task.shots_split, or give task.shots=0"
        )
    return files


def _read(task: Task, files: list[Path]) -> Examples:
    frame, file = read(files, task.encoding), called(files)
    check_columns(frame, task, file)
    if task.shots_column is not None and task.shots_column not in frame.columns:
        raise RequestError(lacks(file, task.shots_column, list(map(str, frame.columns)), "set task.shots_column"))
    found: dict[str, tuple[str, ...]] = {}
    templates = templates_of(task)
    for row, values in zip(frame.index, frame.to_dict("records"), strict=True):
        place = f"{file} row {row} (from 0)"
        texts = filled(values)
        key = _key(task, values)
        shot = prompt_of(templates, texts, place) + response_of(task, values, texts, place)
        found[key] = (*found.get(key, ()), shot)
    few = next((key for key, shots in found.items() if len(shots) < task.shots), None)
    if few is not None:
        whose = f" whose '{task.shots_column}' is {few!r}" if task.shots_column else ""
        raise RequestError(
            f"{file} has {len(found[few])} rows{whose}, fewer than task.shots={task.shots}; add some, or lower it"
        )
    return {key: shots[: task.shots] for key, shots in found.items()}


def _of_row(task: Task, values: Mapping[Any, Any], place: str, examples: Examples) -> tuple[str, ...]:
    key = _key(task, values)
    if key not in examples:
        raise RequestError(
            f"{place}: no row of {task.shots_split} has {key!r} in '{task.shots_column}', so there are no examples for "
            "it; add some there, or train with task.shots_column=null, the same ones everywhere"
        )
    return examples[key]


def _key(task: Task, values: Mapping[Any, Any]) -> str:
    return "" if task.shots_column is None else str(values.get(task.shots_column))
