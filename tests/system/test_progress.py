"""What a person sees of work that is counted: how much is done, and the time left."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest

from rankbench.system.progress import Counted

Patch = pytest.MonkeyPatch
Said = pytest.CaptureFixture[str]
Logged = pytest.LogCaptureFixture


@pytest.fixture(autouse=True)
def _heard(monkeypatch: Patch) -> None:
    monkeypatch.setattr(logging.getLogger("rankbench"), "propagate", True)


def test_counted_work_is_told_with_the_time_left_and_leaves_no_line(monkeypatch: Patch, capsys: Said) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    counted = Counted("measuring 8 sub-models", 80, patience=0.0)
    counted.add(20)
    counted.add(20)
    counted.close()
    err = capsys.readouterr().err
    assert "measuring 8 sub-models  20/80  0:0" in err and "  40/80  0:0" in err and err.endswith("\r\x1b[2K")
    assert "\n" not in err


def test_counted_work_that_is_done_at_once_says_nothing(monkeypatch: Patch, capsys: Said, caplog: Logged) -> None:
    with caplog.at_level(logging.INFO, "rankbench"):
        for terminal in (True, False):
            monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
            counted = Counted("measuring", 2)
            counted.add(2)
            counted.close()
    assert capsys.readouterr().err == "" and caplog.messages == []


def test_counted_work_has_a_plain_line_now_and_then_where_there_is_no_terminal(
    caplog: Logged,
) -> None:
    with caplog.at_level(logging.INFO, "rankbench"):
        counted = Counted("measuring", 4, every_seconds=0.05)
        counted.add()
        time.sleep(0.06)
        counted.add()
        counted.add()
        counted.close()
    assert caplog.messages == ["measuring  2/4  0:00 left"]


def test_one_process_alone_tells_of_counted_work(monkeypatch: Patch, capsys: Said) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    counted = Counted("measuring", 4, patience=0.0)
    counted.add()
    counted.close()
    assert capsys.readouterr().err == ""


def test_libraries_that_peft_brings_say_nothing_when_they_are_imported() -> None:
    """bitsandbytes does on a CPU with bf16 instructions, of a package that nobody here needs."""
    code = "from rankbench.system.progress import speak; speak(); import peft"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
