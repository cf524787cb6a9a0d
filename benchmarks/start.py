"""Processor seconds of short commands, and of a run until its first step, here and in another checkout."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import timing

HERE = Path(__file__).resolve().parents[1]
VERBS = {
    "table curve": ["table", "curve", "RECORDS/sst2"],
    "table choose_rank": ["table", "choose_rank", "RECORDS/sst2"],
    "status": ["status", "RECORDS/search"],
    "--version": ["--version"],
}
# Ends the process where the loop asks for its first batch, and says what it took until then, and what it had imported.
UNTIL_FIRST_STEP = """
import os, sys, time
from rankbench.__main__ import main
from rankbench.tasks import encoding
def first(*_):
    print(time.process_time(), *sys.modules, flush=True)
    os._exit(0)
encoding.epoch_batches = first
main()
"""
# Imports what that process had, and does nothing else.
IMPORTS = """
import contextlib, importlib, sys, time
for name in sys.stdin.read().split():
    if name not in sys.modules:
        with contextlib.suppress(Exception):  # some names are no modules of their own
            importlib.import_module(name)
print(time.process_time(), flush=True)
"""


def of_verb(source: Path, words: list[str]) -> float:
    """Processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "rankbench", *words], env=_env(source), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def until_first_step(source: Path, runs: Path, task: list[str], seed: int) -> tuple[float, float]:
    """Processor seconds of a run of MiniLM from the call to its first batch, and of its imports alone."""
    words = ["model=minilm", *task, f"seed={seed}", f"runs_dir={runs}"]
    first, *imported = _said(source, UNTIL_FIRST_STEP, words)
    return float(first), float(_said(source, IMPORTS, given=" ".join(imported))[-1])


def _said(source: Path, code: str, words: Sequence[str] = (), given: str = "") -> list[str]:
    """The words of the last line that the code prints."""
    call = [sys.executable, "-c", code, *words]
    done = subprocess.run(call, env=_env(source), check=True, capture_output=True, text=True, input=given)
    return done.stdout.splitlines()[-1].split()


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
                whole, imports = until_first_step(source, Path(place) / name, task, i + 1)
                found[f"until the first step, {name}"] = whole
                found[f"of it beyond the imports, {name}"] = whole - imports
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
