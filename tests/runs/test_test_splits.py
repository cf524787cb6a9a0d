"""A test split is scored once, at the end: nothing is chosen by it, and what it says stands apart."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Answer, compose_run, sample, sentences, write_jsonl, write_tiny

import rankbench
from rankbench.errors import RequestError
from rankbench.runs.life import execute, summary
from rankbench.scoring import evaluation
from rankbench.tables import curve

SETTINGS = ["model=tiny_bert", "task=classification", "task.regression=true", "task.metrics=[pearson,mse]"]
SETTINGS += ["train.batch_size=8", "train.learning_rate=0.02", "train.schedule=constant", "train.eval_steps=2"]
SETTINGS += ["adapter.r=4", "train.max_steps=12", "train.keep=best", "train.patience=4"]
METHODS = {
    "ranks": [],
    "cuts": ["adapter=lora", "evaluate.cuts=[svd,svd_global]"],
    "gates": ["adapter=lora_gated", "adapter.sparsity_warmup=0", "train.keep=best"],
    "all weights": ["adapter=full", "~adapter.r"],
}


def settings(folder: Path, *words: str) -> list[str]:
    own = [word for word in SETTINGS if "~adapter.r" not in words or not word.startswith("adapter.r")]
    more = [word for word in words if word != "~adapter.r"]
    return [*own, f"task.data_dir={folder / 'data'}", f"runs_dir={folder / 'runs'}", "task.test_splits=[test]", *more]


def write(folder: Path, turned: bool = False) -> Path:
    """Train, validation and a test of 20 rows, whose labels may be turned round."""
    write_tiny(folder / "data")
    rows = sentences(20, start=96)
    write_jsonl(folder / "data" / "test.jsonl", [row | {"label": row["label"] ^ turned} for row in rows])
    return folder


def without_test(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record must not hang on the labels of a test split."""
    timed = ("eval_seconds", "test", "test_n")
    subs = [*record["submodels"], *record.get("cuts", [])]
    training = {key: value for key, value in record["training"].items() if "second" not in key and "peak" not in key}
    return {"subs": [{k: v for k, v in sub.items() if k not in timed} for sub in subs], "training": training}


def files(folder: Path) -> dict[str, bytes]:
    kept = [*folder.glob("adapter/*.safetensors"), folder / "metrics.csv"]
    return {file.name: file.read_bytes() for file in kept}


def told(folder: Path) -> tuple[list[str], list[str]]:
    """What choose_rank says of a run, and what of it is of the test."""
    made = rankbench.choose_rank(folder, margin=400)
    lines = [re.sub(re.escape(str(folder)), "RUN", line) for line in made.closing]
    lines = [line for line in lines if not line.startswith("It costs")]  # it ends in a speed
    tables = [block.frame.to_csv() for block in made.ours]
    return [*tables, *(line for line in lines if "Reported" not in line)], [
        line for line in lines if "Reported" in line
    ]


@pytest.mark.parametrize("method", sample(METHODS, "ranks"))
def test_turned_labels_of_the_test_change_its_values_alone(method: str, tmp_path: Path) -> None:
    runs = []
    for name, turned in (("straight", False), ("turned", True)):
        run = compose_run(*settings(write(tmp_path / name, turned), *METHODS[method]))
        runs.append((run.folder, execute(run)))
    (one, record), (other, turned_record) = runs
    assert files(one) == files(other) and one.name != other.name
    assert without_test(record) == without_test(turned_record)
    assert record["training"]["kept"] == turned_record["training"]["kept"]
    for sub, its in zip(record["submodels"], turned_record["submodels"], strict=True):
        assert set(sub["test"]) == {"pearson", "mse"} and sub["test_n"] == 20
        assert its["test"]["pearson"] == pytest.approx(-sub["test"]["pearson"], abs=1e-6) and sub["test"]["pearson"]
    frames = [pd.read_parquet(folder / "predictions.parquet") for folder in (one, other)]
    for name, alike in (("validation", True), ("test", False)):
        own = [frame[frame["split"] == name].reset_index(drop=True) for frame in frames]
        assert own[0].equals(own[1]) == alike and len(own[0]) == (24 if alike else 20) * (
            len(record["submodels"]) + len(record.get("cuts", []))
        )
        assert own[0]["prediction"].equals(own[1]["prediction"])
    if len(record["submodels"]) > 1:
        (said, report), (its_said, its_report) = told(one), told(other)
        assert said == its_said and report != its_report and len(report) == 1
    assert rankbench.load_runs(one).drop(columns="run_id").equals(_untimed(one, other))


def _untimed(one: Path, other: Path) -> pd.DataFrame:
    """The second run's rows with the first one's seconds."""
    mine, its = (rankbench.load_runs(folder).drop(columns="run_id") for folder in (one, other))
    timed = ["train_seconds", "eval_seconds", "peak_memory_bytes"]
    return its.assign(**{key: mine[key] for key in timed})[list(mine.columns)]


def test_a_test_split_is_scored_once_and_after_all_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    whole = evaluation.evaluate

    def looked(model: Any, adapter: Any, splits: Any, *words: Any, **more: Any) -> Any:
        seen.append([split.name for split in splits])
        return whole(model, adapter, splits, *words, **more)

    monkeypatch.setattr(evaluation, "evaluate", looked)
    record = execute(compose_run(*settings(write(tmp_path))))
    evaluations = len({entry["step"] for entry in record["training"]["evaluations"]})
    assert [splits for splits in seen if splits != ["validation"]] == [["test"]]
    assert evaluations > 1 and seen.index(["test"]) == evaluations + 1, "after those in training and the last of all"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two runs over one data set, with a test split and without."""
    folder = write(tmp_path_factory.mktemp("reported"))
    tested, plain = (compose_run(*settings(folder, word)) for word in ("seed=0", "task.test_splits=[]"))
    execute(tested)
    execute(plain)
    assert tested.run_id != plain.run_id
    return tested.folder, plain.folder


def test_a_test_split_changes_nothing_of_the_run(reported: tuple[Path, Path]) -> None:
    one, other = reported
    assert files(one) == files(other)
    records = [json.loads((folder / "record.json").read_text()) for folder in reported]
    assert without_test(records[0]) == without_test(records[1]) and "test" not in records[1]["submodels"][0]


def test_the_data_of_a_test_split_are_told_as_others_are(reported: tuple[Path, Path]) -> None:
    data = json.loads((reported[0] / "record.json").read_text())["data"]["splits"]
    assert data["test"]["rows"] == 20 and len(data["test"]["sha256"]) == 64 and data["test"]["in_train"] == 0
    log = (reported[0] / "run.log").read_text()
    assert "train 64 examples, score 24, and 20 of test at the end" in log


def test_what_was_chosen_is_reported_apart(reported: tuple[Path, Path], call_main: Callable[..., Answer]) -> None:
    record = json.loads((reported[0] / "record.json").read_text())
    chosen = rankbench.choose_rank(reported[0], margin=400).closing
    answer = next(line for line in chosen if line.startswith("Rank"))
    rank = int(answer.split()[1].strip(":"))
    (value,) = (sub["test"]["pearson"] for sub in record["submodels"] if sub["rank"] == rank)
    line = chosen[chosen.index(answer) + 1]
    assert line.startswith(
        f"Reported on test, by which nothing was chosen: rank {rank} has pearson x 100 {100 * value:.1f}"
    )
    assert "Reported" not in " ".join(rankbench.choose_rank(reported[1], margin=400).closing)
    above, below = summary(record).split("On test (20 examples), by which nothing was chosen:\n")
    assert "Kept the weights of step" in above and f"{100 * value:.2f}" in below
    said = call_main("table", "choose_rank", str(reported[0]), "--margin", "400").out
    assert "Reported on test, by which nothing was chosen" in said


def test_tables_are_of_validation_with_the_test_in_a_column_of_its_own(reported: tuple[Path, Path]) -> None:
    record = json.loads((reported[0] / "record.json").read_text())
    by_rank = {sub["rank"]: sub for sub in record["submodels"]}
    made = rankbench.table("lora_search_vs_dylora", reported[0])
    (row,) = made.ours[1].frame.to_dict("records")
    best = max(by_rank.values(), key=lambda sub: sub["metrics"]["pearson"])
    assert row["best"] == f"{100 * best['metrics']['pearson']:.1f}" and row["at rank"] == str(best["rank"])
    assert row["test"] == f"{100 * best['test']['pearson']:.1f}"
    assert "test" not in rankbench.table("lora_search_vs_dylora", reported[1]).ours[1].frame.columns
    means = curve.curve_long(reported[0]).set_index("rank")["mean"].to_dict()
    assert means == {rank: pytest.approx(sub["metrics"]["pearson"]) for rank, sub in by_rank.items()}


def test_runs_with_and_without_a_test_split_are_of_the_same_data(reported: tuple[Path, Path]) -> None:
    """What a test split is adds nothing to what runs trained on and were scored on."""
    legend = rankbench.table("curve", list(reported)).text("md")
    assert "data=" not in legend and "test" not in legend


def test_load_runs_has_the_test_where_it_is_asked_for(reported: tuple[Path, Path]) -> None:
    record = json.loads((reported[0] / "record.json").read_text())
    rows = rankbench.load_runs(reported[0], split="test")
    assert list(rows.columns) == list(rankbench.load_runs(reported[0]).columns)
    assert list(rows["value"]) == [value for sub in record["submodels"] for value in sub["test"].values()]
    assert set(rows["n"]) == {20} and set(rows["metric"]) == {"pearson", "mse"}
    nothing = rankbench.load_runs(reported[1], split="test")
    assert list(nothing["metric"].isna()) == [True] and len(nothing) == 1
    with pytest.raises(RequestError, match="split='dev'"):
        rankbench.load_runs(reported[0], split="dev")


def test_a_card_says_it_below_the_table(
    reported: tuple[Path, Path], tmp_path: Path, call_main: Callable[..., Answer]
) -> None:
    record = json.loads((reported[0] / "record.json").read_text())
    (value,) = (sub["test"]["pearson"] for sub in record["submodels"] if sub["rank"] == 2)
    for folder, said in zip(reported, (True, False), strict=True):
        place = tmp_path / folder.name
        assert call_main("export", str(folder), "--rank", "2", "--to", str(place)).rc == 0
        card = (place / "README.md").read_text()
        assert ("On the 20 examples of test, by which nothing was chosen:" in card) == said
        assert (f"pearson x 100 {100 * value:.2f}" in card) == said


def test_the_table_of_classes_is_of_validation(tmp_path: Path) -> None:
    words = [word for word in settings(write(tmp_path)) if "regression" not in word and "metrics" not in word]
    run = compose_run(*words, "train.max_steps=2")
    execute(run)
    assert set(pd.read_parquet(run.folder / "predictions.parquet")["split"]) == {"validation", "test"}
    text = rankbench.table("classes", run.folder).text("md")
    assert "24" in text and "20" not in text and "test" not in text


def test_several_splits_on_both_sides_keep_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_jsonl(folder / "train.jsonl", sentences(32))
    for place, name in enumerate(("validation_matched", "validation_mismatched", "test_matched", "test_mismatched")):
        write_jsonl(folder / f"{name}.jsonl", sentences(8 + 2 * place, start=40 + 20 * place))
    words = ["task.validation_splits=[validation_matched,validation_mismatched]", "train.max_steps=4"]
    run = compose_run(*settings(tmp_path, *words, "task.test_splits=[test_matched,test_mismatched]"))
    record = execute(run)
    assert record["training"]["kept"]["by"] == "pearson_matched, the mean of 4 sub-models"
    (sub, *_) = record["submodels"]
    assert list(sub["metrics"]) == ["pearson_matched", "mse_matched", "pearson_mismatched", "mse_mismatched"]
    assert set(sub["test"]) == {f"{name}_test_{of}matched" for name in ("pearson", "mse") for of in ("", "mis")}
    rows = rankbench.load_runs(run.folder, split="test").set_index("metric")["n"].to_dict()
    assert rows == {
        "pearson_test_matched": 12,
        "mse_test_matched": 12,
        "pearson_test_mismatched": 14,
        "mse_test_mismatched": 14,
    }
    lines = rankbench.choose_rank(run.folder, metric="pearson_mismatched", margin=400).closing
    assert any("pearson_test_matched" in line and "pearson_test_mismatched" in line for line in lines)
    assert "mse" not in next(line for line in lines if "Reported" in line)


def test_answers_of_a_language_model_are_reported_too(tmp_path: Path) -> None:
    for split, rows in (("train", 12), ("validation", 4), ("test", 3)):
        lines = [{"instruction": f"say {split} {i}", "input": "", "output": "la" * (1 + i % 3)} for i in range(rows)]
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", lines)
    words = ["model=tiny_llama", "task=instruction", "task.metrics=[loss,exact_match]", "task.max_new_tokens=4"]
    words += [f"task.data_dir={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}", "task.test_splits=[test]"]
    record = execute(compose_run(*words, "adapter.r=2", "train.max_steps=2", "train.batch_size=4"))
    assert all(set(sub["test"]) == {"loss", "exact_match"} and sub["test_n"] == 3 for sub in record["submodels"])
