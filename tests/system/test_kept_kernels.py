"""A process that multiplies at many lengths does not hold a kernel for each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankbench.system.onednn import KEPT, KERNELS

BARE = {key: value for key, value in os.environ.items() if key not in KEPT}
GROWN = """
import ctypes, torch
class Heap(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks".split()] \\
        + [("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]
held = ctypes.CDLL("libc.so.6").mallinfo2
held.restype = Heap
def multiply(rows):
    torch.ops.mkldnn._linear_pointwise(torch.ones(rows, 384), torch.ones(384, 384), None, "none", [], "")
multiply(8)
before = held().uordblks
for rows in range(16, 16 + 300):
    multiply(rows)
print((held().uordblks - before) // 2**10)
"""


def said(code: str, **more: str) -> str:
    call = [sys.executable, "-c", f"from rankbench.system import onednn\n{code}"]
    return subprocess.run(call, env=BARE | more, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(
    sys.platform != "linux" or not torch.backends.mkldnn.is_available(), reason="glibc tells what its heap holds"
)
def test_three_hundred_lengths_leave_less_than_a_quarter_of_the_kernels_that_onednn_would_keep() -> None:
    assert 4 * int(said(f"onednn.keep_few()\n{GROWN}")) < int(said(GROWN))


def test_what_a_user_says_stands() -> None:
    say = f"import os; onednn.keep_few(); print([os.environ[name] for name in {KEPT}])"
    assert said(say) == str([str(KERNELS)] * 2)
    assert said(say, LRU_CACHE_CAPACITY="500") == str([str(KERNELS), "500"])


def test_the_command_line_says_so() -> None:
    code = "import os, sys; from rankbench import __main__ as m; sys.argv = ['rankbench', '--version']; m.main()"
    assert said(f"{code}; print([os.environ[name] for name in {KEPT}])").endswith(str([str(KERNELS)] * 2))


def test_a_run_and_a_loaded_model_of_a_python_program_do_too(finished: Path) -> None:
    loaded = f"rankbench.load({str(finished)!r}, rank=2)"
    refused = "try: rankbench.run('task=none_such')\nexcept rankbench.errors.RequestError: pass"
    for code in (loaded, refused):
        say = f"import os, rankbench, rankbench.errors\n{code}\nprint([os.environ[name] for name in {KEPT}])"
        assert said(say).endswith(str([str(KERNELS)] * 2)), code
