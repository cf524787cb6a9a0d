"""Files are read as they are written; what would become other rows or other values is refused with its line."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import sentences, write_jsonl

from rankbench.errors import RequestError
from rankbench.settings.sources import Source, fingerprint
from rankbench.settings.task import Task
from rankbench.tasks import data
from rankbench.tasks.reading import pieces, read


def task(folder: Path, **settings: Any) -> Task:
    return Task(name="made_up", data_dir=str(folder), **settings)


def question(folder: Path, **settings: Any) -> Task:
    return task(folder, prompts=["{q}"], response="{a}", metrics=["exact_match"], **settings)


def beside(folder: Path, name: str, content: str | bytes) -> Path:
    """That file as the training split, beside a validation split."""
    (folder / "validation.csv").write_text("text,label\nv,0\nw,1\n")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def refused(folder: Path, name: str, content: str | bytes, expected: list[str]) -> None:
    """That training split is refused in one line that names the file and says all that is expected."""
    with pytest.raises(RequestError) as refusal:
        data.load(task(beside(folder, name, content)))
    assert name in str(refusal.value) and "\n" not in str(refusal.value)
    assert not [words for words in expected if words not in str(refusal.value)], refusal.value


UNEVEN = {
    "a delimiter at every end": ("train.csv", "text,label\na,0,\nb,1,\n", ["line 2 has 3", "(text, label)", "ends of"]),
    "a comma in every text": ("train.csv", "text,label\na, b,0\nc, d,1\n", ["line 2 has 3", "in quotes"]),
    "a comma in one text": ("train.csv", "text,label\na,0\nc, d,1\n", ["line 3 has 3", "in quotes"]),
    "a short row": ("train.csv", 'text,label\n"a\nb",0\nc\nd,1\n', ["line 4 has 1", "missing fields"]),
    "names of rows": ("train.csv", "text,label\n1,a,0\n2,b,1\n", ["line 2 has 3"]),
    "a line break in a tsv": ("train.tsv", "text\tlabel\na\nb\t0\nc\t1\n", ["line 2 has 1 tab-", ".csv or .jsonl"]),
    "a lone return in a tsv": ("train.tsv", "text\tlabel\na\rb\t0\nc\t1\n", ["line 2 has 1 tab-", ".csv or .jsonl"]),
    "a tab in a text": ("train.tsv", "text\tlabel\na\tb\t0\nc\t1\n", ["line 2 has 3 tab-"]),
    "an open quote": ("train.csv", 'text,label\na,0\n"b,1\nc,0\n', ["line 3", "close the field"]),
    "a quote that ends too soon": ("train.csv", 'text,label\n"a" b,0\nc,1\n', ["line 2", "twice"]),
    "semicolons": ("train.csv", "text;label\na, b;0\nc;1\n", ["line 2", "semicolon"]),
    "two columns of one name": ("train.csv", "text,label,label\na,0,1\nb,1,0\n", ["two columns 'label'"]),
}


@pytest.mark.parametrize("case", UNEVEN)
def test_rows_that_do_not_fit_the_header_are_refused_with_file_line_and_mend(tmp_path: Path, case: str) -> None:
    refused(tmp_path, *UNEVEN[case])


READ = {
    "quotes, commas and line breaks": ("train.csv", 'text,label\n"a, ""b""\nc",0\nd,1\n', ['a, "b"\nc', "d"]),
    "windows' line ends": ("train.csv", "text,label\r\na,0\r\nb,1\r\n", ["a", "b"]),
    "old line ends": ("train.csv", "text,label\ra,0\rb,1\r", ["a", "b"]),
    "a byte order mark": ("train.csv", b"\xef\xbb\xbftext,label\na,0\nb,1\n", ["a", "b"]),
    "an index that was saved": ("train.csv", ",text,label\n0,a,0\n1,b,1\n", ["a", "b"]),
    "blank lines": ("train.csv", "text,label\n\na,0\n\nb,1\n\n", ["a", "b"]),
    "no line end at the end": ("train.csv", "text,label\na,0\nb,1", ["a", "b"]),
    "quotes in a tsv": ("train.tsv", 'text\tlabel\n"a\t0\nb"\t1\n', ['"a', 'b"']),
    "a long text": ("train.csv", f"text,label\n{'a' * 200_000},0\nb,1\n", ["a" * 200_000, "b"]),
    "lines in .json": ("train.json", '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n', ["a", "b"]),
    "columns in .json": ("train.json", '{"text": ["a", "b"], "label": [0, 1]}', ["a", "b"]),
    "pandas' own .json": ("train.json", pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}).to_json(), ["a", "b"]),
    "an unbroken list": ("train.json", '[{"text": "a", "label": 0}, {"text": "b", "label": 1}]', ["a", "b"]),
    "a mark before jsonl": (
        "train.jsonl",
        b'\xef\xbb\xbf{"text": "a", "label": 0}\n{"label": 1, "text": "b"}',
        ["a", "b"],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_written_is_what_is_read(tmp_path: Path, case: str) -> None:
    name, content, texts = READ[case]
    train = data.load(task(beside(tmp_path, name, content))).train
    assert (train.texts, train.labels.tolist()) == ((texts,), [0, 1])


NO_DATA = {
    "lfs": ("train.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", ["git lfs pull"]),
    "lfs, parquet": ("train.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", ["git lfs pull"]),
    "utf-16": ("train.csv", "text,label\na,0\nb,1\n".encode("utf-16"), ["UTF-16", "task.encoding=utf-16"]),
    "a broken line": (
        "train.jsonl",
        '{"text": "a", "label": 0}\n{"text": "b", "label"\n',
        ["train.jsonl line 2, column"],
    ),
    "half a character": ("train.jsonl", '{"text": "a \\ud83d\\ude00"}\n{"text": "\\ud800"}\n', ["line 2", "half a"]),
    "half a character in a list": ("train.json", '[{"text": "\\uDC00"}]', ["train.json", "half a character"]),
    "no object": ("train.jsonl", '{"text": "a", "label": 0}\n[1]\n', ["train.jsonl line 2 is no object"]),
    "rows below a key": ("train.json", '{"version": 1, "data": [{"text": "a"}]}', ["below 'data'"]),
    "a broken list": ("train.json", '[{"text": "a",\n "label": 0},\n {"text"]', ["line 3, column"]),
    "no list of objects": ("train.json", "[1, 2]", ["no list of objects"]),
    "columns of two lengths": ("train.json", '{"text": ["a"], "label": [0, 1]}', ["several lengths"]),
}


@pytest.mark.parametrize("case", NO_DATA)
def test_what_is_no_data_is_named_with_what_to_do(tmp_path: Path, case: str) -> None:
    refused(tmp_path, *NO_DATA[case])


def test_utf_16_is_read_where_it_is_named(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text("text,label\nnaïve,0\nb,1\n", encoding="utf-16")
    assert data.load(task(tmp_path, encoding="utf-16")).train.texts == (["naïve", "b"],)


@pytest.mark.parametrize("name", ["train.xlsx", "my.ods", "my.txt"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str) -> None:
    beside(tmp_path, name, b"PK\x03\x04")
    asked = task(tmp_path) if name == "train.xlsx" else task(tmp_path / name, validation_fraction=0.1)
    with pytest.raises(RequestError, match=r"save (it|train\.xlsx) as"):
        data.load(asked)


# Values of parquet, and of questions and answers


def test_parquet_gives_what_it_stores(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([12, None], dtype="Int64"),
            "large": np.array([9007199254740993, 1], dtype=np.int64),
            "single": np.array([0.1, 2.5], dtype=np.float32),
            "decimal": [Decimal("1.50"), Decimal("2.00")],
            "day": [date(2024, 2, 29), date(2024, 3, 1)],
            "kind": pd.Categorical(["x", "y"]),
            "list": [["a"], []],
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    assert read([tmp_path / "a.parquet"], "utf-8").to_dict("list") == {
        "whole": [12, None],
        "large": [9007199254740993, 1],
        "single": [0.1, 2.5],
        "decimal": [Decimal("1.50"), Decimal("2.00")],
        "day": [date(2024, 2, 29), date(2024, 3, 1)],
        "kind": ["x", "y"],
        "list": [["a"], []],
    }


def test_numbers_of_parquet_stand_in_prompts_as_they_are_stored(tmp_path: Path) -> None:
    columns = {
        "q": pd.array([12, 7], dtype="Int64"),
        "other": pd.array([3, None], dtype="Int64"),
        "a": np.array([0.1, 9007199254740992], dtype=np.float32),
    }
    frame = pd.DataFrame(columns)
    for name in ("train", "validation"):
        frame.to_parquet(tmp_path / f"{name}.parquet")
    settings = {"prompts": ["{q} and {other}", "{q}"], "response": "{a}", "metrics": ["exact_match"]}
    assert data.load(task(tmp_path, **settings)).train.texts[0] == ["12 and 3", "7"]
    assert data.load(task(tmp_path, **settings)).train.texts[1][0] == "0.1"


@pytest.mark.parametrize("content", ["q,a\n1,x\n2,\n", "q,a\n1,x\n2\n"], ids=["empty", "short"])
def test_an_answer_that_is_not_there_is_refused(tmp_path: Path, content: str) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text(content)
    with pytest.raises(RequestError, match=r"train\.csv (row 1|line 3)"):
        data.load(question(tmp_path))


def test_an_answer_that_is_written_as_empty_is_one(tmp_path: Path) -> None:
    """Alpaca has some: they are trained on, and counted in what a run says of its data."""
    for name in ("train", "validation"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"q": "1", "a": "x"}, {"q": "2", "a": ""}])
    assert data.load(question(tmp_path)).train.texts[1] == ["x", ""]


def test_aliases_are_stripped_as_predictions_are(tmp_path: Path) -> None:
    rows = [{"q": "1", "a": " Paris ", "other": [" paris", "PARIS ", "  "]}]
    for name in ("train", "validation"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    loaded = data.load(question(tmp_path, aliases_column="other"))
    assert loaded.train.references == (("Paris", "paris", "PARIS"),)


# Shards


def shards(folder: Path, rows: list[dict[str, Any]], n: int, suffix: str = "parquet") -> None:
    parts = np.array_split(np.arange(len(rows)), n)
    for i, part in enumerate(parts):
        file = folder / f"train-{i:05d}-of-{n:05d}.{suffix}"
        chosen = [rows[row] for row in part]
        write_jsonl(file, chosen) if suffix == "jsonl" else pd.DataFrame(chosen).to_parquet(file)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("n", [1, 2, 12])
def test_all_shards_of_a_split_are_read_in_order(tmp_path: Path, n: int, suffix: str) -> None:
    rows = sentences(30)
    shards(tmp_path, rows, n, suffix)
    write_jsonl(tmp_path / "validation.jsonl", sentences(4))
    loaded = data.load(task(tmp_path))
    assert loaded.train.texts[0] == [row["text"] for row in rows]
    assert loaded.train.index.tolist() == list(range(30))
    assert loaded.origin["splits"]["train"]["rows"] == 30
    (tmp_path / f"train-{n - 1:05d}-of-{n:05d}.{suffix}").touch()
    assert n == 1 or "..." in loaded.origin["splits"]["train"]["file"]


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    shards(tmp_path, sentences(30), 3)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    write_jsonl(tmp_path / "validation.jsonl", sentences(4))
    with pytest.raises(RequestError, match="lacks 00001 of the shards of split train"):
        data.load(task(tmp_path))
    for place in (0, 2):
        (tmp_path / f"train-0000{place}-of-00003.parquet").rename(tmp_path / f"train-0000{place // 2}-of-00001.parquet")
    with pytest.raises(RequestError, match="keep one"):
        data.load(task(tmp_path))


def test_the_content_of_every_shard_is_part_of_the_record(tmp_path: Path) -> None:
    shards(tmp_path, sentences(30), 3, "jsonl")
    write_jsonl(tmp_path / "validation.jsonl", sentences(4))
    first = data.load(task(tmp_path)).origin["splits"]["train"]["sha256"]
    last = tmp_path / "train-00002-of-00003.jsonl"
    last.write_text(last.read_text().replace("film", "play"))
    assert data.load(task(tmp_path)).origin["splits"]["train"]["sha256"] != first


def test_shards_of_other_columns_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, sentences(30), 2, "jsonl")
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", [{"sentence": "a", "label": 1}])
    write_jsonl(tmp_path / "validation.jsonl", sentences(4))
    with pytest.raises(RequestError, match="has other columns than"):
        data.load(task(tmp_path))


def test_a_key_that_some_lines_lack_is_empty_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [{"b": 1}, {"a": 2, "b": 3}, {}])))
    assert read([tmp_path / "a.jsonl"], "utf-8").to_dict("list") == {"b": [1, 3, None], "a": [None, 2, None]}


# What a file's name and header say


def loaded(folder: Path, **settings: Any) -> data.Data:
    return data.load(Task(name="made_up", data_dir=str(folder), **settings))


@pytest.mark.parametrize("ending", [".CSV", ".Tsv", ".JSONL", ".Json", ".PARQUET"])
def test_an_ending_may_be_written_in_any_case(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(40)]
    frame = pd.DataFrame(rows)
    for file in (tmp_path / f"train{ending}", tmp_path / f"validation{ending}", tmp_path / "one" / f"upper{ending}"):
        file.parent.mkdir(exist_ok=True)
        how = ending.lower()
        if how == ".parquet":
            frame.to_parquet(file)
        elif how in (".csv", ".tsv"):
            frame.to_csv(file, index=False, sep="," if how == ".csv" else "\t")
        else:
            frame.to_json(file, orient="records", lines=how == ".jsonl")
    assert loaded(tmp_path).train.texts[0] == [row["text"] for row in rows]
    one = loaded(tmp_path / "one" / f"upper{ending}", validation_fraction=0.25)
    assert len(one.train) + len(one.validation[0]) == 40


def test_a_changed_file_of_any_case_is_another_source(tmp_path: Path) -> None:
    (tmp_path / "train.CSV").write_text("text,label\na,0\n")
    first = fingerprint(Source("path", tmp_path))
    (tmp_path / "train.CSV").write_text("text,label\nb,0\n")
    assert fingerprint(Source("path", tmp_path)) != first


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "text;label\na;0\n", "its separator seems to be a semicolon: save it with commas"),
        ("train.csv", "text\tlabel\na\t0\n", "its separator seems to be a tab: save it with commas, or call it .tsv"),
        ("train.csv", "text|label\na|0\n", "its separator seems to be a bar: save it with commas"),
        ("train.tsv", "text,label\na,0\n", "its separator seems to be a comma: save it with tabs, or call it .csv"),
        ("train.CSV", "text;label\nhello, you;0\n", "its separator seems to be a semicolon: save it with commas"),
        ("train.csv", "text\tlabel\nhello, you\t0\n", "its separator seems to be a tab: save it with commas"),
        ("train.csv", "Text,label\na,0\n", "(it has Text, label); did you mean Text? set task.text_columns"),
        ("train.csv", "my text,label,a b \nx,0,1\n", "(it has 'my text', label, 'a b '); set task.text_columns"),
        ("train.jsonl", '{"a;b": "x"}\n', "(it has a;b); set task.text_columns"),
    ],
)
def test_a_header_of_another_kind_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / Path(name).with_stem("validation")).write_text(content)
    with pytest.raises(RequestError) as refusal:
        loaded(tmp_path)
    assert message in str(refusal.value)


CONTENTS = {
    "rows.csv": 'a,b\n1,"x\ny"\n\n2,\n3,z\n',
    "rows.tsv": 'a\tb\n1\t"x\n2\t\n3\tz\n',
    "rows.jsonl": '{"a": 1}\n\n{"a": 2, "b": "x"}\n{"b": null}\n',
    "rows.json": '[{"a": 1}, {"a": 2, "b": "x"}, {"b": null}]',
    "columns.json": '{"a": [1, 2, 3], "b": ["x", null, "z"]}',
    "none.csv": "a,b\n",
}


@pytest.mark.parametrize("name", [*CONTENTS, "rows.parquet", "none.parquet"])
def test_a_file_read_in_pieces_has_the_same_rows(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if name in CONTENTS:
        file.write_text(CONTENTS[name])
    else:
        rows = [] if name == "none.parquet" else [(1, 0.1), (2, 0.2), (3, 0.3)]
        frame = pd.DataFrame(rows, columns=["a", "b"]).astype({"a": "int64", "b": "float32"})
        frame.to_parquet(file, row_group_size=2)
    whole = read([file], "utf-8")
    parts = list(pieces(file, "utf-8", 2))
    assert all(len(part.rows) <= 2 for part in parts) and len(parts) == (1 if name.startswith("none") else 2)
    found = [dict(zip(part.names, row, strict=True)) for part in parts for row in part.rows]
    assert [[row.get(key) for key in whole.columns] for row in found] == whole.to_numpy().tolist()


def test_a_fault_behind_the_first_pieces_is_named_as_ever(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n3,4\n5\n")
    read_on = pieces(tmp_path / "rows.csv", "utf-8", 1)
    assert next(read_on).rows == [["1", "2"]]
    with pytest.raises(RequestError, match=r"rows\.csv line 4 has 1 comma-separated field where the header has 2"):
        list(read_on)
