"""What the process of a short run holds at most, as it comes and with the settings that make it less, in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import timing
import torch

from rankbench.system.onednn import KEPT

HERE = Path(__file__).resolve().parents[1]
# What a run of this method imports, and nothing of it done.
IMPORTS = "import bitsandbytes, hydra, pandas, peft, torch, rankbench.runs.work, rankbench.methods.lora"
OWN = dict.fromkeys(KEPT, "1024")  # as many kernels as oneDNN keeps where nobody says how many
HALVES = ["train.batch_size=16", "train.gradient_accumulation_steps=2"]
SIDES: dict[str, tuple[list[str], dict[str, str]]] = {
    "as it comes": ([], {}),
    "oneDNN's 1,024 kernels": ([], OWN),
    "train.gradient_checkpointing=true": (["train.gradient_checkpointing=true"], {}),
    "train.batch_size=16, two accumulated": (HALVES, {}),
    "MALLOC_MMAP_THRESHOLD_=2097152": ([], {"MALLOC_MMAP_THRESHOLD_": "2097152"}),
    "arithmetic=int8": (["arithmetic=int8"], {}),
}
BF16 = {
    "train.precision=bf16": (["train.precision=bf16"], {}),
    "train.precision=bf16, oneDNN's 1,024 kernels": (["train.precision=bf16"], OWN),
    "train.precision=bf16 train.batch_size=16, two accumulated": (["train.precision=bf16", *HALVES], {}),
}


def peak(words: list[str], more: dict[str, str]) -> float:
    """MiB that a Python process holds at most. Raises CalledProcessError."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *words], env=_env(more), stdout=quiet, stderr=quiet)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), words)
    return used.ru_maxrss / 1024


def of_run(words: list[str], more: dict[str, str], runs: Path) -> tuple[float, float, dict[str, int]]:
    """A run's peak in MiB, its seconds of training, and its forecast in bytes."""
    held = peak(["-m", "rankbench", *words, f"runs_dir={runs}"], more)
    (file,) = runs.glob("*/record.json")
    record = json.loads(file.read_text())
    return held, record["training"]["seconds"], record["memory"]["forecast"]


def _env(more: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(HERE / "src")} | more


def main() -> None:
    parser = timing.arguments(__doc__, repeats=3)
    parser.add_argument("--rows", type=int, default=2000, help="rows to train on")
    parser.add_argument("--task", default="tweets", help="a task that needs no data of one's own")
    asked = parser.parse_args()
    has = torch.cpu.get_capabilities()
    sides = SIDES | (BF16 if has.get("avx512_bf16") or has.get("amx_bf16") else {})
    limits = [f"task={asked.task}", f"task.max_train_examples={asked.rows}", "task.max_eval_examples=300"]
    held: dict[str, list[float]] = {"the imports alone": []} | {name: [] for name in sides}
    seconds: timing.Seconds = {name: [] for name in sides}
    forecast: dict[str, int] = {}
    for _ in range(asked.repeats):
        held["the imports alone"].append(peak(["-c", IMPORTS], {}))
        for name, (words, more) in sides.items():
            with tempfile.TemporaryDirectory() as place:
                most, took, forecast[name] = of_run([*limits, *words, "train.epochs=1"], more, Path(place))
            held[name].append(most)
            seconds[name].append(took)
    plain = seconds["as it comes"]
    rows = [
        [name, *timing.spread(values), *([f"{timing.ratio(seconds[name], plain):.2f}"] if name in sides else [""])]
        for name, values in held.items()
    ]
    text = timing.table(["MiB at most", "min", "median", "max", "time of training / as it comes"], rows)
    whole = {part: round(size / 2**20) for part, size in forecast["as it comes"].items()}
    figures = {"mebibytes": held, "seconds": seconds, "forecast_mebibytes": whole}
    said = f"forecast of a step, as it comes: {whole}"
    timing.report(asked, f"{text}\n\n{said}", figures, ("fp32", "as asked"))


if __name__ == "__main__":
    main()
