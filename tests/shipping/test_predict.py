"""`rankbench predict` and `load(...).predict`: a row is told what the tables counted, whatever ships the rank."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Answer, compose_run, sample, tiny_overrides, write_jsonl
from peft import PeftModel
from safetensors.torch import load_file, save_file
from test_command_line import is_a_refusal
from test_export import base_folder
from test_export_depth import trained

import rankbench
from rankbench.errors import RequestError
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import export, predict, rows_file
from rankbench.shipping.shipped import opened

Call = Callable[..., Answer]
WORDS = ("bad", "good", "so-so")


def words(n: int) -> list[dict[str, Any]]:
    return [{"text": f"{WORDS[i % 3]} thing" + " indeed" * (i % 5), "label": WORDS[i % 3], "id": i} for i in range(n)]


def pairs(n: int) -> list[dict[str, Any]]:
    two = ("so dull", "a fine thing indeed")
    return [{"one": f"a {i % 7}", "two": two[i % 2] * (1 + i % 3), "label": i % 2} for i in range(n)]


def scores(n: int) -> list[dict[str, Any]]:
    return [{"text": "word " * (i % 6 + 1), "label": i % 6 / 2} for i in range(n)]


def prompts(n: int) -> list[dict[str, Any]]:
    return [{"instruction": f"Count to {i}", "input": "x" * (i % 2), "output": "la " * (i % 4 + 1)} for i in range(n)]


GENERATE = ["model=tiny_llama", "task=instruction", "task.metrics=[exact_match,loss]", "task.max_new_tokens=6"]
TASKS: dict[str, tuple[Callable[[int], list[dict[str, Any]]], list[str]]] = {
    "words": (words, []),
    "pair": (pairs, ["task.text_columns=[one,two]", "task.label_names=[no,yes]"]),
    "value": (scores, ["task.regression=true", "task.metrics=[pearson]"]),
    "answer": (prompts, GENERATE),
    "cut": (words, ["task.max_length=8"]),
    "bf16": (words, ["train.precision=bf16"]),
    "nf4": (words, ["quantization=nf4", "adapter=qdylora", "train.learning_rate=5e-3"]),
    "full": (words, ["adapter=full", "train.learning_rate=1e-3"]),
}
WAYS = ("run", "adapter", "merged", "svd")
KEPT = [("words", "run"), ("pair", "adapter"), ("value", "merged"), ("answer", "merged")]
KEPT += [("bf16", "adapter"), ("nf4", "run")]
ALL = [(task, way) for task in TASKS for way in WAYS if (task, way) not in (("nf4", "merged"), ("full", "svd"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """runs("words"): a short finished run of that task, shared: read it, do not change it."""
    found: dict[str, Run] = {}

    def get(name: str) -> Run:
        if name not in found:
            root = tmp_path_factory.mktemp(name)
            rows, settings = TASKS[name]
            for split, n in (("train", 48), ("validation", 30)):
                write_jsonl(root / "data" / f"{split}.jsonl", rows(n))
            base = base_folder(root / "base", "tiny_llama" if "model=tiny_llama" in settings else "tiny_bert")
            more = [f"model.path={base}", "train.max_steps=30", "train.learning_rate=0.02"]
            found[name] = compose_run(*tiny_overrides(root / "data", root / "runs"), *more, *settings)
            assert execute(found[name])["status"] == "done"
        return found[name]

    return get


def validation(run: Run) -> Path:
    return Path(str(run.task.data_dir)) / "validation.jsonl"


def measured(run: Run, rank: int | None = None, depth: int | None = None) -> pd.DataFrame:
    """What the run kept of its predictions at a rank and a depth, by row."""
    frame = pd.read_parquet(run.folder / "predictions.parquet")
    frame = frame[(frame["rank"] == rank) if rank else frame["rank"].isna()]
    return frame[(frame["depth"] == depth) if depth else frame["depth"].isna()].sort_values("index")


def told(folder: Path, data: Path, to: Path, *words: str) -> pd.DataFrame:
    predict.main([str(folder), "--data", str(data), "--to", str(to), *words])
    return pd.read_json(to, lines=True, dtype=False)


@pytest.mark.parametrize("case", sample(ALL, *KEPT), ids="-".join)
def test_a_row_is_told_what_the_run_measured(case: tuple[str, str], runs: Callable[[str], Run], tmp_path: Path) -> None:
    (task, way), run = case, runs(case[0])
    rank = 4 if way == "svd" else None if task == "full" else 2
    folder, asked = run.folder, [] if rank is None else ["--rank", str(rank)]
    if way != "run":
        folder, asked = tmp_path / "out", []
        export.export(run.folder, folder, rank, merge=way == "merged", svd=way == "svd")
    found = told(folder, validation(run), tmp_path / "told.jsonl", *asked)
    kept = measured(run, rank)
    assert len(found) == len(kept) == 30
    if task == "answer":
        assert found["prediction"].tolist() == kept["prediction"].tolist()
        assert any(found["prediction"]), "answers without a word prove little"
        return
    tolerance = 0.02 if task == "bf16" else 1e-4
    if task == "value":
        assert found["prediction"].tolist() == pytest.approx(kept["prediction"].tolist(), abs=tolerance)
        assert found["prediction"].nunique() > 1
        return
    names = {"pair": ["no", "yes"]}.get(task, list(WORDS))
    for place, name in enumerate(names):
        assert found[f"score_{name}"].tolist() == pytest.approx(kept[f"score_{place}"].tolist(), abs=tolerance)
    expected = [names[place] for place in kept["prediction"]]
    apart = kept[[f"score_{i}" for i in range(len(names))]].apply(
        lambda row: row.nlargest(2).iloc[0] - row.nlargest(2).iloc[1], axis=1
    )
    sure = [gap > 2 * tolerance for gap in apart]
    assert [one for one, by in zip(found["prediction"], sure, strict=True) if by] == [
        one for one, by in zip(expected, sure, strict=True) if by
    ]
    assert sum(sure) > 20 and len(set(expected)) > 1, "a model that says one word proves little"


WHICH = ("sorted_ft", "sorted_lora", "early_exit")
DEPTHS = [(kind, which, way) for kind in ("bert", "llama") for which in WHICH for way in ("run", "out")]


@pytest.mark.parametrize(
    "case", sample(DEPTHS, ("bert", "sorted_lora", "out"), ("llama", "early_exit", "run")), ids="-".join
)
def test_a_depth_tells_what_was_measured_at_it(case: tuple[str, str, str], tmp_path: Path) -> None:
    kind, adapter, way = case
    more = [] if kind == "bert" else ["task.metrics=[exact_match]", "task.max_new_tokens=4"]
    run, _ = trained(tmp_path, kind, f"adapter={adapter}", *more)
    rank = 2 if adapter == "sorted_lora" else None
    folder, asked = run.folder, ["--depth", "2", *([] if rank is None else ["--rank", "2"])]
    if way == "out":
        folder, asked = tmp_path / "out", []
        export.export(run.folder, folder, rank, 2)
    found = told(folder, validation(run), tmp_path / "told.jsonl", *asked)
    kept = measured(run, rank, 2)
    if kind == "bert":
        assert found["score_1"].tolist() == pytest.approx(kept["score_1"].tolist(), abs=1e-5)
    else:
        assert found["prediction"].tolist() == kept["prediction"].tolist()


# The file


@pytest.fixture
def word_run(runs: Callable[[str], Run]) -> Run:
    """The shared run over words."""
    return runs("words")


def as_file(folder: Path, ending: str, rows: list[dict[str, Any]]) -> Path:
    file, frame = folder / f"rows{ending}", pd.DataFrame(rows)
    if ending == ".jsonl":
        return write_jsonl(file, rows)
    if ending == ".json":
        file.write_text(json.dumps(rows))
    elif ending == ".parquet":
        frame.to_parquet(file, index=False)
    else:
        frame.to_csv(file, index=False, sep="\t" if ending == ".tsv" else ",")
    return file


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("to", rows_file.FORMS)
def test_columns_are_kept_as_they_were_in_every_form(
    ending: str, to: str, word_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "PIECE", 4)
    rows: list[dict[str, Any]] = [
        {"id": f"0{i}", "text": f'good, "{i}" é', "n": i, "x": i / 4, "none": None if i % 2 else "y"} for i in range(10)
    ]
    if ending in (".jsonl", ".json", ".parquet"):
        rows = [row | {"list": [i, "a"][: i % 2]} for i, row in enumerate(rows)]
    if ending == ".tsv":
        rows = [row | {"text": "good é"} for row in rows]
    data = as_file(tmp_path, ending, rows)
    predict.main([str(word_run.folder), "--data", str(data), "--to", str(tmp_path / f"out{to}")])
    further = ["prediction", "score_bad", "score_good", "score_so-so"]
    out = tmp_path / f"out{to}"
    if to == ".csv":
        found = pd.read_csv(out, dtype=str, keep_default_na=False)
    elif to == ".parquet":
        found = pd.read_parquet(out)
    else:
        found = pd.DataFrame([json.loads(line) for line in out.read_text().splitlines()])
    assert list(found.columns) == [*rows[0], *further]
    assert found["id"].tolist() == [row["id"] for row in rows] and found["text"].tolist() == [r["text"] for r in rows]
    as_text = to == ".csv" or ending in (".csv", ".tsv")
    assert found["n"].tolist() == [str(i) if as_text else i for i in range(10)]
    assert found["x"].tolist() == [str(i / 4) if as_text else i / 4 for i in range(10)]
    nothing = "" if to == ".csv" else None
    assert [None if pd.isna(v) else v for v in found["none"]] == [nothing if i % 2 else "y" for i in range(10)]
    if "list" in rows[0] and to == ".jsonl":
        assert found["list"].tolist() == [row["list"] for row in rows]
    if "list" in rows[0] and to == ".csv":
        assert found["list"].tolist() == [json.dumps(row["list"]) for row in rows]
    assert found["prediction"].isin(WORDS).all() and found["score_bad"].astype(float).between(0, 1).all()


def test_what_parquet_stores_stays_of_its_type(word_run: Run, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "text": pa.array(["good", "bad"]),
        "small": pa.array([1, None], pa.int8()),
        "half": pa.array([0.1, 0.2], pa.float32()),
        "when": pa.array([1, 2], pa.timestamp("ns", "UTC")),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "raw": pa.array([b"\xff", b""]),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    words = [str(word_run.folder), "--data", str(tmp_path / "rows.parquet"), "--to"]
    predict.main([*words, str(tmp_path / "out.parquet")])
    found = pq.read_table(tmp_path / "out.parquet")
    assert all(found[name].combine_chunks().equals(column) for name, column in columns.items() if name != "kind")
    assert found["kind"].to_pylist() == ["a", "b"]
    with pytest.raises(RequestError, match=r"out\.csv cannot hold these rows \(a column holds bytes"):
        predict.main([*words, str(tmp_path / "out.csv")])
    assert not (tmp_path / "out.csv").exists()


def test_a_file_in_pieces_is_told_the_same(word_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row | ({"late": 1} if i == 29 else {}) for i, row in enumerate(words(30))]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    whole = told(word_run.folder, data, tmp_path / "whole.jsonl")
    monkeypatch.setattr(predict, "PIECE", 7)
    parts = told(word_run.folder, data, tmp_path / "parts.jsonl", "--batch-size", "3")
    assert list(parts.columns) == list(whole.columns) == ["text", "label", "id", "late", *whole.columns[4:]]
    assert parts["prediction"].tolist() == whole["prediction"].tolist()
    assert parts["score_bad"].tolist() == pytest.approx(whole["score_bad"].tolist(), abs=1e-6)
    assert parts["id"].tolist() == list(range(30))


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@pytest.mark.parametrize("to", rows_file.FORMS)
def test_a_file_may_be_larger_than_memory(
    ending: str, to: str, word_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 MB in pieces of 400 kB; a model takes what it takes, so none is loaded."""
    data = as_file(tmp_path, ending, [{"id": i, "text": f"{i} " * 5000} for i in range(400)])
    told = {"task": word_run.task, "classes": [], "columns": {"prediction": "text"}, "max_length": 128}
    silent: Any = SimpleNamespace(**told, check=lambda split: None)
    monkeypatch.setattr(predict, "_columns", lambda _, data, piece, *more: ([["good"] * len(piece.rows)], 0))
    monkeypatch.setattr(predict, "_predictor", lambda *words: silent)
    monkeypatch.setattr(predict, "PIECE", 8)
    tracemalloc.start()
    try:
        predict.main([str(word_run.folder), "--data", str(data), "--to", str(tmp_path / f"out{to}")])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < data.stat().st_size / 4


@pytest.mark.parametrize(("asked", "most"), [(None, 5), (2, 2)])
def test_answers_are_decoded_as_many_at_once_as_asked_for(
    runs: Callable[[str], Run], asked: int | None, most: int
) -> None:
    model = rankbench.load(runs("answer").folder)
    texts = pd.read_json(validation(runs("answer")), lines=True).to_dict("records")[:5]
    seen: list[int] = []
    watched = model.register_forward_pre_hook(
        lambda module, given, named: seen.append(len(named["input_ids"])), with_kwargs=True
    )
    said = model.predict(texts, batch_size=asked)
    watched.remove()
    assert max(seen) == most and said == model.predict(texts)


def test_names_that_the_file_has_already_are_numbered_and_said(
    word_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": "good", "prediction": "mine", "score_bad_2": 1}]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = told(word_run.folder, data, tmp_path / "out.jsonl")
    assert list(found.columns) == [
        *("text", "prediction", "score_bad_2", "prediction_3", "score_bad_3", "score_good_3", "score_so-so_3")
    ]
    assert found["prediction"].tolist() == ["mine"]


def test_a_label_is_kept_whatever_it_is(word_run: Run, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": "good", "label": -1}, {"text": "bad", "label": None}])
    found = told(word_run.folder, data, tmp_path / "out.jsonl")
    assert found["label"].tolist()[0] == -1 and pd.isna(found["label"].tolist()[1])


def test_texts_that_are_cut_are_counted(word_run: Run, tmp_path: Path, call_main: Call) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": "good " * 30}])
    answer = call_main("predict", str(word_run.folder), "--data", str(data), "--to", str(tmp_path / "out.csv"))
    assert answer.rc == 0 and "1 of the texts are longer than 128 tokens and were cut there" in answer.err
    assert "2/2 rows" in answer.err
    assert (
        answer.out
        == f"{tmp_path / 'out.csv'}: 2 rows of rows.jsonl, with prediction, score_bad, score_good, score_so-so\n"
    )


def test_without_a_place_to_write_the_first_rows_are_shown(word_run: Run, call_main: Call) -> None:
    answer = call_main("predict", str(word_run.folder), "--data", str(validation(word_run)))
    lines = answer.out.splitlines()
    assert answer.rc == 0 and [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        *("row", "text", "label", "prediction", "score")
    ]
    assert len(lines) == 2 + 10 + 2 and lines[-1].startswith("The first 10 rows of validation.jsonl; --to OUT.csv")


@pytest.mark.parametrize(
    ("words", "file"), [(("--data", "DIR", "--split", "train"), "train"), (("--split", "train"), "train")]
)
def test_a_split_is_found_by_its_name(words: tuple[str, ...], file: str, word_run: Run, call_main: Call) -> None:
    asked = [word.replace("DIR", str(word_run.task.data_dir)) for word in words]
    answer = call_main("predict", str(word_run.folder), *asked)
    assert answer.rc == 0 and f"rows of {file}.jsonl" in answer.out


@pytest.mark.parametrize("form", rows_file.FORMS)
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device"), SystemExit])
def test_what_is_cut_off_leaves_what_was_there(form: str, fault: Any, tmp_path: Path) -> None:
    import pyarrow as pa

    file = tmp_path / f"out{form}"
    file.write_text("before")
    layout = rows_file.Layout(["a"], pa.schema([("a", pa.string())]), {"prediction": "text"})
    expected = RequestError if isinstance(fault, OSError) else fault
    with pytest.raises(expected), rows_file.new_file(file, layout) as add:
        add(rows_file.Piece(["a"], [["x"]]), [["y"]])
        raise fault
    assert file.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == [file.name]


# What is refused


CASES: dict[str, tuple[str, list[str], list[str]]] = {
    "no_column": ("a,b\n1,2\n", [], ["has no column 'text' (it has a, b)"]),
    "twin": ("Text,b\n1,2\n", [], ["did you mean Text?"]),
    "no_rows": ("text,b\n", [], ["has no rows"]),
    "nothing": ("", [], ["has no header"]),
    "empty_text": ("text,b\nx,1\n,2\n", [], ["row 1 (from 0): 'text' is empty"]),
    "uneven": ("text,b\nx\n", [], ["line 2 has 1"]),
    "rank": ("text\nx\n", ["--rank", "9"], ["rank 9", "trained (1 to 4)"]),
    "depth": ("text\nx\n", ["--depth", "1"], ["has no exits"]),
    "form": ("text\nx\n", ["--to", "out.xlsx"], ["end it in .csv, .jsonl, .parquet"]),
    "no_folder": ("text\nx\n", ["--to", "none/out.csv"], ["cannot be written"]),
    "itself": ("text\nx\n", ["--to", "rows.csv"], ["is the data that is read"]),
    "split": ("text\nx\n", ["--split", "test"], ["leave out --split"]),
    "batch": ("text\nx\n", ["--batch-size", "0"], ["must be at least 1"]),
    "new_tokens": ("text\nx\n", ["--new-tokens", "5"], ["generates no answer"]),
    "encoding": ("text\nx\n", ["--encoding", "klingon"], ["--encoding klingon is not an encoding"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_request_is_refused(
    case: str, finished: Path, tmp_path: Path, call_main: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, words, expected = CASES[case]
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text(text)
    is_a_refusal(call_main("predict", str(finished), "--data", "rows.csv", *words), *expected)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"] and Path("rows.csv").read_text() == text


def test_a_late_row_is_refused_before_anything_is_answered(
    word_run: Run, tmp_path: Path, call_main: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "PIECE", 4)
    rows = [{"text": f"good {i}"} for i in range(10)] + [{"text": 3}]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    answer = call_main("predict", str(word_run.folder), "--data", str(data), "--to", str(tmp_path / "out.csv"))
    is_a_refusal(answer, "row 10 (from 0): 'text' is 3, not text")
    assert not (tmp_path / "out.csv").exists()


def test_folders_that_cannot_predict_are_refused_with_the_mend(word_run: Run, tmp_path: Path, call_main: Call) -> None:
    data = ["--data", str(validation(word_run))]
    is_a_refusal(call_main("predict", str(tmp_path / "none"), *data), "is no folder")
    is_a_refusal(call_main("predict", str(word_run.folder / "adapter"), *data), f"give the run, {word_run.folder}")
    shutil.copytree(word_run.folder, tmp_path / "stopped")
    record = json.loads((tmp_path / "stopped" / "record.json").read_text()) | {"status": "failed"}
    (tmp_path / "stopped" / "record.json").write_text(json.dumps(record))
    is_a_refusal(call_main("predict", str(tmp_path / "stopped"), *data), "is not done (status failed)")
    export.export(word_run.folder, tmp_path / "out", 2)
    is_a_refusal(call_main("predict", str(tmp_path / "out"), *data, "--rank", "3"), "is rank 2 alone")
    is_a_refusal(call_main("predict", str(tmp_path / "out"), *data, "--depth", "3"), "has no depths to choose")
    (tmp_path / "out" / "rankbench.json").write_text("{}")
    is_a_refusal(call_main("predict", str(tmp_path / "out"), *data), "rankbench.json is damaged", "export it again")
    (tmp_path / "out" / "rankbench.json").unlink()
    is_a_refusal(call_main("predict", str(tmp_path / "out"), *data), "has no rankbench.json", "export it again")
    folder = str(word_run.task.data_dir)
    is_a_refusal(call_main("predict", str(word_run.folder), "--data", folder), "--split (train, validation)")
    is_a_refusal(call_main("predict", str(word_run.folder)), "give --data FILE, or --split NAME")


def test_an_export_whose_base_moved_is_told_where_it_lies(word_run: Run, tmp_path: Path, call_main: Call) -> None:
    root = tmp_path / "there"
    shutil.copytree(Path(str(word_run.model.path)), root / "base")
    for name in ("train", "validation"):
        write_jsonl(root / "data" / f"{name}.jsonl", words(12))
    run = compose_run(*tiny_overrides(root / "data", root / "runs"), f"model.path={root / 'base'}", "train.max_steps=1")
    execute(run)
    folder, out = run.folder, tmp_path / "out"
    export.export(folder, out, 2)
    before = rankbench.load(out).predict(["good"], scores=True)
    (root / "base").rename(tmp_path / "moved")
    shutil.rmtree(folder)
    asked = ["predict", str(out), "--data", str(root / "data"), "--split", "train"]
    is_a_refusal(call_main(*asked), "is not where the run found it", "adapter_config.json, as base_model_name_or_path")
    config = json.loads((out / "adapter_config.json").read_text())
    place = tmp_path / "moved"
    (out / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(place)}))
    assert rankbench.load(out).predict(["good"], scores=True) == before
    other = base_folder(tmp_path / "other", "tiny_bert")
    tensors = load_file(other / "model.safetensors")
    save_file({name: t + 1 for name, t in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    (out / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    is_a_refusal(call_main(*asked), "holds another model than the one that")


def test_an_exports_own_code_runs_only_where_it_is_allowed(word_run: Run, tmp_path: Path) -> None:
    export.export(word_run.folder, tmp_path / "out", 2)
    note = json.loads((tmp_path / "out" / "rankbench.json").read_text())
    note["config"]["model"]["trust_remote_code"] = True
    (tmp_path / "out" / "rankbench.json").write_text(json.dumps(note))
    assert not opened(tmp_path / "out").run.model.trust_remote_code
    assert opened(tmp_path / "out", trust_remote_code=True).run.model.trust_remote_code


# From Python


def test_texts_of_every_form_are_told_the_same(runs: Callable[[str], Run], word_run: Run) -> None:
    model = rankbench.load(word_run.folder, rank=2)
    rows = words(6)
    texts = [row["text"] for row in rows]
    names = model.predict(texts)
    assert names == model.predict(rows) == model.predict(pd.DataFrame(rows)) == model.predict((t,) for t in texts)
    assert names == model.predict(pd.Series(texts)) and set(names) <= set(WORDS) and model.predict([]) == []
    for name, probabilities in model.predict(texts, scores=True, batch_size=2):
        assert list(probabilities) == list(WORDS) and sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert name == max(probabilities, key=probabilities.__getitem__)
    pair = rankbench.load(runs("pair").folder)
    assert pair.predict([("a 1", "a 2")]) == pair.predict([{"two": "a 2", "one": "a 1"}])
    value = rankbench.load(runs("value").folder).predict(["word word"])
    assert isinstance(value[0], float)
    answers = rankbench.load(runs("answer").folder)
    assert answers.predict(["Count to 3"]) == answers.predict([{"instruction": "Count to 3", "input": ""}])
    assert len(answers.predict(["Count to 3"], new_tokens=2)[0].encode()) <= 2 * 4


@pytest.mark.parametrize(
    ("task", "texts", "options", "message"),
    [
        ("words", "good", {}, "takes a list of texts, not one str"),
        ("words", {"text": "good"}, {}, "takes a list of texts, not one dict"),
        ("words", [3], {}, r"texts row 0 \(from 0\): 'text' is 3, not text"),
        ("words", ["good", None], {}, r"texts row 1 \(from 0\): 'text' is empty"),
        ("words", [{"txt": "good"}], {}, "has none of the columns text"),
        ("words", [("a", "b")], {}, "has 2 parts where the task has 1"),
        ("words", ["good"], {"batch_size": 0}, "batch size of 0 must be at least 1"),
        ("words", ["good"], {"new_tokens": 3}, "generates no answer"),
        ("pair", ["a"], {}, "is one str where the task has 2 columns"),
        ("value", ["a"], {"scores": True}, "a regression task has none"),
        ("answer", [{"instruction": " "}], {}, "no template of task.prompts fits"),
        ("answer", ["long " * 99], {}, "shorten it"),
        ("answer", ["Count"], {"new_tokens": 250}, r"more than the 256 that .* reads; shorten it, or ask for \d+"),
    ],
)
def test_texts_that_are_none_are_refused(
    task: str, texts: Any, options: dict[str, Any], message: str, runs: Callable[[str], Run]
) -> None:
    with pytest.raises(RequestError, match=message):
        rankbench.load(runs(task).folder).predict(texts, **options)


def test_an_empty_text_is_what_the_task_makes_of_it(finished: Path, runs: Callable[[str], Run], tmp_path: Path) -> None:
    assert len(rankbench.load(finished).predict([""])) == 1  # its marks are tokens
    write_jsonl(tmp_path / "rows.jsonl", [{"text": ""}])
    assert len(told(finished, tmp_path / "rows.jsonl", tmp_path / "out.jsonl")) == 1


def test_what_is_loaded_is_still_the_model_that_it_was(word_run: Run) -> None:
    model = rankbench.load(word_run.folder, rank=2)
    assert isinstance(model, PeftModel) and type(model).__name__ == "PeftModelForSequenceClassification"
    assert type(model) is type(rankbench.load(word_run.folder, rank=1))
    ids = torch.tensor([[1, 40, 41, 2]])
    with torch.no_grad():
        logits = model(ids).logits
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.allclose(other(ids).logits, logits, atol=1e-6)
            assert other.predict(["good"]) == model.predict(["good"])
            assert other.get_base_model() is not model.get_base_model()
    model.train()
    state = torch.random.get_rng_state()
    assert model.predict(["good"]) == model.eval().predict(["good"])
    assert torch.equal(state, torch.random.get_rng_state())
    model.train().predict(["good"])
    assert model.training and all(p.grad is None for p in model.parameters())
    bare = model.unload()
    assert not isinstance(bare, PeftModel) and bare(ids).logits.shape == (1, 3)
