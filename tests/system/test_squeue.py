"""What squeue's answers, and its silence, are taken for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rankbench.system import slurm

NO_ANSWER = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """squeue.N is what its N-th call does; afterwards it knows no job."""
    script = tmp_path / "squeue"
    script.write_text(
        f"#!/bin/sh\nn=$(($(cat {tmp_path}/calls 2>/dev/null || echo 0) + 1)); echo $n > {tmp_path}/calls\n"
        f"[ -e {tmp_path}/squeue.$n ] || {{ {UNKNOWN}; }}\n. {tmp_path}/squeue.$n\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_a_controller_that_does_not_answer_has_not_ended_its_jobs(
    squeue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for call, does in enumerate([NO_ANSWER, NO_ANSWER, "echo 12_1", NO_ANSWER], 1):
        (squeue / f"squeue.{call}").write_text(does)
    with caplog.at_level(logging.INFO, "rankbench"):
        slurm.wait_for({"12"}, poll=0.0)
    assert (squeue / "calls").read_text() == "5\n"
    assert [line for line in caplog.messages if "Slurm does not answer" in line and "job 12" in line] != []


def test_a_job_has_a_state_where_squeue_knows_it(squeue: Path) -> None:
    for call, does in enumerate(["echo RUNNING", NO_ANSWER], 1):
        (squeue / f"squeue.{call}").write_text(does)
    assert [slurm.state("12"), slurm.state("12"), slurm.state("12"), slurm.state(None)] == ["RUNNING", "", "", ""]


def test_without_slurm_nothing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm.wait_for({"12"})
    assert slurm.state("12") == ""
