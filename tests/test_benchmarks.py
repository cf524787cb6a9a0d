"""The script for a machine with a GPU: every part of it is a command that there is."""

from __future__ import annotations

import os
import re
import subprocess
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
