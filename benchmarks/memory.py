"""The memory of a run and the seconds of its training: what is freed kept as glibc does, and as rankbench has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import timing

HERE = Path(__file__).resolve().parents[1]
SIDES = {"as rankbench has it": {}, "as glibc does": {"GLIBC_TUNABLES": ""}}  # which leaves it as it is
MIB = 2**20


def measured(words: list[str], told: Mapping[str, str], runs: Path) -> dict[str, float]:
    """A run in a process of its own: its largest resident memory, and what its record says."""
    env = os.environ | {"PYTHONPATH": str(HERE / "src")} | told
    process = subprocess.Popen([sys.executable, "-m", "rankbench", *words, f"runs_dir={runs}"], env=env)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run ended with {os.waitstatus_to_exitcode(status)}")
    (record,) = (json.loads(file.read_text()) for file in runs.glob("*/record.json"))
    return {
        "process, MiB": usage.ru_maxrss / 1024,
        "training, MiB": record["training"]["peak_memory_bytes"] / MIB,
        "training, s": record["training"]["seconds"],
        "measuring, s": sum(sub["eval_seconds"] for sub in record["submodels"]),
        "system, s": usage.ru_stime,
    }


def main() -> None:
    parser = timing.arguments(__doc__, repeats=3)
    parser.add_argument("--steps", type=int, default=40, help="steps to train")
    parser.add_argument("--eval-rows", type=int, default=200, help="rows to measure every rank on")
    parser.add_argument("words", nargs="*", help="further settings of the run, which is the README's first")
    asked = parser.parse_args()
    words = [f"train.max_steps={asked.steps}", f"task.max_eval_examples={asked.eval_rows}", *asked.words]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(asked.repeats):
        for side in list(SIDES)[:: 1 if turn % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as runs:
                found[side].append(measured(words, SIDES[side], Path(runs)))
    middle: dict[str, dict[str, Any]] = {
        side: {name: median(one[name] for one in of_side) for name in of_side[0]} for side, of_side in found.items()
    }
    ours, theirs = (found[side] for side in SIDES)
    ratio = {name: median(a[name] / b[name] for a, b in zip(ours, theirs, strict=True)) for name in ours[0]}
    rows = [[side, *(f"{value:,.1f}" for value in values.values())] for side, values in middle.items()]
    rows.append(["ratio", *(f"{value:.2f}" for value in ratio.values())])
    text = timing.table(["median", *ratio], rows)
    timing.report(asked, text, {"runs": found, "ratio": ratio}, ("fp32", "as asked"))


if __name__ == "__main__":
    main()
