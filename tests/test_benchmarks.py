"""The script for a machine with a GPU: every part of it is a command that there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY


def test_what_wants_a_gpu_names_commands_that_there_are(tmp_path: Path) -> None:
    """What needs nothing but a checkout comes first."""
    words = ["bash", str(REPOSITORY / "benchmarks" / "gpu.sh"), str(tmp_path)]
    done = subprocess.run(words, env=os.environ | {"PYTHON": "echo"}, capture_output=True, text=True, check=True)
    commands = [line.split() for line in done.stdout.splitlines()]
    assert [Path(file).stem for file, *_ in commands[:3]] == ["headline", "qlora_step", "headline"]
    assert len({command[-1] for command in commands}) == len(commands), "each leaves a file of its own"
    for file, *options in commands:
        text = (REPOSITORY / file).read_text() + (REPOSITORY / "benchmarks" / "timing.py").read_text()
        for option in (word for word in options if word.startswith("--")):
            assert re.search(rf'add_argument\(\s*"{option}"', text), f"{file} {option}"
    unknown = subprocess.run([*words, "frob"], capture_output=True, text=True)
    assert unknown.returncode == 2 and "frob is no part of this" in unknown.stderr


def test_a_part_that_fails_or_takes_too_long_stops_no_other(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$1" in *headline*) exit 3;; *step.py) sleep 60;; esac\necho ran $1\n')
    python.chmod(0o755)
    words = ["bash", str(REPOSITORY / "benchmarks" / "gpu.sh"), str(tmp_path / "to"), "headline", "step", "depth"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHON": str(python), "SECONDS_EACH": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "failed or cut off: headline step" in done.stderr
    assert "depth.py" in (tmp_path / "to" / "depth.log").read_text()


def test_a_benchmark_that_is_cut_off_keeps_its_whole_turns(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY / "benchmarks")!r})
import timing
def stop(i): return lambda: os.kill(os.getpid(), signal.SIGTERM) if i == 5 else None
found = timing.alternate({{"a": lambda i: lambda: None, "b": stop}}, 50, 2)
print(len(found["a"]), len(found["b"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["cut off after 3 of 50 repetitions", "3 3"]


def test_a_stop_reaches_the_part_that_runs(tmp_path: Path) -> None:
    """Else it would hold the card for the rest of its 9 minutes."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\ntrap 'echo stopped; touch {tmp_path}/stopped; exit 143' TERM\n"
        f"touch {tmp_path}/started\nfor i in $(seq 300); do sleep 0.1; done\n"
    )
    python.chmod(0o755)
    words = ["bash", str(REPOSITORY / "benchmarks" / "gpu.sh"), str(tmp_path / "to"), "step", "depth"]
    env = os.environ | {"PYTHON": str(python)}
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(20) == 143
    assert (tmp_path / "stopped").exists() and (tmp_path / "to" / "step.log").read_text().endswith("stopped\n")
    assert not (tmp_path / "to" / "depth.log").exists()


def test_what_is_cut_off_is_written_though_nobody_reads_on_and_is_the_last(tmp_path: Path) -> None:
    code = f"""
import argparse, os, pathlib, signal, sys
sys.path.insert(0, {str(REPOSITORY / "benchmarks")!r})
import timing
asked = argparse.Namespace(to=pathlib.Path({str(tmp_path)!r}) / "found.json")
def stop(i): return lambda: os.kill(os.getpid(), signal.SIGTERM) if i == 2 else None
for turn in range(2):
    found = timing.alternate({{"a": stop}}, 50, 0)
    timing.report(asked, "text", {{"turn": turn, "seconds": found}}, ("fp32", "as asked"))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(120) == 143, process.stderr and process.stderr.read().decode()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["turn"] == 0 and len(found["seconds"]["a"]) == 2
    assert found["environment"]["threads"]["waiting"] and all(found["environment"]["kernels_kept"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "headline.py --model tiny_llama --precision fp32 --hardware auto --lengths 16 32 --r 4",
        "qlora_step.py --model tiny_llama --r 4 --batch 2 --tokens 16 --warmup 1 --repeats 2",
        "generation.py --model tiny_llama --ranks 1 2 --r 4 --new-tokens 4 --repeats 2",
    ],
)
def test_parts_run_on_a_tiny_model(words: str, tmp_path: Path) -> None:
    file, *rest = words.split()
    command = [sys.executable, str(REPOSITORY / "benchmarks" / file), *rest, "--to", str(tmp_path / "found.json")]
    subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads((tmp_path / "found.json").read_text())["environment"]["device"]
