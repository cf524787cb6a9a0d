"""How a classifier does by class: precision, recall and F1 of each, and which classes it takes for which."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rankbench.errors import RequestError
from rankbench.records import tested
from rankbench.records.record import Paths, records_by_folder
from rankbench.tables.layout import Block, frame
from rankbench.tables.shown import by, first_metric

MATRIX = 20  # classes, beyond which a matrix is read by nobody
OTHERS = {  # settings of a task that is no classification
    "regression": "regression",
    "prompts": "language model",
    "messages_column": "language model",
    "question_column": "task of answers in a context",
}
PAIRS = 20  # confused pairs that are shown in its stead

Counts = npt.NDArray[np.int_]


def classes(paths: Paths, rank: int | None = None, depth: int | None = None, cut: str | None = None) -> list[Block]:
    """The blocks of the one run in these places. Raises RequestError as `blocks` does, and for several runs."""
    places = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = records_by_folder(places)
    if len(found) != 1:
        raise RequestError(f"classes looks at one run, not {len(found)}; give the folder of one finished run")
    ((folder, record),) = found.items()
    return blocks(record, folder, rank, depth, cut)


def blocks(
    record: dict[str, Any], folder: Path, rank: int | None = None, depth: int | None = None, cut: str | None = None
) -> list[Block]:
    """Of each split that a run scored: a row for each class, and the confusion of classes, of one of its sub-models.

    That is the largest of those with this `rank` and `depth`, where they are given, and of those that came by `cut`. Of
    more than 20 classes the 20 most confused pairs stand for the matrix. Raises RequestError for a run that is not
    done, that is no classification or lacks such a sub-model, and where its predictions are missing or not its own.
    """
    task = record["config"]["task"]
    if record["status"] != "done" or not record["submodels"]:
        raise RequestError(f"{folder} is not done (status {record['status']}); run the same command again")
    for key, kind in OTHERS.items():
        if task.get(key):
            raise RequestError(f"{folder} is of a {kind}, which has no classes; ask for table curve")
    chosen = _chosen(record, folder, rank, depth, cut)
    rows = _predictions(folder / "predictions.parquet", record, chosen)
    found = []
    for split in dict.fromkeys(rows["split"]):
        own = rows[rows["split"] == split]
        names = _names(record, own)
        counts = np.zeros((len(names), len(names)), int)
        np.add.at(counts, (own["reference"].to_numpy(int), own["prediction"].to_numpy(int)), 1)
        place = f"{task['name']}, {record['config']['model']['name']}, {_words(chosen)}, {split}"
        found += _of_split(place, counts, names, record)
    return found


def _of_split(place: str, counts: Counts, names: list[str], record: dict[str, Any]) -> list[Block]:
    shown = by([record], first_metric(record))
    n, right = int(counts.sum()), int(np.trace(counts))
    each = Block(
        f"{place}, {n:,} examples: precision, recall and F1 x 100 of each class, and its examples (accuracy x 100: "
        f"{100 * right / n:.1f}).",
        _by_class(counts, names),
        shown,
    )
    if len(names) <= MATRIX:
        rows = {name: [str(count) for count in own] for name, own in zip(names, counts, strict=True)}
        told = f"{place}: how many examples of each class (rows) are taken for which (columns)."
        return [each, Block(told, frame(rows, names, "class"), shown)]
    wrong = counts * (1 - np.eye(len(names), dtype=int))
    pairs = f"{np.count_nonzero(wrong):,} pairs of classes of which one is taken for the other"
    told = f"{place}: the most frequent of {pairs}."
    return [each, Block(told, _pairs(wrong, counts.sum(1), names), shown)] if wrong.any() else [each]


def _by_class(counts: Counts, names: list[str]) -> pd.DataFrame:
    """A row for each class; "-" for the precision of one never predicted, and the recall of one without examples."""
    hits, made, true = np.diag(counts), counts.sum(0), counts.sum(1)

    def share(part: int, of: int) -> str:
        return f"{100 * part / of:.1f}" if of else "-"

    rows = {
        name: [share(hits[i], made[i]), share(hits[i], true[i]), share(2 * hits[i], made[i] + true[i]), f"{true[i]:,}"]
        for i, name in enumerate(names)
    }
    return frame(rows, ["precision", "recall", "F1", "support"], "class")


def _pairs(wrong: Counts, true: Counts, names: list[str]) -> pd.DataFrame:
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(PAIRS, np.count_nonzero(wrong))]
    rows = [
        (names[one], names[other], f"{wrong[one, other]:,}", f"{100 * wrong[one, other] / true[one]:.1f} %")
        for one, other in zip(*np.unravel_index(order, wrong.shape), strict=True)
    ]
    return pd.DataFrame(rows, columns=["class", "taken for", "examples", "of the class"]).set_index("class")


def _chosen(
    record: dict[str, Any], folder: Path, rank: int | None, depth: int | None, cut: str | None
) -> dict[str, Any]:
    """The largest sub-model of this rank, depth and cut. Raises RequestError for none."""
    every = [*record["submodels"], *(record.get("cuts") or ())]
    subs = sorted(every, key=lambda sub: (sub.get("cut") or "", sub["depth"] or 0, sub["rank"] or 0))
    fitting = [sub for sub in subs if rank in (None, sub["rank"]) and depth in (None, sub["depth"])]
    fitting = [sub for sub in fitting if sub.get("cut") == cut]
    if not fitting:
        given = {"rank": rank, "depth": depth, "cut": cut}
        asked = " ".join(f"--{key} {own}" for key, own in given.items() if own is not None)
        raise RequestError(f"{asked}: {folder} measured {', '.join(map(_words, subs))}; choose one of them")
    return fitting[-1]


def _words(sub: dict[str, Any]) -> str:
    named = " at ".join(f"{key} {sub[key]}" for key in ("rank", "depth") if sub[key] is not None) or "the whole model"
    return f"{named} cut by {sub['cut']}" if sub.get("cut") else named


def _predictions(file: Path, record: dict[str, Any], sub: dict[str, Any]) -> pd.DataFrame:
    """The rows of one sub-model on validation splits. Raises RequestError where the file is missing, or lacks them."""
    again = "copy it there from where the run was done, or run it again with fresh=true"
    if not file.exists():
        raise RequestError(f"{file.parent} lacks predictions.parquet, which tells classes apart; {again}")
    try:
        rows = tested.chosen_by(pd.read_parquet(file), record)
        for key in ("cut", "rank", "depth"):
            if key in rows or sub.get(key) is not None:  # a run without cuts has no column for them
                rows = rows[rows[key].isna() if sub.get(key) is None else rows[key] == sub[key]]
        if len(rows) < sub["n"]:
            raise ValueError(f"it has {len(rows)} rows of {_words(sub)}, which scored {sub['n']}")
        return rows[["split", "prediction", "reference"]]
    except (LookupError, ValueError, OSError) as error:
        raise RequestError(f"{file} is not of this run, or damaged ({error}); {again}") from error


def _names(record: dict[str, Any], rows: pd.DataFrame) -> list[str]:
    """The classes in the data's words; their numbers where an older record does not name them."""
    names = (record.get("data") or {}).get("label_names")
    most = int(rows[["prediction", "reference"]].to_numpy(int).max())
    return list(map(str, names)) if names and len(names) > most else list(map(str, range(most + 1)))
