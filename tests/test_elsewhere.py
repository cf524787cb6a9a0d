"""The repository works in any folder of any machine: nothing in it knows where it lies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.full

# A folder that only one machine has, and something in it; a path that goes on from a word is relative, or a URL.
OF_ONE_MACHINE = re.compile(r"(?<![\w.~*-])/(?:work|root|tmp|home|Users|mnt|media|scratch|private|var/folders)/[\w.-]+")
# A test of the copy: without it, what the other tests there are about could be a rankbench that is installed.
ITSELF = """
from pathlib import Path
import rankbench
from conftest import CONF
from rankbench.records.record import read
from rankbench.runs.life import execute

def test_the_copy_tests_itself_and_trains(make_run):
    here = Path(__file__).parents[1]
    assert Path(rankbench.__file__).is_relative_to(here) and CONF.is_relative_to(here)
    run = make_run()
    execute(run)
    assert read(run.folder)["status"] == "done"
"""
MAKEFILE = """
test slow slurm:
	@echo "$@: $$(cd .. && echo *)"
	@echo "home: $$(ls -A "$$HOME" | grep -vxE '[.](config|pip)')"
	@echo "temporary: $$(ls -A "$$TMPDIR")"
	@echo "hub: $$HF_HOME$$WANDB_API_KEY$$PYTHONPATH"
"""


def files() -> list[Path]:
    """The repository's files, relative to it: what git tracks or would, or without git what no tool has left there."""
    words = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        named = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split("\0")
        found = [Path(name) for name in named if name]
    except (OSError, subprocess.CalledProcessError):
        left = ("__pycache__", "build", "dist", "exports", "runs", "site", "wandb")
        every = [file.relative_to(REPOSITORY) for file in REPOSITORY.rglob("*")]
        found = [file for file in every if not any(part in left or part[0] == "." for part in file.parts[:-1])]
    return [file for file in found if (REPOSITORY / file).is_file()]


def test_tests_pass_in_another_folder_with_an_empty_home(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "clone"
    for file in files():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / file, copy / file)
    (copy / "tests" / "test_itself.py").write_text(ITSELF)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    for name in ("HOME", "TMPDIR"):
        env[name] = str(tmp_path / name)
        (tmp_path / name).mkdir()
    subset = ["tests/test_itself.py", "tests/settings/test_settings.py", "-k", "itself or neutral"]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not slurm", *subset]
    done = subprocess.run(words, cwd=copy, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_no_file_names_a_folder_of_one_machine() -> None:
    named = []
    for file in files():
        try:
            lines = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        named += [f"{file}:{i}: {path}" for i, line in enumerate(lines, 1) for path in OF_ONE_MACHINE.findall(line)]
    assert not named, f"{len(named)} places:\n" + "\n".join(named[:20])


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("make")), reason="needs bash and make")
def test_what_a_change_must_pass_runs_where_nothing_else_is_seen(tmp_path: Path) -> None:
    clone, shared = tmp_path / "beside" / "clone", tmp_path / "beside" / "shared"
    for folder in (clone / ".ci", shared, tmp_path / "beside" / "results", tmp_path / "home" / "old", tmp_path / "tmp"):
        folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / ".ci" / "run", clone / ".ci" / "run")
    (clone / "Makefile").write_text(MAKEFILE)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    env |= {"PYTHON": sys.executable, "HF_HOME": "a cache", "WANDB_API_KEY": "a key", "PYTHONPATH": "a folder"}
    words = ["bash", str(clone / ".ci" / "run")]
    done = subprocess.run(words, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line.split(":")[0] for line in said if line.startswith(("test", "slow", "slurm"))] == [
        "test",
        "slow",
        "slurm",
    ]
    assert [line for line in said if line.startswith(("home", "temporary", "hub"))] == [
        "home: ",
        "temporary: ",
        "hub: ",
    ] * 3
    if "stay visible" not in done.stderr:
        assert said[0] == "test: clone home pip shared"
    assert list((tmp_path / "tmp").iterdir()) == []
