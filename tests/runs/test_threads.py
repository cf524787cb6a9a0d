"""Two threads of a process that ask for runs at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import tiny_overrides, write_tiny

import rankbench


@pytest.mark.slow
def test_runs_of_two_threads_are_the_runs_of_one(tmp_path: Path) -> None:
    """Dropout draws from the process's one stream of random numbers, so the second run waits for the first."""
    data = write_tiny(tmp_path / "data")

    def weights(place: str, seed: int) -> bytes:
        words = [*tiny_overrides(data, tmp_path / place), "train.max_steps=25", f"seed={seed}"]
        record = rankbench.run(*words)
        return (tmp_path / place / record["run_id"] / "adapter" / "adapter_model.safetensors").read_bytes()

    alone = [weights("alone", seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda seed: weights("together", seed), (0, 1)))
    assert together == alone and alone[0] != alone[1]
