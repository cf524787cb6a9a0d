"""What must be said beside a record's scores for them to be read right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rankbench.settings.metrics import METRICS, base, of_positive, times, unit

RANK_0 = "rank 0"  # of a record's baselines, the backbone with the adapter switched off


def notes(record: dict[str, Any], metric: str | None = None) -> list[str]:
    """Sentences: which class metrics are of, which say nothing, which sub-models have one answer, and what that scores.

    Where one `metric` is shown, those that are of it, and which others there are on other splits.
    """
    found, data, subs = [], record.get("data") or {}, record.get("submodels") or []
    have = list(subs[0]["metrics"]) if subs else []
    shown = have if metric is None else [metric]
    positive = data.get("positive_label")
    known = list(dict.fromkeys(own for name in shown if (own := base(name))))
    classes = len(data.get("label_names") or ("0", "1"))
    if positive is not None and (of_one := [name for name in known if of_positive(name, classes)]):
        found.append(f"{', '.join(of_one)} {'is' if len(of_one) == 1 else 'are'} of the class {positive}.")
    if metric is not None and metric not in METRICS:
        others = [name for name in have if base(name) == base(metric) and name != metric]
        where = metric.removeprefix(f"{base(metric)}_")
        found += [f"{metric} is of {where} alone; the others: --metric {', '.join(others)}."] if others else []
    if metric is not None and (record.get("training") or {}).get("kept"):
        found.append(
            "The weights are the best of several on these examples (train.keep=best): on others they tend to be worse."
        )
    found += [line for name, line in nothing_said(data) if base(name) in {base(one) for one in shown}]
    for answer in dict.fromkeys(one for sub in subs if (one := one_answer(sub)) is not None):
        same = [sub for sub in subs if one_answer(sub) == answer]
        who = "Every sub-model" if len(same) == len(subs) > 1 else _who(same)
        found.append(f"{who} answers {answer} for every example{_blank(known)}.")
    return [*found, *constants(record, shown)]


def constants(record: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    """What answering every example alike scores."""
    return [line for name, line in _baselines(record, metrics) if name != RANK_0]


def without_adapter(record: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    """What the backbone scores with the adapter switched off."""
    return [line for name, line in _baselines(record, metrics) if name == RANK_0]


def _baselines(record: dict[str, Any], metrics: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for row in record.get("baselines") or []:
        name = str(row["baseline"])
        values = [f"{unit(key)} {read(key, row['metrics'][key])}" for key in metrics if key in row["metrics"]]
        told = f"{name} (the adapter off)" if name == RANK_0 else f"the {name}"
        found += [(name, f"Baseline: {told} has {', '.join(values)}.")] if values else []
    return found


def read(metric: str, value: float) -> str:
    """A value as people read the metric."""
    return f"{times(metric) * value:.{1 if times(metric) > 1 else 3}f}"


def _blank(known: list[str]) -> str:
    """What one answer for all makes of these metrics; probabilities may still tell examples apart."""
    blind = [name for name in known if not METRICS[name].of_scores]
    if len(blind) == len(known):
        return ", so its score is that of no model at all"
    return f", so its {' and '.join(blind)} {'is' if len(blind) == 1 else 'are'} of no model at all" if blind else ""


def how_it_ended(record: dict[str, Any]) -> list[str]:
    """Sentences: what it computed on where that changed, where it stopped early, and which weights it kept by what."""
    training, lines = record.get("training") or {}, []
    parts = [(one["from_step"], f"{one['precision']} on {one['device']}") for one in training.get("stretches") or []]
    changes = [part for i, part in enumerate(parts) if not i or part[1] != parts[i - 1][1]]
    if len(changes) > 1:
        steps = (f"from step {step:,} in {where}" for step, where in changes[1:])
        lines.append(f"Trained first in {changes[0][1]}, {', '.join(steps)}.")
    if stopped := training.get("stopped_early"):
        best, many = stopped["best"], stopped["patience"]
        lines.append(
            f"Stopped at step {stopped['step']:,}: {many} evaluation{'s' * (many > 1)} without a better one than that "
            f"of step {best['step']:,} ({_value(best)})."
        )
    if kept := training.get("kept"):
        line = f"Kept the weights of step {kept['step']:,} of {training['steps']:,}, the best by {_value(kept)}."
        if kept["value"] is None:
            line = f"Kept the last weights: no evaluation gave a finite {kept['by']}."
        lines.append(line)
    return lines


def _value(best: dict[str, Any]) -> str:
    """`accuracy of rank 4: 81.25`, in the units people read."""
    if best["value"] is None:
        return f"{best['by']}: never finite"
    factor = times(best["by"].split(",")[0].split(" ")[0])
    return f"{best['by']}: {factor * best['value']:.{2 if factor > 1 else 4}f}"


def nothing_said(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Each metric that is undefined over the labels of a split, by what a record says of its data, with a sentence."""
    return [
        (metric, f"{metric} is undefined on {split}, where {why}: its value says nothing.")
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
