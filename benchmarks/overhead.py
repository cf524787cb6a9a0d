"""Time what a run of a sweep takes beside training and measuring: the first one in a process, and those after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import subject
import timing

HERE = Path(__file__).resolve().parents[1]


def overheads(source: Path, words: list[str], runs: Path, seeds: int) -> list[float]:
    """Seconds of each run of one multirun, from the call or the record before, less its training and measuring."""
    call = [sys.executable, "-u", "-m", "rankbench", "-m", *words, f"seed=range({seeds})", f"runs_dir={runs}"]
    env = os.environ | {"PYTHONPATH": str(source / "src")}
    began, found = time.perf_counter(), []
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("record: "):
                now = time.perf_counter()
                record = json.loads(Path(line.removeprefix("record: ").strip()).read_text())
                measuring = sum(submodel["eval_seconds"] for submodel in record["submodels"])
                found.append(now - began - record["training"]["seconds"] - measuring)
                began = now
    if process.returncode:
        raise SystemExit(f"{' '.join(call)} ended with {process.returncode}")
    return found


def once(source: Path, words: list[str], seeds: int) -> dict[str, list[float]]:
    """The overheads in a new runs folder, and again with what the first sweep left in its cache."""
    with tempfile.TemporaryDirectory() as place:
        cold = overheads(source, words, Path(place) / "runs", seeds)
        warm = overheads(source, [*words, "train.weight_decay=0.05"], Path(place) / "runs", 1)
    return {"first, nothing kept": cold[:1], "first, tokens kept": warm, "from the second on": cold[1:]}


def main() -> None:
    parser = timing.arguments(__doc__, repeats=3)
    parser.add_argument("--data-dir", default="glue/sst2", help="a folder with train.jsonl")
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 0], help="rows to train on; 0: all")
    parser.add_argument("--seeds", type=int, default=4, help="runs of a sweep")
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns")
    asked = parser.parse_args()
    sources = {"here": HERE} | ({"against": asked.against.resolve()} if asked.against else {})
    seconds: timing.Seconds = {}
    said = ""
    for count in asked.rows:
        task, said = subject.task(str(Path(asked.data_dir).absolute()), count or None, 50)
        words = ["model=minilm", *task, "evaluate.submodels=[8]", "train.max_steps=4"]
        for _ in range(asked.repeats):
            for name, source in sources.items():
                for run, found in once(source, words, asked.seeds).items():
                    seconds.setdefault(f"{count or 'all'} rows, {name}: {run}", []).extend(found)
    rows = [[name, *timing.spread(found)] for name, found in sorted(seconds.items())]
    text = timing.table(["overhead of a run, s", "min", "median", "max"], rows)
    timing.report(asked, f"{text}\n\n{said}", {"seconds": seconds}, ("fp32", "as asked"))


if __name__ == "__main__":
    main()
