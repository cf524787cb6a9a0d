"""Labels are read as written and matched by name, whatever type each file gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import write_jsonl

from rankbench.errors import RequestError
from rankbench.settings.metrics import METRICS
from rankbench.settings.task import Task
from rankbench.tasks import data
from rankbench.tasks.labels import Classes, classes_found, classes_named, written


def task(folder: Path, **settings: Any) -> Task:
    return Task(name="made_up", data_dir=str(folder), **settings)


def write(file: Path, labels: list[Any]) -> None:
    """Rows with these labels, in the format that the file's name says."""
    if file.suffix == ".jsonl":
        rows = [{"text": f"{file.stem} {i}", "label": label} for i, label in enumerate(labels)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".parquet":
        pd.DataFrame({"text": [f"{file.stem} {i}" for i in range(len(labels))], "label": labels}).to_parquet(file)
    else:
        gap = "\t" if file.suffix == ".tsv" else ","
        lines = [f"text{gap}label", *(f"{file.stem} {i}{gap}{label}" for i, label in enumerate(labels))]
        file.write_text("\n".join(lines) + "\n")


def numbers(folder: Path, train: str, trained: list[Any], scored_in: str, scored: list[Any], **settings: Any) -> Any:
    """(names, numbers of the training labels, of the validation labels)."""
    write(folder / f"train{train}", trained)
    write(folder / f"validation{scored_in}", scored)
    loaded = data.load(task(folder, **settings))
    return loaded.label_names, loaded.train.labels.tolist(), loaded.validation[0].labels.tolist()


TYPES = {
    "texts against numbers": (".jsonl", ["1", "2", "3"], ".csv", [1, 2], ("1", "2", "3"), [0, 1, 2], [0, 1]),
    "numbers against texts": (".csv", [1, 2, 3], ".jsonl", ["3", "1"], ("1", "2", "3"), [0, 1, 2], [2, 0]),
    "one and one in texts": (".jsonl", [1, "1", 0, "0"], ".jsonl", ["0", 1], ("0", "1"), [1, 1, 0, 0], [0, 1]),
    "one and one point nought": (".jsonl", [1.0, 1, 2], ".csv", ["1.0", "2.0"], ("1", "2"), [0, 0, 1], [0, 1]),
    "leading noughts": (".csv", ["01", "02", "AA"], ".csv", ["02", "01"], ("01", "02", "AA"), [0, 1, 2], [1, 0]),
    "a nought before, and none": (".csv", ["1", "01"], ".csv", ["01", "1"], ("1", "01"), [0, 1], [1, 0]),
    "gaps": (".csv", [100, 205, 900], ".csv", [900, 100], ("100", "205", "900"), [0, 1, 2], [2, 0]),
    "stars": (".jsonl", [1, 2, 3, 4, 5], ".csv", [5, 1], ("1", "2", "3", "4", "5"), [0, 1, 2, 3, 4], [4, 0]),
    "large": (".jsonl", [1234567890123, 7], ".csv", [7], ("7", "1234567890123"), [1, 0], [0]),
    "beyond a float": (".csv", [9007199254740993, 9007199254740992], ".csv", [9007199254740993], None, [1, 0], [1]),
    "by value, not by letter": (".csv", [10, 9, 2], ".csv", [2, 10], ("2", "9", "10"), [2, 1, 0], [0, 2]),
    "numbers and words": (".csv", [1, 0, "neutral"], ".csv", [0], ("0", "1", "neutral"), [1, 0, 2], [0]),
    "negative": (".csv", [-1, 1], ".jsonl", [1, -1], ("-1", "1"), [0, 1], [1, 0]),
    "from -2 to 2": (".csv", [-2, -1, 0, 1, 2], ".csv", [-1], ("-2", "-1", "0", "1", "2"), [0, 1, 2, 3, 4], [1]),
    "true in json, in csv": (".jsonl", [True, False], ".csv", ["true", "FALSE"], ("False", "True"), [1, 0], [1, 0]),
    "spaces around": (".csv", [" yes", "no "], ".jsonl", ["no", "yes"], ("no", "yes"), [1, 0], [0, 1]),
    "parquet floats": (".parquet", [1.0, 2.0], ".csv", [2, 1], ("1", "2"), [0, 1], [1, 0]),
    "words that look empty": (
        ".csv",
        ["NA", "None", "null"],
        ".jsonl",
        ["null"],
        ("NA", "None", "null"),
        [0, 1, 2],
        [2],
    ),
    "case counts": (".csv", ["Yes", "yes"], ".csv", ["yes"], ("Yes", "yes"), [0, 1], [1]),
}


@pytest.mark.parametrize("case", TYPES)
def test_a_label_is_matched_by_name_whatever_its_type(tmp_path: Path, case: str) -> None:
    train, trained, scored_in, scored, names, first, second = TYPES[case]
    found = numbers(tmp_path, train, trained, scored_in, scored)
    assert found[1:] == (first, second)
    assert names is None or found[0] == names


@pytest.mark.full
def test_a_word_after_many_numbers_is_one_class_more(tmp_path: Path) -> None:
    """pandas gives parts of a long column types of their own: 0 and "0" were two classes."""
    write(tmp_path / "train.csv", [*([0, 1] * 300_000), "neutral"])
    write(tmp_path / "validation.csv", [1, 0, "neutral"])
    loaded = data.load(task(tmp_path))
    assert loaded.label_names == ("0", "1", "neutral")
    assert loaded.origin["splits"]["train"]["labels"] == {"0": 300_000, "1": 300_000, "neutral": 1}
    assert loaded.validation[0].labels.tolist() == [1, 0, 2]


GIVEN = {
    "places": (["negative", "positive"], [0, 1], [1, 0], [0, 1], [1, 0]),
    "places in texts": (["negative", "positive"], ["0", "1"], [1, "0"], [0, 1], [1, 0]),
    "names": (["positive", "negative"], ["negative", "positive"], ["positive"], [1, 0], [0]),
    "names, then places": (["no", "yes"], ["no", "yes"], [1, 0], [0, 1], [1, 0]),
    "numbers the other way": (["1", "0"], [0, 1], ["1", 0], [1, 0], [0, 1]),
    "numbers from one": (["1", "2"], [1, 2], [2, "1"], [0, 1], [1, 0]),
    "numbers from one that are places": (["1", "2", "3"], [0, 1, 2], [1], [0, 1, 2], [1]),
    "-1 as a class": (["-1", "0", "1"], [-1, 0, 1], [0, -1], [0, 1, 2], [1, 0]),
}


@pytest.mark.parametrize("case", GIVEN)
def test_names_that_are_given_are_names_or_places(tmp_path: Path, case: str) -> None:
    names, trained, scored, first, second = GIVEN[case]
    found = numbers(tmp_path, ".jsonl", trained, ".jsonl", scored, label_names=names)
    assert found == (tuple(names), first, second)


WRONG = {
    "a label that training lacks": (
        [1, 2],
        [1, 3],
        {},
        ["validation.csv row 1 (from 0): label '3'", "training split", "1, 2"],
    ),
    "fractions": ([0.5, 1], [1], {}, ["'label' of train.csv", "fractions (0.5)", "task.regression=true"]),
    "no label": (["a", "", "b"], ["a"], {}, ["train.csv row 1 (from 0) has no label"]),
    "no label at all": (["", ""], ["a"], {}, ["train.csv row 0 (from 0) has no label"]),
    "infinite": ([0, 1, "inf"], [0], {}, ["train.csv has inf, which is no class"]),
    "not a number": ([0, 1, "nan"], [0], {}, ["train.csv has nan, which is no class"]),
    "rows without a label": ([0, 1, 2, -1, -1], [0], {}, ["-1 in 2 rows", "remove", "label_names=[-1,0,1,2]"]),
    "scored rows without a label": ([0, 1], [0, -1], {}, ["validation.csv row 1", "-1 marks a row without a label"]),
    "too many": (list(range(1001)), [0], {}, ["1,001 classes", "2 to 1000", "task.regression=true"]),
    "one": (["a", "a"], ["a"], {}, ["one class alone (a)"]),
    "a name twice": (["a", "b"], ["a"], {"label_names": ["a", "a", "b"]}, ["task.label_names has 'a' twice"]),
    "a name twice, as numbers": ([0, 1], [0], {"label_names": ["1", "1.0"]}, ["task.label_names has '1' twice"]),
    "beyond the names": (
        [0, 1, 2],
        [0],
        {"label_names": ["no", "yes"]},
        ["train.csv row 2 (from 0): label '2'", "0..1"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_label_is_refused_with_its_row(tmp_path: Path, case: str) -> None:
    trained, scored, settings, expected = WRONG[case]
    write(tmp_path / "train.csv", trained)
    write(tmp_path / "validation.csv", scored)
    with pytest.raises(RequestError) as refusal:
        data.load(task(tmp_path, **settings))
    assert not [words for words in expected if words not in str(refusal.value)], refusal.value


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_label_that_is_missing_or_a_list_is_refused_with_its_row(tmp_path: Path, value: Any, suffix: str) -> None:
    if suffix == ".parquet":
        column = pd.array([0, 1, None], dtype="Int64") if value is None else [None, None, value]
        pd.DataFrame({"text": list("abc"), "label": column}).to_parquet(tmp_path / "train.parquet")
    else:
        write(tmp_path / "train.jsonl", [0, 1, value])
    write(tmp_path / "validation.jsonl", [0])
    with pytest.raises(RequestError, match=r"train\.(jsonl|parquet) row [02]"):
        data.load(task(tmp_path))


@pytest.mark.parametrize(("value", "expected"), [("2.50", 2.5), (3, 3.0), (" 4 ", 4.0)])
def test_a_score_is_a_number_in_text_too(tmp_path: Path, value: Any, expected: float) -> None:
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.jsonl", [value, 1])
    loaded = data.load(task(tmp_path, regression=True, metrics=["pearson"]))
    assert loaded.train.labels.tolist() == [expected, 1.0]


@pytest.mark.parametrize("value", ["inf", "nan", "", "high", "1,5"])
def test_what_is_no_score_is_refused_with_its_row(tmp_path: Path, value: str) -> None:
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.tsv", [1, value])
    with pytest.raises(RequestError, match=r"train\.tsv row 1 \(from 0\)(: label .* is not a number| has no label)"):
        data.load(task(tmp_path, regression=True, metrics=["pearson"]))


def test_the_classes_of_a_finished_run_are_matched_by_name(tmp_path: Path) -> None:
    """Other data of the same classes, which lack one or have one more: nothing is shifted."""
    write(tmp_path / "train.csv", [2, 3])
    write(tmp_path / "validation.csv", [3, 2, 3])
    loaded = data.load(task(tmp_path), classes=["1", "2", "3"])
    assert loaded.label_names == ("1", "2", "3") and loaded.validation[0].labels.tolist() == [2, 1, 2]
    write(tmp_path / "validation.csv", [0, 2])
    with pytest.raises(RequestError, match=r"validation\.csv row 0 \(from 0\): label '0' is not"):
        data.load(task(tmp_path), classes=["1", "2", "3"])


def test_every_order_of_the_rows_gives_the_same_classes() -> None:
    labels = ["b", 10, "a", 9, "07", True]
    assert (
        classes_found(labels, "x").names
        == classes_found(labels[::-1], "x").names
        == ("9", "10", "07", "True", "a", "b")
    )


def test_a_name_is_one_for_every_way_to_write_a_number() -> None:
    assert {written(value) for value in (1, 1.0, "1", "1.0", " 1 ", "+1", "1.")} == {"1"}
    assert {written(value) for value in (None, "", "  ", float("nan"))} == {None}
    assert [written(value) for value in ("01", "1e3", "-0", True, "TRUE")] == ["01", "1e3", "0", "True", "True"]


def test_places_reach_no_further_than_the_names() -> None:
    classes = classes_named(["no", "yes"], [0, 1])
    assert classes.numbers([0, 1, 2, -1, "1", "yes", "maybe", 1.5]) == [0, 1, None, None, 1, 1, None, None]
    assert Classes(("0", "5")).numbers([5, "0", 1]) == [1, 0, None]


# The class that f1 is of


FRAUD = ["ok", "ok", "fraud", "ok"]


def roles(folder: Path, labels: list[Any], **settings: Any) -> tuple[int, int, Any]:
    """(classes, the positive one's number, what the record says of it)."""
    for name in ("train", "validation"):
        write(folder / f"{name}.csv", labels)
    loaded = data.load(task(folder, **settings))
    found = loaded.validation[0].roles
    return found.count, found.positive, loaded.origin.get("positive_label")


def test_f1_is_of_the_label_that_is_named_whatever_its_place_in_the_alphabet(tmp_path: Path) -> None:
    assert roles(tmp_path, FRAUD, metrics=["f1"], positive_label="fraud") == (2, 0, "fraud")
    assert roles(tmp_path, FRAUD, metrics=["f1"], positive_label="ok") == (2, 1, "ok")
    assert roles(tmp_path, [1, 2, 3], metrics=["f1"], positive_label="2.0") == (3, 1, "2")
    assert roles(tmp_path, FRAUD, metrics=["f1_macro"]) == (2, 1, None)


def test_f1_of_named_classes_and_of_0_and_1_is_of_the_second(tmp_path: Path) -> None:
    assert roles(tmp_path, [0, 1], metrics=["f1"]) == (2, 1, "1")
    assert roles(tmp_path, [-1, 1], metrics=["f1"]) == (2, 1, "1")
    assert roles(tmp_path, [True, False], metrics=["f1"]) == (2, 1, "True")
    assert roles(tmp_path, [0, 1], metrics=["f1"], label_names=["other", "same"]) == (2, 1, "same")


@pytest.mark.parametrize("labels", [FRAUD, ["a", "b", "c"], [1, 2]])
def test_f1_of_classes_of_which_none_is_the_positive_one_asks_which(tmp_path: Path, labels: list[Any]) -> None:
    with pytest.raises(RequestError, match=r"which is of one class .* task\.positive_label=\S+, or take f1_macro"):
        roles(tmp_path, labels, metrics=["f1"])


@pytest.mark.parametrize("metric", ["precision", "recall", "average_precision", "f1", "roc_auc"])
def test_a_metric_of_one_class_is_of_the_one_that_is_named(tmp_path: Path, metric: str) -> None:
    assert roles(tmp_path, FRAUD, metrics=[metric], positive_label="fraud") == (2, 0, "fraud")


@pytest.mark.parametrize("metric", ["precision", "recall", "average_precision"])
def test_a_metric_of_one_class_asks_which(tmp_path: Path, metric: str) -> None:
    with pytest.raises(RequestError, match=rf"{metric}, which is of one class .* task\.positive_label=fraud"):
        roles(tmp_path, FRAUD, metrics=["accuracy", metric])


def test_what_is_the_same_for_either_class_or_over_all_asks_nothing(tmp_path: Path) -> None:
    assert roles(tmp_path, FRAUD, metrics=["roc_auc", "log_loss", "ece", "recall_macro"]) == (2, 1, None)
    assert roles(tmp_path, ["a", "b", "c"], metrics=["roc_auc", "average_precision"]) == (3, 1, None)


def test_a_positive_label_that_no_metric_is_of_is_refused() -> None:
    with pytest.raises(RequestError, match=r"is what f1, precision, recall, roc_auc, average_precision are of"):
        Task(name="made_up", metrics=["accuracy", "log_loss"], positive_label="a").check()


@pytest.mark.parametrize(
    ("metric", "more", "kind"),
    [
        *((name, {"regression": True}, "regression") for name in ("roc_auc", "precision", "log_loss", "ece", "loss")),
        *((name, {}, "classification") for name in ("mse", "mae", "r2", "loss", "bleu_sacre")),
        *((name, {"prompts": ["{a}"], "response": "{b}"}, "causal_lm") for name in ("log_loss", "roc_auc", "r2")),
    ],
)
def test_a_metric_of_another_kind_is_refused_with_those_that_fit(metric: str, more: dict[str, Any], kind: str) -> None:
    fitting = [name for name, measure in METRICS.items() if measure.kind == kind]
    with pytest.raises(RequestError, match=f"{metric} does not score a {kind} task; use {', '.join(fitting)}"):
        Task(name="made_up", metrics=[metric], **more).check()


def test_a_positive_label_that_is_no_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"task\.positive_label=good is none of the classes \(fraud, ok\)"):
        roles(tmp_path, FRAUD, metrics=["f1"], positive_label="good")


# Labels that are no classes


MEND = "for a regression give task.regression=true; if another column has the class, set task.label_column"


def columns(folder: Path, train: list[Any], validation: list[Any]) -> Path:
    for name, labels in (("train", train), ("validation", validation)):
        rows = [{"text": f"{name} {i}", "label": label} for i, label in enumerate(labels)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def test_numbers_with_a_comma_are_told_how_to_be_written(tmp_path: Path) -> None:
    scores = [f"0,{i:03d}" for i in range(100, 200)]
    folder = columns(tmp_path, scores, scores[:9])
    with pytest.raises(RequestError) as refusal:
        data.load(Task(name="made_up", data_dir=str(folder)))
    assert "holds numbers with a comma (0,100); write 0.100, and " in str(refusal.value)
    assert str(refusal.value).endswith(MEND)
    with pytest.raises(
        RequestError, match=r"label '0,100' is not a number; a number has a decimal point: write 0\.100"
    ):
        data.load(Task(name="made_up", data_dir=str(folder), regression=True, metrics=["pearson"]))


def test_few_labels_with_a_comma_are_classes(tmp_path: Path) -> None:
    folder = columns(tmp_path, ["1,2", "1,3", "2"] * 10, ["1,2"])
    assert data.load(Task(name="made_up", data_dir=str(folder))).label_names == ("2", "1,2", "1,3")


@pytest.mark.parametrize("labels", [list(range(60)), [f"id {i}" for i in range(60)]])
@pytest.mark.parametrize("seen", [True, False])
def test_nearly_a_class_for_each_row_is_told(
    tmp_path: Path, labels: list[Any], seen: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong column, or a regression: a share of each class held out would mend nothing."""
    folder = columns(tmp_path, labels, labels[:9] if seen else ["never seen"])
    if seen:
        found = data.load(Task(name="made_up", data_dir=str(folder)))
        assert found.unlike == "column 'label' of train.jsonl has 60 labels in 60 rows"
        return
    with pytest.raises(RequestError) as refusal:
        data.load(Task(name="made_up", data_dir=str(folder)))
    assert f"has 60 labels in 60 rows; {MEND}" in str(refusal.value)


def test_held_out_labels_of_a_column_of_their_own_are_not_called_rare_classes(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "all.jsonl", [{"text": f"t {i}", "label": f"id {i}"} for i in range(60)])
    with pytest.raises(RequestError) as refusal:
        data.load(Task(name="made_up", data_dir=str(file), validation_fraction=0.2))
    assert MEND in str(refusal.value) and "validation_stratified" not in str(refusal.value)


def test_too_many_classes_are_told_what_they_may_be(tmp_path: Path) -> None:
    folder = columns(tmp_path, [f"id {i}" for i in range(1200)], ["id 1"])
    with pytest.raises(RequestError, match=f"has 1,200 classes; a classification needs 2 to 1000; {MEND}"):
        data.load(Task(name="made_up", data_dir=str(folder)))
    with pytest.raises(RequestError, match=r"has one class alone \(a\); a classification needs 2 to 1000"):
        data.load(Task(name="made_up", data_dir=str(columns(tmp_path / "one", ["a"], ["a"]))))


@pytest.mark.parametrize("key", ["text_columns", "validation_splits"])
def test_one_column_or_split_twice_is_refused(key: str) -> None:
    with pytest.raises(RequestError, match=f"task.{key} has 'q' twice; give each once"):
        Task(name="made_up", data_dir=".", **{key: ["q", "q"]}).check()
