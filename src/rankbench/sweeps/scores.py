"""What a sweep's runs score, in a few lines, and which of them to ship."""

from __future__ import annotations

import logging
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.records.record import load_records, of_task
from rankbench.settings.metrics import rises, times, unit
from rankbench.sweeps.status import WIDTH

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("rankbench")


def text(folders: Sequence[Path], runs_dir: Path) -> str:
    """The best sub-model of each method among these done runs, and which to ship; empty for no runs.

    What goes wrong with it is said in a line and costs nothing: the runs are done.
    """
    if not folders:
        return ""
    try:
        records = load_records(folders)
        return "\n".join(["", *_table(folders), *_answer(records, runs_dir)])
    except Exception as error:
        log.info("the scores of the sweep cannot be shown (%s); its runs are done", str(error).splitlines()[:1])
        return ""


def _table(folders: Sequence[Path]) -> list[str]:
    """A line for each method: its best rank or exit by the mean over seeds, and the score there."""
    from rankbench.tables.curve import curve_long

    long = curve_long(list(folders))
    metrics = list(dict.fromkeys(long["metric"]))
    best = [_best(rows, str(metric)) for (_, metric), rows in long.groupby(["label", "metric"], sort=False)]
    head = unit(metrics[0]) if len(metrics) == 1 else "score"
    cells = [("method", "best at", head), *((str(row["label"]), _place(row), _score(row)) for row in best)]
    places, scores = (max(len(line[column]) for line in cells) for column in (1, 2))
    room = min(max(len(line[0]) for line in cells), WIDTH - places - scores - 4)
    lines = []
    for name, place, score in cells:
        first, *others = textwrap.wrap(name, room)
        lines += [f"{first:<{room}}  {place:>{places}}  {score:>{scores}}", *(f"  {other}" for other in others)]
    return lines


def _best(rows: pd.DataFrame, metric: str) -> Any:
    return rows.iloc[int(rows["mean"].argmax() if rises(metric) else rows["mean"].argmin())]


def _place(row: Any) -> str:
    import pandas as pd

    named = " at ".join(f"{key} {int(row[key])}" for key in ("rank", "depth") if pd.notna(row[key]))
    return named or "whole"


def _score(row: Any) -> str:
    factor = times(row["metric"])
    digits = 1 if factor > 1 else 3
    spread = f" ± {factor * row['std']:.{digits}f}" if row["n"] > 1 else ""
    return f"{factor * row['mean']:.{digits}f}{spread}"


def _answer(records: Sequence[dict[str, Any]], runs_dir: Path) -> list[str]:
    """Which of all runs there to ship, and the commands that export it and show the table; none of several tasks."""
    from rankbench.tables.choice import chosen

    tasks = {str(record["config"]["task"]["name"]) for record in records}
    if len(tasks) > 1:
        return []
    for options in ([], ["--task", *tasks]):
        try:
            made = chosen(of_task(runs_dir, *tasks) if options else runs_dir)
        except RequestError:
            continue
        command = shlex.join(["rankbench", "table", "choose_rank", str(runs_dir), *options])
        said = [line for told in made.answer for line in textwrap.wrap(told, WIDTH)]
        return ["", *said, *made.ship, "All of them beside each other:", f"    {command}"]
    return []
