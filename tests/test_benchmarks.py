"""The script for a machine with a GPU: every part of it is a command that there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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
