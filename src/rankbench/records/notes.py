"""What must be said beside a record's scores for them to be read right."""

from __future__ import annotations

from typing import Any


def notes(record: dict[str, Any]) -> list[str]:
    """Sentences: which class F1 is of, which metrics say nothing, and which sub-models have one answer for all."""
    found = []
    positive = (record.get("data") or {}).get("positive_label")
    if positive is not None:
        found.append(f"f1 is of the class {positive}.")
    found += nothing_said(record.get("data") or {})
    subs = record.get("submodels") or []
    for answer in dict.fromkeys(one for sub in subs if (one := one_answer(sub)) is not None):
        same = [sub for sub in subs if one_answer(sub) == answer]
        who = "Every sub-model" if len(same) == len(subs) > 1 else _who(same)
        found.append(f"{who} answers {answer} for every example, so its score is that of no model at all.")
    return found


def nothing_said(data: dict[str, Any]) -> list[str]:
    """A sentence for each metric that is undefined over the labels of a split, by what a record says of its data."""
    return [
        f"{metric} is undefined on {split}, where {why}: its value says nothing."
        for split, reasons in (data.get("undefined") or {}).items()
        for metric, why in reasons.items()
    ]


def one_answer(sub: dict[str, Any]) -> str | None:
    """The class or the value that a sub-model answers for every example; None where it has several."""
    return sub.get("one_class", sub.get("one_value"))


def _who(subs: list[dict[str, Any]]) -> str:
    """`Rank 1`, `Ranks 1, 2`, `Depth 3`, `The model`."""
    keys = [key for key in ("rank", "depth") if any(sub.get(key) is not None for sub in subs)]
    if not keys:
        return "The model"
    if len(keys) == 2:
        return "Each of " + ", ".join(f"rank {sub['rank']} at depth {sub['depth']}" for sub in subs)
    places = [str(sub[keys[0]]) for sub in subs]
    return f"{keys[0].capitalize()} {places[0]}" if len(places) == 1 else f"Each of {keys[0]}s {', '.join(places)}"
