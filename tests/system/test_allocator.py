"""Large tensors' memory goes back to the system when they are freed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from rankbench.system import allocator

# What a forward frees lies between what its backward needs; that the first is freed has glibc keep the next ones.
HELD = """
import sys
import torch
from rankbench.system import allocator
if sys.argv[1] == "here":
    assert allocator.return_large()
torch.ones(4 * 2**20)
def mebibytes():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) // 1024
before = mebibytes()
pairs = [(torch.ones(2**20), torch.ones(1000)) for _ in range(100)]
kept = [small for _, small in pairs]
del pairs
print(mebibytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own setting")
def test_what_is_freed_goes_back() -> None:
    held = {}
    for side in ("here", "as glibc does"):
        env = {k: v for k, v in os.environ.items() if k not in allocator.OWN}
        call = [sys.executable, "-c", HELD, side]
        env["PYTHONPATH"] = str(REPOSITORY / "src")
        held[side] = int(subprocess.run(call, env=env, capture_output=True, text=True, check=True).stdout)
    assert held["here"] < 40 and held["as glibc does"] > 300, held


@pytest.mark.parametrize("name", allocator.OWN)
def test_what_the_user_says_stays(name: str) -> None:
    assert not allocator.return_large({name: "1"})
