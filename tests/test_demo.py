"""The demo that the README promises, with the Makefile's own words."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest
from conftest import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_demo_beats_the_majority_class_at_every_rank(tmp_path):
    recipe = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (words,) = [line.split("-m rankbench", 1)[1].split() for line in recipe.splitlines() if "-m rankbench" in line]
    command = [sys.executable, "-m", "rankbench", *words, f"runs_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("tweets-minilm-dylora-*")
    record = json.loads((folder / "record.json").read_text())
    predictions = pd.read_parquet(folder / "predictions.parquet")
    majority = predictions[predictions["rank"] == 1]["reference"].value_counts(normalize=True).max()
    scores = {sub["rank"]: sub["metrics"]["accuracy"] for sub in record["submodels"]}
    assert list(scores) == list(range(1, 9))
    assert min(scores.values()) > majority, (scores, majority)
