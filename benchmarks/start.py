"""Processor seconds of short commands, and of a run until its first step, here and in another checkout."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timing

HERE = Path(__file__).resolve().parents[1]
VERBS = {
    "table curve": ["table", "curve", "RECORDS/sst2"],
    "table choose_rank": ["table", "choose_rank", "RECORDS/sst2"],
    "status": ["status", "RECORDS/search"],
    "--version": ["--version"],
}
# Ends the process where the loop asks for its first batch, and says what it took until then.
UNTIL_FIRST_STEP = """
import os, sys, time
from rankbench.__main__ import main
from rankbench.tasks import encoding
def first(*_):
    print(time.process_time(), flush=True)
    os._exit(0)
encoding.epoch_batches = first
main()
"""


def of_verb(source: Path, words: list[str]) -> float:
    """Processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "rankbench", *words], env=_env(source), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def until_first_step(source: Path, runs: Path, task: list[str], seed: int) -> float:
    """Processor seconds of a run of MiniLM from the call to its first batch."""
    words = ["model=minilm", *task, f"seed={seed}", f"runs_dir={runs}"]
    call = [sys.executable, "-c", UNTIL_FIRST_STEP, *words]
    done = subprocess.run(call, env=_env(source), check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def _env(source: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(source / "src")}


def main() -> None:
    parser = timing.arguments(__doc__, repeats=3)
    parser.add_argument("--data-dir", default="glue/sst2", help="a folder with train.jsonl")
    parser.add_argument("--rows", type=int, default=256, help="rows to train on")
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns")
    asked = parser.parse_args()
    import subject

    sources = {"here": HERE} | ({"against": asked.against.resolve()} if asked.against else {})
    task, said = subject.task(str(Path(asked.data_dir).absolute()), asked.rows, 50)
    seconds: timing.Seconds = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        for i in range(-1, asked.repeats):  # the first turn leaves tokens and bytecode
            for name, source in sources.items():
                found = {f"{verb}, {name}": of_verb(source, _placed(words)) for verb, words in VERBS.items()}
                found[f"until the first step, {name}"] = until_first_step(source, Path(place) / name, task, i + 1)
                for what, took in found.items():
                    seconds.setdefault(what, []).extend([took] if i >= 0 else [])
    rows = [[name, *timing.spread(found)] for name, found in sorted(seconds.items())]
    text = timing.table(["processor seconds", "min", "median", "max"], rows)
    said = f"{said}; measured in {time.perf_counter() - began:.0f} s"
    timing.report(asked, f"{text}\n\n{said}", {"seconds": seconds}, ("fp32", "as asked"))


def _placed(words: list[str]) -> list[str]:
    return [word.replace("RECORDS", str(HERE / "benchmarks" / "results")) for word in words]


if __name__ == "__main__":
    main()
