"""A run says what its data are before it trains: rows, labels, what is cut, and what stands in both splits."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, compose_run, sentences, write_jsonl

from rankbench.errors import RequestError
from rankbench.models.backbone import byte_tokenizer
from rankbench.settings.task import Task
from rankbench.tasks import data
from rankbench.tasks.encoding import encode, encode_responses
from rankbench.tasks.overview import tell


def told(caplog: pytest.LogCaptureFixture, folder: Path, limit: int = 128, **settings: Any) -> dict[str, Any]:
    """The counts, after the splits in `folder` are read and tokenised."""
    caplog.set_level(logging.INFO, "rankbench")
    loaded = data.load(Task(name="made_up", data_dir=str(folder), **settings))
    how = encode_responses if loaded.kind == "causal_lm" else encode
    tokenizer = byte_tokenizer()
    return tell(
        loaded, [how(split, tokenizer, limit) for split in (loaded.train, *loaded.validation, *loaded.test)], limit
    )


def splits(folder: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]]) -> Path:
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "validation.jsonl", validation)
    return folder


def test_each_split_is_told_with_its_rows_and_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": f"t {i}", "label": ["bad", "good", "fair"][i % 3]} for i in range(7)]
    found = told(caplog, splits(tmp_path, rows, [{"text": f"v {i}", "label": "good"} for i in range(2)]))
    assert "train       7 rows: bad 3, fair 2, good 2" in caplog.messages
    assert "validation  2 rows: bad 0, fair 0, good 2" in caplog.messages
    assert found == {"train": {"cut": 0}, "validation": {"cut": 0, "in_train": 0}}
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.startswith("validation has no row of class bad, fair,")


def test_a_named_class_that_is_scored_and_never_trained_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": f"t {i}", "label": "good"} for i in range(4)]
    place = splits(tmp_path, rows, [{"text": "v 0", "label": "good"}, {"text": "v 1", "label": "bad"}])
    told(caplog, place, label_names=["bad", "good", "fair"])
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert warning == "train has no row of class bad, which validation has: nothing can learn it"


@pytest.mark.parametrize(("long", "warned"), [(1, False), (2, True)])
def test_more_than_a_twentieth_cut_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, long: int, warned: bool
) -> None:
    """Byte tokens: a text of n letters is n + 2; what just fits is not cut."""
    train = [{"text": "a" * (20 if i < long else 8) + f"{i:02d}", "label": i % 2} for i in range(20)]
    found = told(caplog, splits(tmp_path, train, sentences(2)[:2]), limit=12)
    assert found["train"]["cut"] == long
    assert any(f"train: {long} of 20 texts" in message for message in caplog.messages) == warned


def test_texts_of_both_splits_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = sentences(20)
    found = told(caplog, splits(tmp_path, rows, [*rows[:3], *sentences(4, start=90)]))
    assert found["validation"]["in_train"] == 3
    assert any("validation: 3 of 7 texts also stand in train" in message for message in caplog.messages)


def test_texts_of_a_test_split_that_stand_elsewhere_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, scored = sentences(20), sentences(6, start=90)
    write_jsonl(tmp_path / "test.jsonl", [*rows[:3], *scored[:2], *sentences(4, start=120)])
    found = told(caplog, splits(tmp_path, rows, scored), test_splits=["test"])
    assert found["test"] == {"cut": 0, "in_train": 3, "in_validation": 2}
    assert any("test: 3 of 9 texts also stand in train" in message for message in caplog.messages)
    assert any("test: 2 of 9 texts also stand in validation" in message for message in caplog.messages)


def test_a_pair_stands_in_both_splits_only_as_a_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [{"a": "x", "b": "y", "label": 0}, {"a": "u", "b": "v", "label": 1}]
    folder = splits(tmp_path, train, [{"a": "x", "b": "v", "label": 0}, train[1]])
    assert told(caplog, folder, text_columns=["a", "b"])["validation"]["in_train"] == 1


def test_scores_and_empty_responses_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scored = [{"text": f"{word} one", "label": label} for word, label in (("a", 0.5), ("b", 4), ("c", 3))]
    told(caplog, splits(tmp_path / "scores", scored, scored[:1]), regression=True, metrics=["pearson"])
    assert "train       3 rows: scores 0.5 to 4, mean 2.5" in caplog.messages
    rows = [{"q": "1", "a": "x"}, {"q": "2", "a": ""}, {"q": "3", "a": "z"}]
    words = {"prompts": ["{q}"], "response": "{a}", "metrics": ["loss"]}
    found = told(caplog, splits(tmp_path / "answers", rows, rows[2:]), **words)
    assert "train       3 rows, 1 with an empty response" in caplog.messages
    assert found["validation"]["in_train"] == 1


def test_many_classes_do_not_fill_the_screen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": f"t {i}", "label": f"class {i:03d}"} for i in range(100)]
    told(caplog, splits(tmp_path, rows, rows))
    (line,) = (message for message in caplog.messages if message.startswith("train "))
    assert line.endswith("class 007 1, and 92 classes more")


def test_a_run_tells_it_before_it_trains_and_its_record_keeps_it(
    call_main: Callable[..., Answer], tiny: list[str], tmp_path: Path
) -> None:
    answer = call_main(*tiny)
    assert answer.rc == 0, answer.err
    lines = [line.strip() for line in answer.err.splitlines()]
    assert lines.index("train       64 rows: 0 32, 1 32") < next(
        i for i, line in enumerate(lines) if "step 4/4" in line
    )
    (file,) = (tmp_path / "runs").glob("*/record.json")
    assert json.loads(file.read_text())["data"]["splits"]["validation"] == {
        **json.loads(file.read_text())["data"]["splits"]["validation"],
        "rows": 24,
        "labels": {"0": 12, "1": 12},
        "cut": 0,
        "in_train": 0,
    }


# What is held out


def held_out(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> data.Data:
    file = write_jsonl(folder / "all.jsonl", rows)
    return data.load(Task(name="made_up", data_dir=str(file), **settings))


def test_what_was_held_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rankbench")
    rows = [{"text": f"t {i // 10}", "label": i % 2} for i in range(100)]
    loaded = held_out(tmp_path, rows, validation_fraction=0.2)
    n = len(loaded.validation[0])
    assert data.load(Task(name="made_up", data_dir=str(tmp_path / "all.jsonl"), validation_fraction=0.2)) is loaded
    line, again = caplog.messages
    assert line == again, "in the log of each run of a process, though it is read once"
    assert line.startswith(f"hold out {n} of 100 rows of all.jsonl ({n} %) by a hash of each text")
    assert line.endswith("its 100 rows have 10 texts")


ROWS = [{"text": f"text {i}", "label": "rare" if i % 20 == 0 else "common"} for i in range(400)]


def test_a_stratified_part_has_the_share_of_each_class(tmp_path: Path) -> None:
    loaded = held_out(tmp_path, ROWS, validation_fraction=0.2, validation_stratified=True)
    assert loaded.origin["splits"]["validation"]["labels"] == {"common": 76, "rare": 4}
    again = held_out(tmp_path, ROWS[::-1], validation_fraction=0.2, validation_stratified=True)
    assert set(again.validation[0].texts[0]) == set(loaded.validation[0].texts[0])


def test_repeated_texts_are_counted_by_their_rows_and_stay_together(tmp_path: Path) -> None:
    """A third of the rows has one text: by texts alone a split of a fifth could hold out a third or more."""
    rows = [
        *({"text": "again", "label": 0} for _ in range(30)),
        *({"text": f"t {i}", "label": i % 2} for i in range(60)),
    ]
    loaded = held_out(tmp_path, rows, validation_fraction=0.2, validation_stratified=True)
    assert set(loaded.train.texts[0]).isdisjoint(loaded.validation[0].texts[0])
    assert abs(len(loaded.validation[0]) / len(rows) - 0.2) < 0.02
    share = Counter(loaded.validation[0].labels.tolist())
    assert share == {0: 12, 1: 6}


def test_shares_of_classes_are_for_a_classification_that_holds_out(tmp_path: Path) -> None:
    words = ["task=classification", f"task.data_dir={tmp_path}", "model=tiny_bert", "task.validation_stratified=true"]
    with pytest.raises(RequestError, match=r"task\.validation_fraction=0\.1"):
        compose_run(*words)
    compose_run(*words, "task.validation_fraction=0.1")
    with pytest.raises(RequestError, match="and a classification"):
        compose_run(*words, "task.validation_fraction=0.1", "task.regression=true", "task.metrics=[pearson]")


# Sub-models that answer one class


def test_a_run_that_learns_nothing_says_so(call_main: Callable[..., Answer], tiny: list[str], tmp_path: Path) -> None:
    """No step moves the model far: every rank answers one class, and half of the examples are of it."""
    rows = [{"text": f"the same words, {i % 10}", "label": ["ham", "spam"][i % 4 == 0]} for i in range(40)]
    data_dir = splits(tmp_path / "data", rows, [row | {"text": row["text"] + "!"} for row in rows])
    answer = call_main(*tiny, f"task.data_dir={data_dir}", "train.learning_rate=1e-9", "task.metrics=[f1_macro]")
    assert answer.rc == 0, answer.err
    (file,) = (tmp_path / "runs").glob("*/record.json")
    said = {sub.get("one_class") for sub in json.loads(file.read_text())["submodels"]}
    assert len(said) == 1 and said <= {"ham", "spam"}
    told = " ".join(answer.out.split())
    assert f"Every sub-model answers {said.pop()} for every example, so its score is that of no model at all." in told


# Metrics that say nothing


SAME = "where every label is the same"


@pytest.mark.parametrize(
    ("metric", "labels", "settings", "why"),
    [
        ("pearson", [2.5, 2.5], {"regression": True}, SAME),
        ("spearman", [2.5, 2.5], {"regression": True}, SAME),
        ("matthews_correlation", [1, 1], {}, SAME),
        ("r2", [2.5, 2.5], {"regression": True}, SAME),
        ("roc_auc", [1, 1], {}, SAME),
        ("average_precision", [0, 0], {}, SAME),
        *((one, [0, 0], {}, "where no label is of its class") for one in ("f1", "precision", "recall")),
    ],
)
def test_a_metric_that_is_undefined_over_the_labels_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metric: str, labels: list[Any], settings: dict[str, Any], why: str
) -> None:
    train = [{"text": f"t {i}", "label": i % 2} for i in range(8)]
    folder = splits(tmp_path, train, [{"text": f"v {i}", "label": label} for i, label in enumerate(labels)])
    told(caplog, folder, metrics=[metric], **settings)
    assert f"{metric} is undefined on validation, {why}: its value says nothing." in caplog.messages
    caplog.clear()
    told(caplog, splits(tmp_path, train, train), metrics=[metric], **settings)
    assert not any("undefined" in message for message in caplog.messages)


def test_a_regression_without_anything_to_learn_says_so(
    call_main: Callable[..., Answer], tiny: list[str], tmp_path: Path
) -> None:
    """Labels of one value: in the log before training, in the record, in the summary and beside every table."""
    folder = splits(tmp_path / "d", *([{"text": f"{s} {i}", "label": 2.5} for i in range(9)] for s in "tv"))
    answer = call_main(*tiny, f"task.data_dir={folder}", "task.regression=true", "task.metrics=[pearson,spearman]")
    assert answer.rc == 0, answer.err
    assert "train: every label is 2.5, so there is nothing to learn" in answer.err
    said = f"spearman is undefined on validation, {SAME}: its value says nothing."
    assert said in answer.err and said in " ".join(answer.out.split())
    shown = call_main("table", "leaderboard", str(tmp_path / "runs"))
    assert said.replace("spearman", "pearson") in " ".join(shown.out.split())


def test_a_regression_that_answers_one_value_says_so(
    call_main: Callable[..., Answer], tiny: list[str], tmp_path: Path
) -> None:
    """Every scored text is the same, so every answer is."""
    rows = [{"text": f"t {i}", "label": i / 2} for i in range(9)]
    folder = splits(tmp_path / "d", rows, [{"text": "same", "label": i} for i in range(4)])
    answer = call_main(*tiny, f"task.data_dir={folder}", "task.regression=true", "task.metrics=[pearson]")
    assert answer.rc == 0, answer.err
    assert "for every example, so its score is that of no model at all." in " ".join(answer.out.split())
    (file,) = (tmp_path / "runs").glob("*/record.json")
    assert all(sub["one_value"] in answer.out for sub in json.loads(file.read_text())["submodels"])


@pytest.mark.parametrize(
    ("labels", "twins"),
    [
        (["Neg", "neg", "pos"], "'Neg' and 'neg'"),
        (["neg", '"neg"', "pos"], """'"neg"' and 'neg'"""),
        (["so so", "so  so", "pos"], "'so  so' and 'so so'"),
        (["0", "1", "true"], "'1' and 'True'"),
        ([0, 1, False], "'0' and 'False'"),
        (["neg", "NEG", "Neg"], "'NEG' and 'Neg' and 'neg'"),
        (["neg", "pos", "negative"], None),
        (["1", "01", "10"], None),
    ],
)
def test_labels_that_hardly_differ_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: list[Any], twins: str | None
) -> None:
    rows = [{"text": f"t {i}", "label": label} for i, label in enumerate(labels * 2)]
    told(caplog, splits(tmp_path, rows, rows))
    said = [message for message in caplog.messages if "are classes of their own" in message]
    assert said == ([] if twins is None else [f"{twins} {said[0].split(' ', twins.count(' ') + 1)[-1]}"])


def test_nearly_a_class_for_each_row_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": f"t {i}", "label": f"id {i}"} for i in range(60)]
    told(caplog, splits(tmp_path, rows, rows))
    said = "column 'label' of train.jsonl has 60 labels in 60 rows: nearly a class for each; for a regression give "
    assert any(message.startswith(said) for message in caplog.messages)
    caplog.clear()
    told(caplog, splits(tmp_path, rows * 3, rows))
    assert not any("nearly" in message for message in caplog.messages)
