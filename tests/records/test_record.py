"""What a run leaves: the files of its folder, the record's schema, and records read back as a tidy table."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from conftest import REPOSITORY, compose_run, sentences, tiny_overrides, write_jsonl, write_tiny

import rankbench
from rankbench.errors import RequestError, RunFailed
from rankbench.models import float32
from rankbench.records import record
from rankbench.records.record import COLUMNS, load_records, load_runs
from rankbench.runs.life import execute
from rankbench.settings.identity import settings
from rankbench.settings.metrics import METRICS
from rankbench.settings.run import Run
from rankbench.system.files import sha256
from rankbench.tasks import metrics

# tiny_bert by hand: query and value, 32 -> 32, in two layers; a head of 2 outputs over 32 features.
LAYERS, WIDTH, LABELS = 4, 32, 2
HEAD = WIDTH * LABELS + LABELS
VOCABULARY, POSITIONS, FEED, DEPTH = 259, 256, 64, 2
BACKBONE = (
    (VOCABULARY + POSITIONS + 2) * WIDTH  # words, positions, segments
    + 2 * WIDTH  # norm
    + DEPTH * (4 * (WIDTH * WIDTH + WIDTH) + 2 * WIDTH)  # attention
    + DEPTH * (WIDTH * FEED + FEED + FEED * WIDTH + WIDTH + 2 * WIDTH)  # feed-forward
    + WIDTH * WIDTH
    + WIDTH  # pooler
)


@pytest.fixture(scope="module")
def found(finished: Path) -> dict[str, Any]:
    """The record of the shared run, as JSON gives it."""
    return json.loads((finished / "record.json").read_text())


def test_a_finished_folder_holds_what_the_contract_lists(finished: Path) -> None:
    expected = {"config.yaml", "run.log", "metrics.csv", "predictions.parquet", "record.json", "curve.png", "adapter"}
    assert {p.name for p in finished.iterdir() if not p.name.startswith(".")} == expected
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished.rglob("*.bin")) + list(finished.rglob("*.pt")) + list(finished.rglob("*.pkl"))


def test_no_half_written_file_is_left(finished: Path) -> None:
    assert [p.name for p in finished.rglob(".*")] == [".lock-1"]


def test_the_record_has_every_part_of_the_schema(found: dict[str, Any], finished: Path) -> None:
    assert found["schema"] == record.SCHEMA == 2
    assert found["run_id"] == finished.name
    assert found["status"] == "done"
    assert {"config", "submodels", "training", "environment", "data"} <= set(found)
    assert {"steps", "seconds", "examples_per_second", "peak_memory_bytes", "loss_curve"} <= set(found["training"])
    for sub in found["submodels"]:
        assert set(sub) - {"one_class"} == {"rank", "depth", "metrics", "n", "parameters", "eval_seconds"}
        assert set(sub["parameters"]) == {"adapter", "head", "trainable", "total"}


def test_the_record_has_one_entry_for_each_rank(found: dict[str, Any]) -> None:
    assert [(sub["rank"], sub["depth"], sub["n"]) for sub in found["submodels"]] == [
        (b, None, 24) for b in (1, 2, 3, 4)
    ]
    for sub in found["submodels"]:
        assert list(sub["metrics"]) == ["accuracy", "f1"]
        assert all(0 <= value <= 1 for value in sub["metrics"].values())
        assert sub["eval_seconds"] > 0


def test_the_record_tells_how_training_went(found: dict[str, Any]) -> None:
    training = found["training"]
    assert training["steps"] == 4
    assert training["seconds"] > 0
    assert training["examples_per_second"] == pytest.approx(4 * 8 / training["seconds"])
    assert training["peak_memory_bytes"] > 50 << 20
    assert [entry["step"] for entry in training["loss_curve"]] == [1, 2, 3, 4]
    assert all(0 < entry["loss"] < 2 and 0 < entry["learning_rate"] <= 1e-3 for entry in training["loss_curve"])


def test_the_record_names_what_the_result_depends_on(found: dict[str, Any]) -> None:
    environment = found["environment"]
    assert environment["python"] == platform.python_version()
    assert environment["rankbench"] == rankbench.__version__
    assert environment["versions"]["torch"] == torch.__version__
    assert {"transformers", "peft", "accelerate", "hydra-core", "numpy"} <= set(environment["versions"])
    assert environment["device"]
    if not torch.cuda.is_available():
        assert environment["precision"] == "fp32"
        assert environment["precision_reason"].startswith("no GPU is visible")
    assert environment["float32"] == float32.library()
    assert environment["command"].startswith("python -m rankbench")
    assert environment["git"] is None or (
        len(environment["git"]["commit"]) == 40 and isinstance(environment["git"]["dirty"], bool)
    )


def test_the_record_names_its_data_by_hash(found: dict[str, Any], finished: Path) -> None:
    folder = finished.parents[1] / "data"
    assert found["data"]["source"] == "path"
    for name, rows in (("train", 64), ("validation", 24)):
        expected = {"file": f"{name}.jsonl", "sha256": sha256(folder / f"{name}.jsonl"), "rows": rows}
        expected |= {"labels": {"0": rows // 2, "1": rows // 2}, "cut": 0}
        assert found["data"]["splits"][name] == expected | ({"in_train": 0} if name == "validation" else {})


def test_config_yaml_and_the_record_hold_the_same_settings(found: dict[str, Any], finished: Path) -> None:
    stored = yaml.safe_load((finished / "config.yaml").read_text())
    assert stored == found["config"]
    assert stored["adapter"]["update"] == "full"
    assert stored["train"]["max_steps"] == 4


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_parameters_equal_the_count_by_hand(found: dict[str, Any], rank: int) -> None:
    adapter = LAYERS * rank * (WIDTH + WIDTH)
    assert found["submodels"][rank - 1]["parameters"] == {
        "adapter": adapter,
        "head": HEAD,
        "trainable": adapter + HEAD,
        "total": BACKBONE + adapter + HEAD,
    }


def test_full_fine_tuning_counts_every_weight_as_trained(make_run: Callable[..., Run]) -> None:
    (sub,) = execute(make_run("adapter=full", "train.max_steps=1"))["submodels"]
    whole = BACKBONE + HEAD
    assert sub["parameters"] == {"adapter": 0, "head": HEAD, "trainable": whole, "total": whole}
    assert (sub["rank"], sub["depth"]) == (None, None)


# Predictions


def test_predictions_have_a_row_for_each_rank_and_example(finished: Path) -> None:
    frame = pd.read_parquet(finished / "predictions.parquet")
    assert {"rank", "depth", "index", "prediction", "reference"} <= set(frame.columns)
    assert len(frame) == 4 * 24
    assert frame.groupby("rank")["index"].apply(list).tolist() == [list(range(24))] * 4
    assert frame["depth"].isna().all()
    assert str(frame["rank"].dtype) == "Int64"
    assert set(frame["prediction"]) <= {0, 1}


def test_references_are_the_labels_of_the_rows_they_name(finished: Path) -> None:
    frame = pd.read_parquet(finished / "predictions.parquet")
    labels = [row["label"] for row in sentences(24, start=64)]
    assert frame["reference"].tolist() == [labels[i] for i in frame["index"]]


def test_metrics_from_the_predictions_equal_the_records(found: dict[str, Any], finished: Path) -> None:
    frame = pd.read_parquet(finished / "predictions.parquet")
    for sub in found["submodels"]:
        rows = frame[frame["rank"] == sub["rank"]]
        again = metrics.score(["accuracy", "f1"], rows, rows["reference"].to_numpy())
        assert again == pytest.approx(sub["metrics"], abs=1e-12)


def test_predictions_of_a_subset_name_the_rows_of_the_file(make_run: Callable[..., Run]) -> None:
    run = make_run("task.max_eval_examples=5", "train.max_steps=1", "evaluate.submodels=[4]")
    execute(run)
    frame = pd.read_parquet(run.folder / "predictions.parquet")
    labels = [row["label"] for row in sentences(24, start=64)]
    assert len(frame) == 5
    assert frame["index"].tolist() != list(range(5))
    assert frame["reference"].tolist() == [labels[i] for i in frame["index"]]


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that scores two validation splits of 10 and 6 rows."""
    root = tmp_path_factory.mktemp("two")
    write_tiny(root / "data")
    write_jsonl(root / "data" / "validation_matched.jsonl", sentences(10, 100))
    write_jsonl(root / "data" / "validation_mismatched.jsonl", sentences(6, 200))
    splits = "task.validation_splits=[validation_matched,validation_mismatched]"
    run = compose_run(*tiny_overrides(root / "data", root / "runs"), splits, "evaluate.submodels=[1,4]")
    execute(run)
    return run.folder


def test_two_validation_splits_give_two_metrics_and_are_told_apart(two_splits: Path) -> None:
    (first, last) = json.loads((two_splits / "record.json").read_text())["submodels"]
    assert list(first["metrics"]) == list(last["metrics"]) == ["accuracy_matched", "accuracy_mismatched"]
    frame = pd.read_parquet(two_splits / "predictions.parquet")
    assert frame.groupby(["rank", "split"]).size().to_dict() == {
        (rank, f"validation_{name}"): n for rank in (1, 4) for name, n in (("matched", 10), ("mismatched", 6))
    }
    for rank, sub in ((1, first), (4, last)):
        for name in ("matched", "mismatched"):
            rows = frame[(frame["rank"] == rank) & (frame["split"] == f"validation_{name}")]
            share = (rows["prediction"] == rows["reference"]).mean()
            assert share == pytest.approx(sub["metrics"][f"accuracy_{name}"])


def test_each_metric_of_two_splits_counts_the_rows_of_its_own(two_splits: Path) -> None:
    frame = load_runs(two_splits)
    assert frame.groupby("metric")["n"].unique().map(list).to_dict() == {
        "accuracy_matched": [10],
        "accuracy_mismatched": [6],
    }


def test_a_regression_leaves_real_numbers(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": row["label"] * 3 + 0.25 * (i % 4)} for i, row in enumerate(sentences(40))]
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows[:12])
    words = tiny_overrides(tmp_path / "data", tmp_path / "runs")
    run = compose_run(*words, "task.regression=true", "task.metrics=[pearson,spearman]", "evaluate.submodels=[2,4]")
    found = execute(run)
    frame = pd.read_parquet(run.folder / "predictions.parquet")
    assert frame["prediction"].dtype.kind == "f"
    assert frame["reference"].tolist()[:12] == pytest.approx([row["label"] for row in rows[:12]])
    for sub in found["submodels"]:
        part = frame[frame["rank"] == sub["rank"]]
        again = metrics.score(["pearson", "spearman"], part, part["reference"].to_numpy())
        assert again == pytest.approx(sub["metrics"], abs=1e-6)
        assert sub["parameters"]["head"] == WIDTH + 1


# metrics.csv


def test_metrics_csv_is_tidy_and_holds_losses_and_periodic_scores(finished: Path, found: dict[str, Any]) -> None:
    frame = pd.read_csv(finished / "metrics.csv")
    assert list(frame.columns) == ["step", "kind", "rank", "depth", "metric", "value"]
    losses = frame[(frame["kind"] == "train") & (frame["metric"] == "loss")]
    assert losses["value"].tolist() == pytest.approx([e["loss"] for e in found["training"]["loss_curve"]])
    scored = frame[frame["kind"] == "validation"]
    assert set(scored["step"]) == {2}
    assert sorted(zip(scored["rank"], scored["metric"], strict=True)) == [
        (b, metric) for b in (1, 2, 3, 4) for metric in ("accuracy", "f1")
    ]


# A run that fails


@pytest.fixture
def failed(make_run: Callable[..., Run]) -> Run:
    """A run whose loss is not finite, after it failed."""
    run = make_run("train.learning_rate=1e30")
    with pytest.raises(RunFailed, match=r"lower train\.learning_rate"):
        execute(run)
    return run


def test_a_failed_run_says_so_with_the_traceback(failed: Run) -> None:
    found = json.loads((failed.folder / "record.json").read_text())
    assert (found["status"], found["run_id"], found["submodels"]) == ("failed", failed.run_id, [])
    assert found["config"] == settings(failed)
    assert "TrainingError" in found["traceback"] and 'loop.py", line' in found["traceback"]
    assert "loss is nan" in found["error"] or "loss is inf" in found["error"]
    assert "the loss is" in (failed.folder / "run.log").read_text()


def test_a_failed_run_names_its_data_and_its_environment(failed: Run, finished: Path) -> None:
    found, whole = (json.loads((folder / "record.json").read_text()) for folder in (failed.folder, finished))
    assert set(found["environment"]) == set(whole["environment"])
    for name, split in found["data"]["splits"].items():
        assert whole["data"]["splits"][name].items() >= split.items() and len(split) >= 4


def test_failed_runs_are_rows_told_by_their_status(failed: Run, finished: Path) -> None:
    frame = load_runs([failed.folder.parent, finished])
    assert frame.groupby("status").size().to_dict() == {"done": 8, "failed": 1}
    (row,) = frame[frame["status"] == "failed"].to_dict("records")
    assert row["run_id"] == failed.run_id
    assert all(pd.isna(row[key]) for key in ("rank", "depth", "metric", "value", "n"))


def test_a_failed_run_is_done_again_by_the_same_request(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankbench.training import loop

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the machine broke")

    run = make_run("train.max_steps=1", "evaluate.submodels=[1]")
    with monkeypatch.context() as once:
        once.setattr(loop, "train", broken)
        with pytest.raises(RunFailed, match="the machine broke"):
            execute(run)
    assert execute(run)["status"] == "done"
    assert load_runs(run.folder)["status"].tolist() == ["done"]


def test_a_lack_of_memory_is_told_apart(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from rankbench.training import loop

    def full(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(loop, "train", full)
    run = make_run()
    with pytest.raises(RunFailed, match=r"train\.batch_size"):
        execute(run)
    assert load_runs(run.folder)["status"].tolist() == ["oom"]


# Reading back


def test_a_table_of_runs_has_exactly_the_promised_columns(finished: Path) -> None:
    frame = rankbench.load_runs(finished.parent)
    assert list(frame.columns) == COLUMNS
    promised = (
        "run_id, task, model, adapter, sampler, quantization, seed, rank, depth, metric, value, n, status, "
        "train_seconds, eval_seconds, peak_memory_bytes, trainable_parameters"
    )
    assert ", ".join(COLUMNS) == promised


def test_a_table_of_runs_has_a_row_for_each_rank_and_metric(finished: Path, found: dict[str, Any]) -> None:
    frame = load_runs(finished)
    assert len(frame) == 4 * 2
    assert not frame.duplicated(["run_id", "rank", "metric"]).any()
    row = frame[(frame["rank"] == 3) & (frame["metric"] == "f1")].iloc[0]
    sub = found["submodels"][2]
    assert (row["value"], row["n"], row["status"]) == (sub["metrics"]["f1"], 24, "done")
    assert (row["task"], row["model"], row["adapter"]) == ("classification", "tiny_bert", "dylora")
    assert (row["sampler"], row["quantization"], row["seed"]) == ("uniform", "none", 0)
    assert row["trainable_parameters"] == sub["parameters"]["trainable"]
    assert row["train_seconds"] == found["training"]["seconds"]
    assert row["eval_seconds"] == sub["eval_seconds"]
    assert row["peak_memory_bytes"] == found["training"]["peak_memory_bytes"]


def made_up(found: dict[str, Any], status: str = "done", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A copy of the shared record with another seed and name."""
    new = copy.deepcopy(found) | {"run_id": f"made-up-{status}-{seed}", "status": status, **changes}
    new["config"]["seed"] = seed
    if status != "done":
        new |= {"submodels": []}
        for key in ("training", "environment", "data", "backbone"):
            new.pop(key, None)
    return new


def leave(folder: Path, *records: dict[str, Any]) -> Path:
    for one in records:
        (folder / one["run_id"]).mkdir(parents=True, exist_ok=True)
        (folder / one["run_id"] / "record.json").write_text(json.dumps(one))
    return folder


@pytest.mark.parametrize("statuses", [("done",), ("failed",), ("done", "failed"), ("failed", "oom")])
def test_the_types_of_the_columns_do_not_depend_on_the_runs(
    tmp_path: Path, found: dict[str, Any], statuses: tuple[str, ...]
) -> None:
    frame = load_runs(leave(tmp_path, *(made_up(found, status) for status in statuses)))
    for column in ("rank", "depth", "n", "trainable_parameters"):
        assert str(frame[column].dtype) == "Int64", column
    for column in ("value", "train_seconds", "eval_seconds"):
        assert frame[column].dtype == "float64", column
    assert frame["seed"].dtype.kind == "i"
    assert pd.api.types.is_numeric_dtype(frame["peak_memory_bytes"])


@pytest.mark.parametrize("asked", ["root", "text", "run", "file", "list"])
def test_records_are_found_by_root_run_or_file(tmp_path: Path, found: dict[str, Any], asked: str) -> None:
    root = leave(tmp_path, made_up(found, seed=1), made_up(found, seed=2))
    first = root / "made-up-done-1"
    path: Any = {
        "root": root,
        "text": str(root),
        "run": first,
        "file": first / "record.json",
        "list": [first, root / "made-up-done-2"],
    }[asked]
    assert sorted(set(load_runs(path)["seed"])) == ([1] if asked in ("run", "file") else [1, 2])


def test_a_record_given_twice_counts_once(tmp_path: Path, found: dict[str, Any]) -> None:
    root = leave(tmp_path, made_up(found))
    assert len(load_runs([root, root / "made-up-done-0", root / "made-up-done-0" / "record.json"])) == 8


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "12", "null", '{"status": "done"}', '{"schema": 1, "run_id": "x", "status": "done"}',
     '{"schema": "one", "run_id": "x"}', '{"schema": 99, "run_id": "x", "status": "done"}', "\udcff"],
    ids=["empty", "cut", "list", "number", "null", "no_id", "no_config", "odd_schema", "newer_schema", "not_utf8"],
)  # fmt: skip
def test_a_damaged_record_is_refused_by_its_file(tmp_path: Path, found: dict[str, Any], damage: str) -> None:
    root = leave(tmp_path, made_up(found))
    broken = tmp_path / "broken" / "record.json"
    broken.parent.mkdir()
    broken.write_bytes(damage.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match=r"broken.record\.json"):
        load_runs(root)


@pytest.mark.parametrize("part", ["config", "submodels", "metrics", "parameters"])
def test_a_record_that_lacks_a_part_is_refused_by_its_file(tmp_path: Path, found: dict[str, Any], part: str) -> None:
    broken = made_up(found)
    if part in broken:
        broken[part] = "gone"
    else:
        del broken["submodels"][1][part]
    with pytest.raises(RequestError, match=r"made-up-done-0.record\.json"):
        load_runs(leave(tmp_path, broken))


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no record\.json under"):
        load_runs(tmp_path)
    with pytest.raises(RequestError, match="nowhere does not exist"):
        load_runs(tmp_path / "nowhere")


def test_records_come_sorted_by_run(tmp_path: Path, found: dict[str, Any]) -> None:
    root = leave(tmp_path, *(made_up(found, seed=seed) for seed in (3, 1, 2)))
    assert [one["config"]["seed"] for one in load_records(root)] == [1, 2, 3]


def test_every_metric_of_a_record_is_one_that_a_config_may_name(found: dict[str, Any]) -> None:
    assert all(name in METRICS for sub in found["submodels"] for name in sub["metrics"])


# Joining what is there


def test_a_finished_run_is_returned_as_it_is(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from rankbench.runs import life as runs

    run = make_run("train.max_steps=1", "evaluate.submodels=[1]")
    first = execute(run)
    before = (run.folder / "record.json").stat().st_mtime_ns
    monkeypatch.setattr(runs, "_attempt", lambda *_: pytest.fail("it ran again"))
    assert execute(run) == json.loads(json.dumps(first))
    assert (run.folder / "record.json").stat().st_mtime_ns == before


def test_fresh_runs_it_again_in_an_empty_folder(make_run: Callable[..., Run]) -> None:
    words = ("train.max_steps=1", "evaluate.submodels=[1]")
    run = make_run(*words)
    execute(run)
    before = (run.folder / "record.json").stat().st_mtime_ns
    (run.folder / "notes.txt").write_text("mine")
    again = execute(make_run(*words, "fresh=true"))
    assert again["run_id"] == run.run_id
    assert (run.folder / "record.json").stat().st_mtime_ns > before
    assert not (run.folder / "notes.txt").exists()


def test_the_same_seed_gives_the_same_record_but_for_time(make_run: Callable[..., Run]) -> None:
    words = ("train.max_steps=3", "evaluate.submodels=[1,4]", "adapter.lora_dropout=0.1")
    first, again = execute(make_run(*words)), execute(make_run(*words, "fresh=true"))
    for one in (first, again):
        for sub in one["submodels"]:
            del sub["eval_seconds"]
    assert first["submodels"] == again["submodels"]
    assert first["training"]["loss_curve"] == again["training"]["loss_curve"]
    assert execute(make_run(*words, "seed=1"))["training"]["loss_curve"] != first["training"]["loss_curve"]


# Records of older versions


CLASSIFIED = {"task": {"name": "t", "label_names": None}, "seed": 0}
CLASSIFIED |= {group: {"name": group} for group in ("model", "adapter", "sampler", "quantization")}


def older(names: list[str] | None, metrics: dict[str, float], **config: Any) -> dict[str, Any]:
    sub = {"rank": 1, "depth": None, "metrics": metrics, "n": 3, "eval_seconds": 0.1, "parameters": {"trainable": 8}}
    made = {"schema": 1, "run_id": "t-1", "status": "done", "submodels": [sub], "data": {"label_names": names}}
    return made | {"config": CLASSIFIED | config}


AFFECTED = {
    "texts that are numbers": (older(["1", "2", "3"], {"accuracy": 0.0}), "numbers"),
    "a head as wide as the largest": (older(["0", "1", "2", "3"], {"accuracy": 0.5}), "numbers"),
    "a class twice": (older(["0", "0", "1", "1"], {"accuracy": 0.5}), "numbers"),
    "f1 of three classes": (older(["a", "b", "c"], {"accuracy": 0.5, "f1": 0.5}), "f1"),
    "f1 of a word": (older(["fraud", "ok"], {"f1": 0.97}), "f1"),
    "f1 of one of two splits": (older(["fraud", "ok"], {"f1_matched": 0.97}), "f1"),
    "words": (older(["a", "b", "c"], {"accuracy": 0.5}), None),
    "0 and 1": (older(["0", "1"], {"f1": 0.5}), None),
    "glue": (older(["no", "yes"], {"f1": 0.5}, task={"name": "mrpc", "label_names": ["no", "yes"]}), None),
    "a regression": (older(None, {"pearson": 0.5}), None),
    "made since": (older(["1", "2", "3"], {"accuracy": 0.0}) | {"schema": 2}, None),
    "not done": (older(["1", "2", "3"], {"accuracy": 0.0}) | {"status": "failed"}, None),
}


@pytest.mark.parametrize("case", AFFECTED)
def test_an_older_record_that_may_be_wrong_is_named(tmp_path: Path, case: str, caplog: Any) -> None:
    found, why = AFFECTED[case]
    (tmp_path / "record.json").write_text(json.dumps(found))
    for _ in range(3):  # a table reads its records more than once, and says it once
        record.load_records(tmp_path)
    assert len(caplog.messages) == (why is not None)
    assert all(str(tmp_path) in message and why in message and "fresh=true" in message for message in caplog.messages)


def test_no_committed_record_is_one_of_them(caplog: Any) -> None:
    record.load_records(REPOSITORY / "benchmarks" / "results")
    assert caplog.messages == []
