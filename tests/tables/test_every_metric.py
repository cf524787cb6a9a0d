"""A run scored by every metric: each value is scikit-learn's of what the run keeps, and every table takes each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Answer, sentences, tiny_overrides, write_jsonl
from sklearn import metrics as sk

from rankbench.runs.life import execute
from rankbench.settings.compose import composed
from rankbench.settings.metrics import METRICS
from rankbench.tables import choice, curve
from rankbench.tables.measured import measure

OF_CLASSES, OF_VALUES = (
    [name for name, own in METRICS.items() if own.kind == kind] for kind in ("classification", "regression")
)


def done(folder: Path, names: list[str], *words: str) -> Path:
    """A run of three classes, or of their numbers, scored by these metrics on two splits."""
    for split, rows in (("train", 24), ("validation_a", 18), ("validation_b", 15)):
        lines = [row | {"label": i % 3} for i, row in enumerate(sentences(rows))]
        write_jsonl(folder / "data" / f"{split}.jsonl", lines)
    scored = ["task.validation_splits=[validation_a,validation_b]", f"task.metrics=[{','.join(names)}]"]
    run = composed([*tiny_overrides(folder / "data", folder / "runs"), *scored, *words])
    execute(run, [])
    return run.folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(tmp_path_factory.mktemp("classes"), OF_CLASSES, "task.positive_label=2")


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(tmp_path_factory.mktemp("values"), OF_VALUES, "task.regression=true")


def record_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "record.json").read_text())
    return found


def test_the_records_values_are_scikit_learns_of_the_predictions_that_it_keeps(classes: Path) -> None:
    frame = pd.read_parquet(classes / "predictions.parquet")
    for sub in record_of(classes)["submodels"]:
        rows = frame[(frame["rank"] == sub["rank"]) & (frame["split"] == "validation_b")]
        truth, made = rows["reference"].to_numpy(), rows["prediction"].to_numpy()
        scores = rows[["score_0", "score_1", "score_2"]].to_numpy().astype(float)
        expected = {
            "precision": sk.precision_score(truth == 2, made == 2, zero_division=0),
            "recall": sk.recall_score(truth == 2, made == 2),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, made),
            "roc_auc": np.mean([sk.roc_auc_score(truth == one, scores[:, one]) for one in range(3)]),
            "average_precision": sk.average_precision_score(np.eye(3)[truth], scores),
            "log_loss": sk.log_loss(truth, scores / scores.sum(1, keepdims=True)),
        }
        assert {name: sub["metrics"][f"{name}_b"] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("split", ["a", "b"])
@pytest.mark.parametrize("name", OF_CLASSES + OF_VALUES)
def test_stored_predictions_give_the_records_value(name: str, split: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue("classes" if name in OF_CLASSES else "values")
    found = measure({run: record_of(run)}, f"{name}_{split}")  # which refuses what is not the record's
    assert found.sums.rises == METRICS[name].rises and found.undefined is None


@pytest.mark.parametrize("name", ["roc_auc", "log_loss", "ece", "precision", "mse", "r2"])
def test_choose_rank_takes_the_metric(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue("classes" if name in OF_CLASSES else "values")
    (block,), closing = choice.choose_rank(run, f"{name}_a")
    assert closing and len(block.frame) == len(record_of(run)["submodels"])
    (best,) = np.flatnonzero(block.frame["minus best"] == "-")
    read = pd.to_numeric(block.frame.iloc[:, 0]).to_numpy()
    assert read[best] == (read.max() if METRICS[name].rises else read.min())


@pytest.mark.parametrize("name", ["log_loss", "ece", "mse", "mae"])
def test_of_what_falls_the_lowest_comes_first(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, call_main: Callable[..., Answer]
) -> None:
    """The leaderboard over a run and one of another method that is worse by everything."""
    run = request.getfixturevalue("classes" if name in OF_CLASSES else "values")
    better, worse = record_of(run), record_of(run)
    worse["run_id"], worse["config"]["adapter"]["name"] = "another", "lora"
    for sub in worse["submodels"]:
        sub["metrics"] = {key: value + 1 for key, value in sub["metrics"].items()}
    for record in (worse, better):
        (tmp_path / record["run_id"]).mkdir()
        (tmp_path / record["run_id"] / "record.json").write_text(json.dumps(record))
    answer = call_main("table", "leaderboard", str(tmp_path), "--metric", f"{name}_a", "--format", "csv")
    first, second = [line for line in answer.out.splitlines() if re.match("(dylora|lora),", line)]
    assert first.startswith("dylora,") and second.startswith("lora,"), answer.out
    table = curve.curve(tmp_path, f"{name}_a")
    assert ("x 100" in curve.caption(table)) == (name == "ece")
