"""How OpenMP's threads wait: what is set, where, and that torch's own OpenMP hears of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rankbench.system.threads import OWN, SPINS

BARE = {key: value for key, value in os.environ.items() if key not in OWN}
SAY = "import os; print([f'{n}={os.environ[n]}' for n in threads.OWN if n in os.environ])"


def said(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", f"from rankbench.system import threads\n{code}"]
    return subprocess.run(call, env=BARE | more, capture_output=True, text=True, check=True)


def test_a_user_who_says_nothing_has_threads_that_sleep_soon() -> None:
    assert said(f"threads.wait_politely(); {SAY}").stdout.strip() == f"['GOMP_SPINCOUNT={SPINS}']"


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_a_user_says_stands(own: dict[str, str]) -> None:
    assert said(f"threads.wait_politely(); {SAY}", **own).stdout.strip() == str([f"{k}={v}" for k, v in own.items()])


def test_a_setting_that_libgomp_does_not_read_is_none() -> None:
    assert said(f"threads.wait_politely(); {SAY}", KMP_BLOCKTIME="0").stdout.strip() == f"['GOMP_SPINCOUNT={SPINS}']"


def test_a_record_says_what_stood_there_when_torch_loaded() -> None:
    tell = "print(threads.told()['waiting'])"
    changed = f"threads.wait_politely(); import torch, os; os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'; {tell}"
    assert said(changed).stdout.strip() == f"GOMP_SPINCOUNT={SPINS}"
    late = f"import torch, os; os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'; threads.wait_politely(); {tell}"
    assert said(late).stdout.strip() == "OMP_WAIT_POLICY=PASSIVE, if it was set before torch loaded"
    assert said(f"import torch; threads.wait_politely(); {tell}").stdout.strip() == "as OpenMP does"


def test_it_is_left_alone_where_torch_is_loaded_and_would_not_hear_it() -> None:
    assert said(f"import sys; sys.modules['torch'] = sys; threads.wait_politely(); {SAY}").stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="torch's wheels carry libgomp on Linux")
def test_the_command_line_sets_it_before_torch_loads() -> None:
    code = (
        "import sys; from rankbench import __main__ as m; sys.argv = ['rankbench', '--version']; m.main(); import torch"
    )
    heard = said(f"{code}; print(threads.told())", OMP_DISPLAY_ENV="VERBOSE", OMP_NUM_THREADS="2")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in heard.stderr
    assert heard.stdout.strip().endswith(f"{{'count': 2, 'waiting': 'GOMP_SPINCOUNT={SPINS}'}}")
