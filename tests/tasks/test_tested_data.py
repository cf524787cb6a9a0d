"""A test split's data: checked as those of validation are, and held out of one file without a change to the others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import compose_run, refused, sentences, write_jsonl
from test_data import ROWS, task, two_splits

from rankbench.errors import RequestError
from rankbench.system.files import sha256
from rankbench.tasks import data

TESTED = {"test_splits": ["test"]}


def three(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Train and validation of two classes, and these rows to test on."""
    write_jsonl(folder / "test.jsonl", rows)
    return two_splits(folder, ROWS)


def test_a_test_split_is_read_as_the_others_are(tmp_path: Path) -> None:
    loaded = data.load(task(three(tmp_path, ROWS[::-1]), **TESTED))
    (test,) = loaded.test
    assert test.name == "test" and test.labels.tolist() == loaded.train.labels[::-1].tolist()
    assert [split.name for split in loaded.validation] == ["validation"]
    assert set(loaded.origin["splits"]) == {"train", "validation", "test"}
    assert loaded.origin["splits"]["test"]["sha256"] == sha256(tmp_path / "test.jsonl")
    assert data.load(task(tmp_path)).test == ()
    assert len(data.load(task(tmp_path, max_eval_examples=1, **TESTED)).test[0]) == 1


GLUE_MEND = "-1 marks a row without a label, as test splits of GLUE have: leave it out of task.test_splits"


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        (
            {"text": "c", "label": "other"},
            {},
            "test.jsonl row 0 .*label 'other' is not one that the training split has",
        ),
        ({"text": "c", "label": None}, {}, "test.jsonl row 0 .*has no label"),
        ({"text": "c", "label": -1}, {}, GLUE_MEND),
        ({"text": "c", "label": "-1"}, {"label_names": ["no", "yes"]}, GLUE_MEND),
        ({"text": "c", "label": -1.0}, {"regression": True, "metrics": ["pearson"]}, GLUE_MEND),
        ({"text": "c"}, {}, "test.jsonl has no column 'label'"),
    ],
)
def test_a_test_split_that_cannot_be_scored_is_refused_by_name(
    row: dict[str, Any], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    three(tmp_path, [row, row])
    with pytest.raises(RequestError, match=said):
        data.load(task(tmp_path, **TESTED, **settings))


def test_a_validation_split_without_labels_is_refused_of_a_regression_too(tmp_path: Path) -> None:
    two_splits(tmp_path, ROWS, [{"text": "c", "label": -1}] * 3)
    with pytest.raises(RequestError, match=r"validation.jsonl: every label is -1; .*as test splits of GLUE have"):
        data.load(task(tmp_path, regression=True, metrics=["pearson"]))


def test_a_test_split_that_is_not_there_is_refused_with_the_mend(tmp_path: Path) -> None:
    two_splits(tmp_path, ROWS)
    with pytest.raises(RequestError, match=r"no test.jsonl.*task.test_splits, or hold out .*task.test_fraction=0.1"):
        data.load(task(tmp_path, **TESTED))
    file = write_jsonl(tmp_path / "one" / "all.jsonl", ROWS)
    with pytest.raises(RequestError, match=r"all.jsonl is one file; set task.test_fraction=0.1 to hold out test too"):
        data.load(task(file, validation_fraction=0.3, **TESTED))
    with pytest.raises(RequestError, match=r"all.jsonl is one file; set task.validation_fraction=0.1"):
        data.load(task(file, test_fraction=0.3, **TESTED))


@pytest.mark.parametrize("stratified", [False, True])
def test_one_file_parts_in_three_and_the_test_takes_nothing_from_validation(stratified: bool, tmp_path: Path) -> None:
    rows = [*sentences(300), *sentences(60)]  # some texts twice
    file = write_jsonl(tmp_path / "all.jsonl", rows)
    words: dict[str, Any] = {"validation_fraction": 0.2, "validation_stratified": stratified}
    two, three = data.load(task(file, **words)), data.load(task(file, **words, **TESTED, test_fraction=0.3))
    assert three.validation[0].index.tolist() == two.validation[0].index.tolist()
    parts = [three.train, *three.validation, *three.test]
    assert sorted(row for part in parts for row in part.index) == list(range(360))
    texts = [set(part.texts[0]) for part in parts]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert 0.2 < len(three.test[0]) / 360 < 0.4
    if stratified:
        assert abs(three.test[0].labels.mean() - 0.5) < 0.02
    assert {split["file"] for split in three.origin["splits"].values()} == {"all.jsonl"}
    again = data.load(task(file, **words, **TESTED, test_fraction=0.3, max_train_examples=30))
    assert again.test[0].index.tolist() == three.test[0].index.tolist()


@pytest.mark.parametrize("there", ["validation", "test"])
def test_a_file_that_is_there_is_not_held_out(there: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jsonl(tmp_path / "train.jsonl", sentences(100))
    write_jsonl(tmp_path / f"{there}.jsonl", sentences(10, start=100))
    with caplog.at_level(logging.WARNING, "rankbench"):
        loaded = data.load(task(tmp_path, validation_fraction=0.2, test_fraction=0.2, **TESTED))
    sizes = {split.name: len(split) for split in (*loaded.validation, *loaded.test)}
    assert sizes.pop(there) == 10 and 10 < next(iter(sizes.values())) < 30 and 70 < len(loaded.train) < 90
    key = "test_fraction" if there == "test" else "validation_fraction"
    assert f"task.{key}=0.2 holds nothing out: {there}.jsonl is there" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.test_splits=[train]"], "task.test_splits has train, which task.train_split trains on"),
        (["task.test_splits=[validation]"], "task.test_splits has validation, which task.validation_splits chooses by"),
        (["task.test_splits=[test,test]"], "task.test_splits has 'test' twice"),
        (["task.test_splits=[a/b]"], "task.test_splits"),
        (["task.test_fraction=0.2"], "task.test_splits=[test]"),
        (["task.test_fraction=0.2", "task.test_splits=[one,two]"], "holds out one split"),
        (["task.test_fraction=1", "task.test_splits=[test]"], "task.test_fraction=1.0 not in"),
        (
            ["task.test_fraction=0.5", "task.validation_fraction=0.5", "task.test_splits=[test]"],
            "task.test_fraction=0.5 leave nothing to train on",
        ),
    ],
)
def test_test_splits_that_contradict_the_others_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    assert said in refused("model=tiny_bert", "task=classification", f"task.data_dir={tmp_path}", *words)


def test_a_test_split_is_part_of_a_run_and_none_of_no_run(tiny: list[str]) -> None:
    plain = compose_run(*tiny).run_id
    assert compose_run(*tiny, "task.test_splits=[]", "task.test_fraction=0.0").run_id == plain
    assert compose_run(*tiny, "task.test_splits=[test]").run_id != plain
