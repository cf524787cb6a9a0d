"""On a real Slurm: requeued, signalled, preempted and killed runs end as those that nobody disturbed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import pytest
import torch
from conftest import REPOSITORY, compose_run, tiny_overrides, write_tiny
from safetensors.torch import load_file
from test_resume_exact import outcome

from rankbench.records import lock
from rankbench.records import record as records
from rankbench.runs.life import execute
from rankbench.settings.run import Run

pytestmark = pytest.mark.slurm

SETTINGS = ["train.max_steps=500", "train.checkpoint_steps=40", "train.eval_steps=70", "adapter.lora_dropout=0.1"]
CLUSTER = ["cluster=slurm", "cluster.gpus=0", "cluster.cpus=1", "cluster.partition=main", "cluster.minutes=60"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a Slurm of one node with two cores."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'rankbench[slurm]'")
    lacking = [name for name in ("munged", "slurmctld", "slurmd") if shutil.which(name) is None]
    if lacking or os.getuid() != 0:
        pytest.skip(f"{', '.join(lacking)} missing: apt-get install slurm-wlm munge" if lacking else "needs root")
    folder, script = tmp_path_factory.mktemp("slurm"), str(REPOSITORY / "tests" / "slurm.sh")
    try:
        call = ["bash", "-c", f'eval "$(bash {script} start {folder})"; echo "$SLURM_CONF"; echo "$PATH"']
        conf, path = subprocess.run(call, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
        yield {"SLURM_CONF": conf, "PATH": path}
    finally:
        subprocess.run(["bash", script, "stop", str(folder)], timeout=120)


@pytest.fixture
def ask(slurm: dict[str, str]) -> Callable[..., str]:
    """ask("squeue", ...): what one of Slurm's commands says."""

    def call(*words: str) -> str:
        return subprocess.run(words, env=os.environ | slurm, capture_output=True, text=True, timeout=60).stdout.strip()

    return call


class Sweep:
    """A sweep over seeds as Slurm jobs, in a process of its own."""

    def __init__(self, folder: Path, slurm: dict[str, str], ask: Callable[..., str]) -> None:
        self.overrides = [*tiny_overrides(write_tiny(folder / "data"), folder / "runs"), *SETTINGS]
        self.runs, self.slurm, self.ask = folder / "runs", slurm, ask

    def start(self, *words: str) -> subprocess.Popen[str]:
        call = [sys.executable, "-m", "rankbench", "-m", *self.overrides, *CLUSTER, *words]
        piped = subprocess.PIPE
        return subprocess.Popen(call, env=os.environ | self.slurm, stdout=piped, stderr=subprocess.STDOUT, text=True)

    def finish(self, process: subprocess.Popen[str]) -> str:
        return process.communicate(timeout=280)[0]

    def story(self, said: str) -> str:
        """What the sweep said, how each job ended, and what Slurm's daemons wrote of the jobs."""
        logs = sorted(self.runs.glob(".multirun/.submitit/*/*.out"))
        daemons = [Path(self.slurm["SLURM_CONF"]).parent / name for name in ("slurmctld.log", "slurmd.log")]
        tails = [f"{log.name}\n" + "\n".join(log.read_text().splitlines()[-20:]) for log in [*logs, *daemons]]
        return "\n".join([said, *tails])

    def run(self, seed: int, place: str = "runs") -> Run:
        return compose_run(*self.overrides, f"seed={seed}", f"runs_dir={self.runs.parent / place}")

    def disturb(self, process: subprocess.Popen[str], ways: list[list[str]], later: float = 0.0) -> None:
        """Once a seed's run trains and has a checkpoint, call its way with its job, up to so many seconds later."""
        left = {self.run(seed).folder: way for seed, way in enumerate(ways)}
        calls = []
        while left and process.poll() is None:
            for folder in list(left):
                owner = lock.holder(folder) if list(folder.glob("checkpoints/step-*")) else None
                if owner and owner.slurm_job:
                    calls.append(Timer(random.uniform(0, later), self.ask, [*left.pop(folder), owner.slurm_job]))
                    calls[-1].start()
            time.sleep(0.05)
        for call in calls:
            call.join()
        assert not left, self.story(self.finish(process))

    def undisturbed(self, seed: int) -> dict:
        whole = self.run(seed, "whole")
        execute(whole)
        return outcome(whole.folder)


@pytest.fixture
def sweep(tmp_path: Path, slurm: dict[str, str], ask: Callable[..., str]) -> Sweep:
    return Sweep(tmp_path, slurm, ask)


def test_a_wrong_job_or_partition_submits_nothing(sweep: Sweep, ask: Callable[..., str]) -> None:
    process = sweep.start("seed=0,1", "adapter.r=2,0")
    assert "adapter.r=0" in sweep.finish(process) and process.returncode == 2
    process = sweep.start("seed=0,1", "cluster.partition=nowhere")
    assert "nothing was submitted (sbatch: error: " in sweep.finish(process) and process.returncode == 2
    assert ask("squeue", "--noheader") == ""


def test_disturbed_at_random_moments_and_asked_again_every_run_ends_as_if_nothing_had_been(sweep: Sweep) -> None:
    process = sweep.start("seed=0,1,2,3")
    # Once each: while another of its array is being requeued, scancel delivers a signal and calls that a failure, and
    # its later tries, five seconds apart, would meet the run's next life before Python is there.
    signals = [["timeout", "3", "scancel", f"--signal={name}"] for name in ("USR2", "TERM", "KILL")]
    sweep.disturb(process, [["scontrol", "requeue"], *signals], later=1.0)
    said = sweep.finish(process)
    assert process.returncode == 1 and "3 done, 1 stopped" in said, sweep.story(said)
    process = sweep.start("seed=0,1,2,3")
    said = sweep.finish(process)
    assert process.returncode == 0 and "3 of 4 runs are done already" in said and "4 done" in said, sweep.story(said)
    for seed in range(4):
        folder = sweep.run(seed).folder
        assert "resumed at step" in (folder / "run.log").read_text()
        assert outcome(folder) == sweep.undisturbed(seed)


def test_a_preempted_run_goes_on_when_the_urgent_job_is_over(sweep: Sweep) -> None:
    process = sweep.start("seed=0")
    urgent = "sbatch --partition=urgent --cpus-per-task=2 --output=/dev/null --wrap='sleep 1'"
    sweep.disturb(process, [["sh", "-c", urgent]])
    said = sweep.finish(process)
    assert process.returncode == 0 and "1 done" in said, sweep.story(said)
    assert "resumed at step" in (sweep.run(0).folder / "run.log").read_text()
    assert outcome(sweep.run(0).folder) == sweep.undisturbed(0)


def test_a_cancelled_run_stays_cancelled_with_its_checkpoint(sweep: Sweep, ask: Callable[..., str]) -> None:
    process = sweep.start("seed=0")
    sweep.disturb(process, [["scancel"]])
    said = sweep.finish(process)
    assert process.returncode == 1 and "1 stopped" in said and "/500 kept" in said, sweep.story(said)
    assert ask("squeue", "--noheader") == ""


TWO = [
    "cluster.processes=2",
    "train.max_steps=200",
    "train.batch_size=6",
    "train.checkpoint_steps=20",
    "train.eval_steps=null",
]
TWO += ["adapter.lora_dropout=0", "+model.random.hidden_dropout_prob=0", "+model.random.attention_probs_dropout_prob=0"]


@pytest.mark.parametrize("way", ["USR2", "KILL"])
def test_a_run_of_two_processes_is_requeued_or_ends_whole_and_gives_what_one_gives(sweep: Sweep, way: str) -> None:
    sweep.overrides += TWO[1:]
    process = sweep.start("seed=0", TWO[0])
    of_one = "pkill -KILL -f 'submitit.*_[s]ubmit' --newest" if way == "KILL" else ""
    sweep.disturb(process, [["sh", "-c", of_one] if of_one else ["scancel", f"--signal={way}"]])
    said = sweep.finish(process)
    if way == "KILL" and process.returncode:  # the other one was waiting for it, and has ended with it
        assert "1 stopped" in said or "another process of this run died" in said, sweep.story(said)
        process = sweep.start("seed=0", TWO[0])
        said = sweep.finish(process)
    assert process.returncode == 0 and "1 done" in said, sweep.story(said)
    folder, alone = sweep.run(0).folder, sweep.run(0, "whole")
    execute(alone)
    assert "resumed at step" in (folder / "run.log").read_text()
    assert records.read(folder)["environment"]["processes"] == 2
    ours, theirs = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (folder, alone.folder))
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-5) for name in theirs)
