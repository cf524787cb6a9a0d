"""Table classes: scikit-learn's report and confusion matrix of one sub-model, in the data's words."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Answer
from sklearn import metrics as sk

import rankbench
from rankbench.errors import RequestError
from rankbench.tables import classes

N = 120
MAIL = ["ham", "spam & co", "note|memo"]
Place = tuple[int | None, int | None]


def a_run(
    folder: Path,
    names: list[str],
    places: tuple[Place, ...] = ((1, None), (4, None)),
    splits: tuple[str, ...] = ("validation",),
    **task: Any,
) -> Path:
    """A done run whose sub-models say what chance says, the larger ones less so."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(len(names))
    parts, subs = [], []
    truth = draw.integers(len(names) - 1, size=N)  # the last class has no examples
    for place, (rank, depth) in enumerate(places):
        for split in splits:
            made = np.where(draw.random(N) < 0.3 + 0.1 * place, truth, draw.integers(len(names), size=N))
            columns = {"rank": pd.array([rank] * N, "Int64"), "depth": pd.array([depth] * N, "Int64")}
            columns |= {"cut": None, "split": split, "index": np.arange(N), "prediction": made, "reference": truth}
            parts += [pd.DataFrame(columns), pd.DataFrame(columns | {"cut": "svd", "prediction": 0})]
        subs.append({"rank": rank, "depth": depth, "metrics": {"accuracy": 0.5}, "n": N * len(splits)})
        subs[-1] |= {"eval_seconds": 1.0, "parameters": {"trainable": 1, "total": 2}}
    pd.concat(parts).to_parquet(folder / "predictions.parquet")
    named = {"model": "tiny", "adapter": "dylora", "sampler": "uniform", "quantization": "none"}
    config = {"task": {"name": "mail", **task}, "seed": 0} | {group: {"name": name} for group, name in named.items()}
    record = {"schema": 2, "run_id": folder.name, "status": "done", "config": config, "submodels": subs[::-1]}
    record["cuts"] = [sub | {"cut": "svd"} for sub in subs]
    (folder / "record.json").write_text(json.dumps(record | {"data": {"label_names": names}}))
    return folder


def said(run: Path, rank: int | None, split: str = "validation") -> tuple[Any, Any]:
    rows = pd.read_parquet(run / "predictions.parquet")
    rows = rows[
        (rows["split"] == split) & rows["cut"].isna() & (rows["rank"].isna() if rank is None else rows["rank"] == rank)
    ]
    return rows["reference"].to_numpy(), rows["prediction"].to_numpy()


def test_each_class_has_scikit_learns_numbers(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", MAIL)
    each, matrix = classes.classes(run, rank=1)
    truth, made = said(run, 1)
    expected = sk.precision_recall_fscore_support(truth, made, labels=range(3), zero_division=0)
    shown = each.frame.replace("-", "0").astype(float)
    assert list(shown.index) == MAIL and list(shown) == ["precision", "recall", "F1", "support"]
    assert shown.to_numpy().T[:3] == pytest.approx(100 * np.array(expected[:3]), abs=0.051)
    assert shown["support"].tolist() == expected[3].tolist()
    assert each.frame.loc["note|memo", "recall"] == "-", "it has no examples"
    assert f"accuracy x 100: {100 * (truth == made).mean():.1f}" in each.caption
    assert matrix.frame.astype(int).to_numpy().tolist() == sk.confusion_matrix(truth, made, labels=range(3)).tolist()
    assert list(matrix.frame) == list(matrix.frame.index) == MAIL


def test_the_largest_sub_model_is_shown_unless_another_is_asked_for(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", MAIL)
    assert ", rank 4, validation" in classes.classes(run)[0].caption
    assert ", rank 1, validation" in classes.classes(run, rank=1)[0].caption
    pairs = a_run(tmp_path / "pairs", MAIL, ((1, 2), (4, 2), (1, 4), (4, 4)))
    assert ", rank 4 at depth 4, " in classes.classes(pairs)[0].caption
    assert ", rank 4 at depth 2, " in classes.classes(pairs, depth=2)[0].caption
    assert ", rank 1 at depth 4, " in classes.classes(pairs, rank=1)[0].caption
    assert "the whole model" in classes.classes(a_run(tmp_path / "whole", MAIL, ((None, None),)))[0].caption


def test_every_split_has_its_own(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", MAIL, splits=("validation_a", "validation_b"))
    found = classes.classes(run)
    assert [block.caption.split(", ")[3].split(":")[0] for block in found] == [
        *("validation_a", "validation_a", "validation_b", "validation_b")
    ]
    truth, made = said(run, 4, "validation_b")
    assert found[3].frame.astype(int).to_numpy().tolist() == sk.confusion_matrix(truth, made, labels=range(3)).tolist()


@pytest.mark.parametrize(("count", "matrix"), [(20, True), (21, False), (60, False)])
def test_of_many_classes_the_most_confused_are_shown(tmp_path: Path, count: int, matrix: bool) -> None:
    names = [f"class {i}" for i in range(count)]
    run = a_run(tmp_path / "run", names)
    each, other = classes.classes(run)
    assert len(each.frame) == count and (other.frame.shape == (count, count)) == matrix
    if not matrix:
        truth, made = said(run, 4)
        wrong = sk.confusion_matrix(truth, made, labels=range(count))
        np.fill_diagonal(wrong, 0)
        counts = other.frame["examples"].astype(int).tolist()
        assert counts == sorted(wrong.ravel().tolist())[::-1][:20]
        first = other.frame.reset_index().iloc[0]
        assert wrong[names.index(first["class"]), names.index(first["taken for"])] == counts[0]


def test_an_older_record_without_names_has_numbers(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", MAIL)
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps(record | {"data": {}}))
    assert list(classes.classes(run)[0].frame.index) == ["0", "1", "2"]


def test_a_cut_has_classes_of_its_own(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    """It says the first class of every example here."""
    run = a_run(tmp_path / "run", MAIL)
    each, matrix = classes.classes(run, rank=1, cut="svd")
    truth, _ = said(run, 1)
    assert "rank 1 cut by svd" in each.caption and each.frame["recall"].tolist() == ["100.0", "0.0", "-"]
    assert matrix.frame.iloc[:, 0].astype(int).tolist() == [(truth == i).sum() for i in range(3)]
    answer = call_main("table", "classes", str(run), "--cut", "svd")
    assert answer.rc == 0 and "rank 4 cut by svd" in answer.out


@pytest.mark.parametrize("form", ["md", "csv", "latex", "html"])
def test_it_comes_in_every_form(tmp_path: Path, call_main: Callable[..., Answer], form: str) -> None:
    run = a_run(tmp_path / "run", MAIL)
    answer = call_main("table", "classes", str(run), "--rank", "1", "--format", form)
    assert (answer.rc, answer.err) == (0, "")
    word = {"md": r"note\|memo", "csv": "note|memo", "latex": r"spam \& co", "html": "spam &amp; co"}[form]
    assert word in answer.out and "Left out" not in answer.out
    if form == "csv":
        rows = list(csv.reader(line for line in io.StringIO(answer.out) if not line.startswith("#")))
        assert rows[0] == ["class", "precision", "recall", "F1", "support"]


def test_the_real_run_has_a_table_and_python_gives_it(finished: Path, call_main: Callable[..., Answer]) -> None:
    answer = call_main("table", "classes", str(finished))
    assert answer.rc == 0, answer.err
    shown = rankbench.table("classes", finished, rank=1)
    assert [len(block.frame) for block in shown.ours] == [2, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["{run}", "--rank", "3"],
            "--rank 3: {run} measured rank 1, rank 4, rank 1 cut by svd, rank 4 cut by svd; choose one",
        ),
        (["{run}", "--cut", "svd_global", "--rank", "1"], "--rank 1 --cut svd_global: {run} measured rank 1, "),
        (["{run}", "--depth", "2"], "--depth 2: {run} measured"),
        (["{run}", "{other}"], "classes looks at one run, not 2"),
        (["{run}", "--to", "a.png"], "classes has tables and no picture"),
        (["{gone}"], "does not exist"),
        (["{values}"], "is of a regression, which has no classes"),
        (["{texts}"], "is of a language model, which has no classes"),
        (["{failed}"], "is not done (status failed)"),
        (["{bare}"], "lacks predictions.parquet"),
        (["{damaged}"], "is not of this run, or damaged"),
        (["{less}"], "is not of this run, or damaged"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    tmp_path: Path, call_main: Callable[..., Answer], words: list[str], message: str
) -> None:
    places = {name: tmp_path / name for name in ("run", "other", "failed", "bare", "damaged", "less", "gone")}
    for name in ("run", "other", "failed", "bare", "damaged", "less"):
        a_run(places[name], MAIL)
    places["values"] = a_run(tmp_path / "values", MAIL, regression=True)
    places["texts"] = a_run(tmp_path / "texts", MAIL, prompts=["{a}"])
    record = json.loads((places["failed"] / "record.json").read_text())
    (places["failed"] / "record.json").write_text(json.dumps(record | {"status": "failed", "submodels": []}))
    (places["bare"] / "predictions.parquet").unlink()
    (places["damaged"] / "predictions.parquet").write_bytes(b"PAR1")
    pd.read_parquet(places["less"] / "predictions.parquet").iloc[:50].to_parquet(places["less"] / "predictions.parquet")
    answer = call_main("table", "classes", *(word.format(**places) for word in words))
    assert (answer.rc, answer.out) == (2, "")
    assert message.format(**places) in answer.err


def test_a_rank_is_asked_of_classes_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", MAIL)
    with pytest.raises(RequestError, match="leave them out for leaderboard"):
        rankbench.table("leaderboard", run, rank=1)
    with pytest.raises(RequestError, match="leave them out for curve"):
        rankbench.table("curve", run, cut="svd")
