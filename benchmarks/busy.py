"""Steps a second of a training alone and beside another one, by how the threads of OpenMP wait for each other."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import timing

from rankbench.system.threads import OWN, SPINS

DEFAULT = "libgomp's default"
SIDES = {
    DEFAULT: {},
    f"rankbench, GOMP_SPINCOUNT={SPINS}": {"GOMP_SPINCOUNT": str(SPINS)},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}


class Training:
    """A process that steps when it is told to."""

    def __init__(self, own: dict[str, str], threads: int, batch: int) -> None:
        env = {key: value for key, value in os.environ.items() if key not in OWN} | own
        env["OMP_NUM_THREADS"] = str(threads)
        call = [sys.executable, __file__, "--step", str(batch)]
        self.process = subprocess.Popen(
            call, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def tell(self, words: str) -> None:
        """Start a window of so many seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def hear(self) -> list[float]:
        """Steps a second, and processor seconds; nothing at first, when it is ready."""
        assert self.process.stdout is not None
        return [float(word) for word in self.process.stdout.readline().split()]


def step(batch: int) -> None:
    """The process: a MiniLM under DyLoRA."""
    import subject
    import torch

    from rankbench.methods.lora import DyLora

    run = subject.run("adapter=dylora", "task=tweets")
    adapter = DyLora(run, subject.model_as_run(run, 2))
    model = adapter.model.train()
    optimizer = torch.optim.AdamW(subject.trained(model), lr=1e-3, fused=True)
    ids = torch.randint(1000, 20000, (batch, 25))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(batch, dtype=torch.long)}
    print(flush=True)
    for line in sys.stdin:
        count, began, used = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < float(line):
            model(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            count += 1
        print(count / (time.perf_counter() - began), time.process_time() - used, flush=True)


def busy() -> float:
    """Processor seconds that this machine has spent."""
    user, nice, system, _idle, _wait, *more = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")


def window(trainings: list[Training], seconds: float) -> tuple[float, float]:
    """Mean steps a second of the trainings, and the processors that others had meanwhile."""
    before, began = busy(), time.perf_counter()
    for training in trainings:
        training.tell(str(seconds))
    found = [training.hear() for training in trainings]
    others = (busy() - before - sum(used for _, used in found)) / (time.perf_counter() - began)
    return statistics.mean(speed for speed, _ in found), others


def main() -> None:
    parser = timing.arguments(__doc__, repeats=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each training")
    parser.add_argument("--batch", type=int, default=32, help="sentences of 25 tokens")
    parser.add_argument("--seconds", type=float, default=5, help="of a window")
    parser.add_argument("--quiet", type=float, default=0.05, help="windows count in which others had fewer processors")
    asked = parser.parse_args()
    pairs = {name: [Training(own, asked.threads, asked.batch) for _ in range(2)] for name, own in SIDES.items()}
    for pair in pairs.values():
        for training in pair:
            training.hear()
            training.tell("1")
            training.hear()
    speeds: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in SIDES}
    left_out = 0
    for _ in range(asked.repeats):
        for name, pair in pairs.items():
            for how, trainings in (("alone", pair[:1]), ("beside", pair)):
                speed, others = window(trainings, asked.seconds)
                if others < asked.quiet:
                    speeds[name][how].append(speed)
                else:
                    left_out += 1
    for pair in pairs.values():
        for training in pair:
            training.process.terminate()
    rows = []
    for name, of_side in speeds.items():
        middle = [timing.middle(values) if values else float("nan") for values in of_side.values()]
        rows.append([name, *(f"{value:.2f}" for value in middle), f"{middle[1] / middle[0]:.2f}"])
    text = timing.table(["steps a second of each", "alone", "beside another", "beside / alone"], rows)
    said = f"{text}\n\n{left_out} windows left out, in which others had more than {asked.quiet} processors"
    timing.report(asked, said, {"steps_per_second": speeds, "left_out": left_out}, ("fp32", "as asked"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step(int(sys.argv[2]))
    else:
        main()
