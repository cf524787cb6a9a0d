"""What a run says of its data before it trains, and keeps in its record."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from rankbench.records.notes import nothing_said
from rankbench.system.markup import on_one_line
from rankbench.tasks.data import Data
from rankbench.tasks.encoding import IGNORED, Encoded
from rankbench.tasks.labels import NOT_CLASSES, alike
from rankbench.tasks.splits import Split

log = logging.getLogger("rankbench")

SHOWN = 8  # classes on a line
CUT = 0.05  # a larger share of cut texts is warned of


def tell(
    data: Data, encoded: Sequence[Encoded], limit: int, ends: Mapping[int, str] | None = None
) -> dict[str, dict[str, int]]:
    """Log rows and labels of each split, and warn of what would mislead; returns the counts by split.

    `encoded` are the training split, those to score and those for the end, in order, cut at `limit` tokens. The counts:
    `cut` texts, `windows` of contexts, and for a split to score those `in_train`, which stand in the training split
    too; for a test split those `in_validation` too. `ends` are the tokens that end a response.
    """
    splits = (data.train, *data.validation, *data.test)
    width = max(len(split.name) for split in splits)
    found: dict[str, dict[str, int]] = {}
    key = "task.max_length"
    for split, rows in zip(splits, encoded, strict=True):
        log.info("%s  %s", split.name.ljust(width), _questions(split, rows) if rows.windows else _contents(split, data))
        found[split.name] = {"cut": rows.cut, **({"windows": len(rows.inputs)} if rows.windows else {})}
        if rows.cut > CUT * len(split):
            log.warning(
                "%s: %s of %s %s (%.0f %%) are cut at %d tokens; raise %s if the model reads more",
                *(split.name, f"{rows.cut:,}", f"{len(split):,}", "questions" if rows.windows else "texts"),
                100 * rows.cut / len(split),
                *((rows.windows.task.max_query_length, "task.max_query_length") if rows.windows else (limit, key)),
            )
        _warn_of_ends(rows, ends or {})
        if split is not data.train:
            found[split.name]["in_train"] = _again(split, (data.train,), data, "what was seen, not what was learnt")
            if split.name in {test.name for test in data.test}:
                both = _again(split, data.validation, data, "what was chosen by, not what the choice is worth")
                found[split.name] |= {"in_validation": both} if both else {}
            _warn_of_classes(split, data)
    if data.class_weights is not None:
        weights = data.origin["class_weights"]
        shown = on_one_line(", ".join(f"{name} {weight:.3g}" for name, weight in list(weights.items())[:SHOWN]))
        more = f", and {len(weights) - SHOWN} classes more" if len(weights) > SHOWN else ""
        log.info("class weights of the training loss, not of the scores: %s%s", shown, more)
    if data.unlike:
        log.warning("%s: nearly a class for each; %s", data.unlike, NOT_CLASSES)
    for twins in alike(data.label_names or ()):
        log.warning(
            "%s are classes of their own, each for itself; write labels that mean one class alike",
            on_one_line(" and ".join(map(repr, twins))),
        )
    for _, line in nothing_said(data.origin):
        log.warning("%s", line)
    if data.kind == "regression" and np.ptp(data.train.labels) == 0:
        log.warning("%s: every label is %g, so there is nothing to learn", data.train.name, data.train.labels[0])
    return found


def _again(split: Split, others: Sequence[Split], data: Data, told: str) -> int:
    """How many texts stand in these splits too, which is warned of."""
    seen = {text for other in others for text in _texts(other, data)}
    again = sum(text in seen for text in _texts(split, data))
    if again:
        log.warning(
            "%s: %s of %s texts also stand in %s; their scores tell %s",
            *(split.name, f"{again:,}", f"{len(split):,}", ", ".join(other.name for other in others), told),
        )
    return again


def _texts(split: Split, data: Data) -> list[Any]:
    """What a row is told from others by: its text or texts; a language model's prompt."""
    return split.texts[0] if data.kind == "causal_lm" else list(zip(*split.texts, strict=True))


def _contents(split: Split, data: Data) -> str:
    rows = f"{len(split):,} rows"
    if data.kind == "causal_lm":
        empty = sum(not text.strip() for text in split.texts[1])
        accepted = data.origin["splits"][split.name].get("references")
        rows += "" if accepted in (None, len(split)) else f" with {accepted:,} accepted texts"
        return f"{rows}, {empty:,} with an empty response" if empty else rows
    if data.label_names is None:
        return f"{rows}: scores {split.labels.min():g} to {split.labels.max():g}, mean {split.labels.mean():.3g}"
    counts = data.origin["splits"][split.name]["labels"]
    shown = on_one_line(", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN]))
    more = f", and {len(counts) - SHOWN} classes more" if len(counts) > SHOWN else ""
    return f"{rows}: {shown}{more}"


def _questions(split: Split, rows: Encoded) -> str:
    """Questions, those without an answer, and how many windows hold none."""
    unanswered = sum(not own for own in split.references)
    windows = rows.inputs
    without = int((windows.labels == 0).all(1).sum())
    told = f", {unanswered:,} without an answer" if unanswered else ""
    return f"{len(split):,} questions{told}, in {len(windows):,} windows, {without:,} of them without one"


def _warn_of_ends(rows: Encoded, ends: Mapping[int, str]) -> None:
    """Say which responses hold a mark that ends a response before they end."""
    if not ends:
        return
    inside = [
        {token for token, after in pairwise(labels) if token in ends and after != IGNORED}
        for labels in rows.features["labels"]
    ]
    if found := set().union(*inside):
        log.warning(
            "%s: %s of %s responses hold an end mark (%s); generation stops there, so they can never be matched; "
            "take it out of the data",
            *(rows.name, f"{sum(map(bool, inside)):,}", f"{len(rows):,}", ", ".join(sorted(ends[i] for i in found))),
        )


def _warn_of_classes(split: Split, data: Data) -> None:
    """Say which classes a split to score lacks, though they are trained on, and the other way round."""
    if data.label_names is None:
        return
    trained, scored = (data.origin["splits"][one.name]["labels"] for one in (data.train, split))
    lacking = [name for name, count in trained.items() if count and not scored[name]]
    if lacking:
        log.warning("%s has no row of class %s, which the scores then do not tell of", split.name, _some(lacking))
    untaught = [name for name, count in scored.items() if count and not trained[name]]
    if untaught:
        log.warning(
            "%s has no row of class %s, which %s has: nothing can learn it",
            *(data.train.name, _some(untaught), split.name),
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return on_one_line(", ".join(names[:SHOWN])) + more
