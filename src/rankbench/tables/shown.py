"""Which runs a table shows, by which metric, and what to say of those that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankbench.errors import RequestError
from rankbench.settings.metrics import base

Shown = Mapping[str, str]  # run id -> the metric that it is shown by


def first_metric(record: dict[str, Any]) -> str:
    """What a run is scored by unless another metric is asked for."""
    return str(next(iter(record["submodels"][0]["metrics"])))


def scored(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The done runs among these. Raises RequestError where there are none."""
    done = [record for record in records if record["status"] == "done" and record["submodels"]]
    if not done:
        raise RequestError("none of these runs is done, so there is nothing to compare yet")
    return done


def having(records: Sequence[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The done runs among these that have the metric. Raises RequestError where there are none."""
    done = scored(records)
    found = [record for record in done if metric in record["submodels"][0]["metrics"]]
    if not found:
        raise no_such(metric, list(dict.fromkeys(name for one in done for name in one["submodels"][0]["metrics"])))
    return found


def no_such(metric: str, have: Sequence[str], whose: str = "these runs have") -> RequestError:
    """The refusal of a metric, where those are there."""
    meant = [name for name in have if base(name) == metric]
    if meant:
        return RequestError(f"--metric {metric} was measured on several splits; say which: {', '.join(meant)}")
    return RequestError(f"--metric {metric}: {whose} {', '.join(have)}")


def by(records: Sequence[dict[str, Any]], metric: str) -> Shown:
    """All of these runs, shown by one metric."""
    return {record["run_id"]: metric for record in records}


def left_out(records: Sequence[dict[str, Any]], shown: Shown) -> list[str]:
    """A sentence for each reason why runs are in no table: not done, without the metric, of another method."""
    of = f"of {len(records)} runs"
    unfinished = [record for record in records if record["status"] != "done" or not record["submodels"]]
    done = [record for record in records if record not in unfinished and record["run_id"] not in shown]
    wanted: dict[str, set[str]] = {}
    for record in records:
        wanted.setdefault(record["config"]["task"]["name"], set()).update({shown.get(record["run_id"], "")} - {""})
    lacking = [r for r in done if not set(r["submodels"][0]["metrics"]) & wanted[r["config"]["task"]["name"]]]
    others = [record for record in done if record not in lacking]
    lines = []
    if unfinished:
        lines.append(f"Left out: {len(unfinished)} {of}, not done ({_names(unfinished, 'run_id')}).")
    if lacking:
        have = dict.fromkeys(name for record in lacking for name in record["submodels"][0]["metrics"])
        metrics = ", ".join(dict.fromkeys(shown.values()))
        lines.append(f"Left out: {len(lacking)} {of}, without {metrics}; --metric shows them by {', '.join(have)}.")
    if others:
        methods = ", ".join(dict.fromkeys(record["config"]["adapter"]["name"] for record in others))
        lines.append(f"Left out: {len(others)} {of}, which this table does not compare ({methods}).")
    return lines


def _names(records: Sequence[dict[str, Any]], key: str) -> str:
    return ", ".join(record[key] for record in records[:3]) + (", ..." if len(records) > 3 else "")
