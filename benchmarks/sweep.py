"""Sweeps of many tiny runs on each cluster, some of them killed at random: what is lost, and what a run costs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import timing

from rankbench.records import lock, record

SLURM = Path(__file__).resolve().parents[1] / "tests" / "slurm.sh"
SETTINGS = ["task=classification", "model=tiny_bert", "adapter.r=4", "train.max_steps=40", "train.batch_size=8"]
SETTINGS += ["train.checkpoint_steps=10", "evaluate.submodels=[1,4]"]
SETS = {
    "local": ["cluster=local"],
    "local_parallel": ["cluster=local_parallel"],
    "slurm": ["cluster=slurm", "cluster.gpus=0", "cluster.cpus=1", "cluster.partition=main", "cluster.minutes=60"],
}


@contextmanager
def environment(cluster: str, folder: Path) -> Iterator[dict[str, str]]:
    """What the sweep's process sees; for Slurm a node of this machine is started, as the tests do."""
    if cluster != "slurm":
        yield dict(os.environ)
        return
    try:
        call = f'eval "$(bash {SLURM} start {folder})"; echo "$SLURM_CONF"; echo "$PATH"'
        said = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=True).stdout.splitlines()
        yield os.environ | {"SLURM_CONF": said[0], "PATH": said[1]}
    finally:
        subprocess.run(["bash", str(SLURM), "stop", str(folder)])


def killing(runs: Path, wanted: int, of: int, over: threading.Event, killed: list[str]) -> None:
    """Kill `wanted` of the `of` runs, each once, up to 0.3 s after it was first seen to run."""
    drawn = random.Random(0)
    left, seen = wanted, set()
    while left and not over.wait(0.05):
        for folder in sorted(runs.glob("classification-*")):
            owner = lock.holder(folder) if folder not in seen else None
            if owner is None:
                continue
            seen.add(folder)
            if drawn.random() < left / max(1, of - len(seen) + 1):
                time.sleep(0.3 * drawn.random())
                with suppress(ProcessLookupError):
                    if lock.holder(folder) == owner:
                        os.kill(owner.pid, signal.SIGKILL)
                        killed.append(folder.name)
                        left -= 1


def sweep(cluster: str, runs: int, share: float) -> dict[str, Any]:
    """Ask for the sweep until it is whole; what it took."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder, killed, over, codes = Path(made), [], threading.Event(), []
        for split, rows in (("train", 64), ("validation", 24)):
            lines = (json.dumps({"text": f"word {i % 7} and word {i % 5}", "label": i % 2}) for i in range(rows))
            (folder / "data").mkdir(exist_ok=True)
            (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines))
        seeds = ",".join(map(str, range(runs)))
        words = [*SETTINGS, f"task.data_dir={folder / 'data'}", f"runs_dir={folder / 'runs'}", f"seed={seeds}"]
        call = [sys.executable, "-m", "rankbench", "-m", *words, *SETS[cluster]]
        with environment(cluster, folder / "slurm") as env:
            killer = threading.Thread(
                target=killing, args=(folder / "runs", round(share * runs), runs, over, killed), daemon=True
            )
            killer.start()
            start = time.perf_counter()
            while not codes or (codes[-1] != 0 and len(codes) < 2 + round(share * runs)):
                codes.append(subprocess.run(call, env=env, capture_output=True).returncode)
            seconds = time.perf_counter() - start
            over.set()
            killer.join()
        found = [record.read(place) for place in sorted((folder / "runs").glob("classification-*"))]
        done = [r for r in found if r and r["status"] == "done"]
        starts = sum(f.read_text().count(f"run {f.parent}\n") for f in (folder / "runs").glob("*/run.log"))
        work = sum(r["training"]["seconds"] + sum(s["eval_seconds"] for s in r["submodels"]) for r in done)
    return {
        "runs": runs,
        "done": len(done),
        "killed": len(killed),
        "starts": starts,
        "calls": len(codes),
        "seconds": seconds,
        "training_and_evaluation_seconds": work,
    }


def main() -> None:
    parser = timing.arguments(__doc__, repeats=1)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--kill", type=float, nargs="+", default=[0.0, 0.1], help="shares of the runs to kill")
    parser.add_argument("--clusters", nargs="+", choices=SETS, default=list(SETS))
    asked = parser.parse_args()
    found = [
        {"cluster": cluster, **sweep(cluster, asked.runs, share)}
        for _ in range(asked.repeats)
        for share in asked.kill
        for cluster in asked.clusters
    ]
    rows = [
        [
            f["cluster"],
            *(str(f[key]) for key in ("runs", "done", "killed", "starts", "calls")),
            f"{f['seconds'] / f['runs']:.2f}",
            f"{f['training_and_evaluation_seconds'] / f['runs']:.2f}",
        ]
        for f in found
    ]
    header = ["cluster", "runs", "done", "killed", "starts", "calls", "s a run", "of which work"]
    timing.report(asked, timing.table(header, rows), {"sweeps": found}, ("float32", "tiny random models"))


if __name__ == "__main__":
    main()
