"""Tables over records: methods told apart by what differs, seeds averaged, and printed so that they read back."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Answer, compose_run

from rankbench.errors import RequestError
from rankbench.records.record import load_records
from rankbench.settings.identity import settings
from rankbench.settings.kinds import NEUTRAL
from rankbench.tables import curve, labels, layout, plots, report

Values = dict[int | None, float]


def a_record(
    folder: Path,
    *overrides: str,
    values: Values | None = None,
    data: str = "a" * 64,
    place: str = "",
    rows: int = 9,
    status: str = "done",
    **more: Any,
) -> Path:
    """A record as a run with these overrides would leave it, with a score for each rank; returns `folder`."""
    number = len(list(folder.glob("*/record.json")))
    values = {1: 0.5, 2: 0.6} if values is None else values
    record = {
        "schema": 1,
        "run_id": f"run-{number}",
        "status": status,
        "config": settings(compose_run("model=tiny_bert", "task=sst2", "adapter.r=4", *overrides)),
        "submodels": [
            {
                "rank": rank,
                "depth": None,
                "metrics": {"accuracy": value, "f1": value / 2},
                "n": 100,
                "parameters": {"adapter": 1, "head": 1, "trainable": 2, "total": 3},
                "eval_seconds": 1.0,
            }
            for rank, value in values.items()
        ],
        "training": {"steps": 1, "seconds": 1.0, "examples_per_second": 1.0, "peak_memory_bytes": 1, "loss_curve": []},
        "data": {
            "source": "path",
            "location": place,
            "splits": {"train": {"file": "train.jsonl", "sha256": data, "rows": rows}},
        },
    } | more
    (folder / record["run_id"]).mkdir(parents=True)
    (folder / record["run_id"] / "record.json").write_text(json.dumps(record))
    return folder


def named(folder: Path) -> list[str]:
    return list(labels.labels(load_records(folder)).values())


# Names of methods


def test_runs_of_one_method_have_one_name(tmp_path: Path) -> None:
    for seed in range(3):
        a_record(tmp_path, f"seed={seed}")
    assert named(tmp_path) == ["dylora"] * 3


def test_a_setting_that_came_later_parts_no_seeds(tmp_path: Path) -> None:
    """A record from before a setting was there, and one from after with its default, are of one method."""
    for seed in range(2):
        a_record(tmp_path, f"seed={seed}")
    file = tmp_path / "run-0" / "record.json"
    record = json.loads(file.read_text())
    for key in NEUTRAL:
        group, name = key.split(".")
        record["config"][group].pop(name, None)
    file.write_text(json.dumps(record))
    assert named(tmp_path) == ["dylora"] * 2


def test_ways_of_decoding_have_their_names(tmp_path: Path) -> None:
    for words in ([], ["generation=sample"], ["generation=sample", "generation.top_k=5"]):
        a_record(tmp_path, "task=triviaqa", "model=tiny_llama", *words)
    assert named(tmp_path) == [f"dylora {way}" for way in ("greedy top_k=0", "sample top_k=0", "sample top_k=5")]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("adapter.update=frozen_grad", "frozen_grad"),
        ("train.learning_rate=0.02", "learning_rate=0.02"),
        ("adapter.r=8", "r=8"),
        ("sampler=geometric", "geometric"),
        ("task.max_train_examples=50", "max_train_examples=50"),
        ("adapter.target_modules=[query]", "target_modules"),
    ],
)
def test_a_method_is_named_by_what_differs_and_nothing_else(tmp_path: Path, override: str, expected: str) -> None:
    for seed in (0, 1):
        a_record(tmp_path, f"seed={seed}", override)
        a_record(tmp_path, f"seed={seed}")
    first, other, again, other_again = named(tmp_path)
    assert first == again != other == other_again
    assert expected in first and "seed" not in first
    assert len(first.split()) == 2


@pytest.mark.parametrize("override", ["runs_dir=x", "log=wandb", "train.eval_batch_size=3", "train.log_steps=1"])
def test_what_cannot_change_a_result_does_not_tell_methods_apart(tmp_path: Path, override: str) -> None:
    a_record(tmp_path, override)
    a_record(tmp_path, "seed=1")
    assert named(tmp_path) == ["dylora", "dylora"]


def test_two_methods_are_named_by_their_adapters_alone(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=lora")
    a_record(tmp_path, "adapter=dylora")
    assert named(tmp_path) == ["lora", "dylora"]


def test_a_lora_search_is_named_by_rank(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=dylora")
    for r in (1, 2, 4):
        a_record(tmp_path, "adapter=lora", f"adapter.r={r}")
    assert named(tmp_path) == ["dylora", "lora r=1", "lora r=2", "lora r=4"]


def test_a_search_is_one_column_as_it_is_in_its_comparison(tmp_path: Path) -> None:
    for seed in (0, 1):
        a_record(tmp_path, "adapter=dylora", f"seed={seed}", values={1: 0.5, 2: 0.6, 4: 0.7})
        for r in (1, 2, 4):
            a_record(tmp_path, "adapter=lora", f"adapter.r={r}", f"seed={seed}", values={r: r / 10})
    table = curve.curve(tmp_path)
    assert list(table.columns) == ["dylora", "LoRA, one training a rank"]
    assert [cell.split()[0] for cell in table["LoRA, one training a rank"]] == ["10.0", "20.0", "40.0"]
    assert labels.legend(load_records(tmp_path)) == []


def test_one_methods_ways_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for r in (16, 2, 1, 4):
        a_record(tmp_path, "adapter=lora", f"adapter.r={r}", values={1: 0.5, r: 0.6})
    a_record(tmp_path, "adapter=dylora", "adapter.r=4")
    assert list(curve.curve(tmp_path).columns) == ["lora r=1", "lora r=2", "lora r=4", "lora r=16", "dylora"]
    for rate in ("1e-2", "5e-4"):
        a_record(tmp_path / "rates", "adapter=dylora", f"train.learning_rate={rate}")
    rates = list(curve.curve(tmp_path / "rates").columns)
    assert rates == ["dylora learning_rate=0.0005", "dylora learning_rate=0.01"]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_has_no_form_of_a_table(ending: str, tmp_path: Path) -> None:
    a_record(tmp_path)
    with pytest.raises(RequestError, match="draws a picture, which --format csv is none of; leave one out"):
        report.main(["curve", str(tmp_path), "--format", "csv", "--to", str(tmp_path / f"o.{ending}")])
    assert not (tmp_path / f"o.{ending}").exists()


def test_many_curves_have_styles_of_their_own() -> None:
    styles = [plots._style(i) for i in range(28)]
    assert len(set(styles)) == 28 and len({style[:2] for style in styles}) == 28


def test_a_legend_tells_every_setting_that_the_names_leave_out(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=lora", "adapter.r=4", "train.learning_rate=0.01", "train.epochs=2")
    a_record(tmp_path, "adapter=lora", "adapter.r=8")
    a_record(tmp_path, "adapter=dylora", "train.learning_rate=0.02")
    lines = labels.legend(load_records(tmp_path))
    assert [line.split(":")[0] for line in lines] == ["lora r=4", "lora r=8", "dylora"]
    assert "learning_rate=0.01" in lines[0] and "epochs=2" in lines[0] and "r=4" not in lines[0].split(": ")[1]
    assert "learning_rate=0.001" in lines[1] and "epochs=3" in lines[1]
    assert "learning_rate=0.02" in lines[2] and "r=4" in lines[2]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.schedule=constant", "schedule=constant"),
        ("train.optimizer=paged_adamw", "optimizer=paged_adamw"),
        ("task.label_column=stars", "label_column=stars"),
        ("task.text_columns=[review]", 'text_columns=["review"]'),
        ("task.label_names=[neg,pos]", 'label_names=["neg", "pos"]'),
        ("quantization=nf4", "quantization=nf4"),
        ("model.trust_remote_code=true", "trust_remote_code=True"),
        ("adapter.target_modules=all-linear", "target_modules=all-linear"),
    ],
)
def test_a_word_in_a_legend_stands_beside_its_key(tmp_path: Path, override: str, told: str) -> None:
    a_record(tmp_path, "adapter=lora")
    a_record(tmp_path, "adapter=dylora", override)
    lora, dylora = labels.legend(load_records(tmp_path))
    assert f" {told}" in dylora and f" {told.split('=')[0]}=" in lora and told not in lora


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("task.positive_label=neg", "positive_label=neg"),
        ("train.schedule=constant", "schedule=constant"),
        ("task.label_column=stars", "label_column=stars"),
        ("quantization=nf4", "nf4"),
        ("adapter.scale=alpha_over_r", "alpha_over_r"),
    ],
)
def test_a_name_says_which_setting_a_word_is_of(tmp_path: Path, override: str, word: str) -> None:
    for more in ([], [override]):
        a_record(tmp_path, "task.metrics=[f1]", "task.positive_label=pos", *more)
    assert word in named(tmp_path)[1].split()


def test_alike_runs_need_no_legend(tmp_path: Path) -> None:
    for seed in (0, 1):
        a_record(tmp_path, "adapter=lora", f"seed={seed}")
        a_record(tmp_path, "adapter=dylora", f"seed={seed}")
    assert labels.legend(load_records(tmp_path)) == []


@pytest.mark.parametrize("group", ["generation", "arithmetic"])
def test_methods_that_decode_or_compute_unlike_each_other_are_told_apart(tmp_path: Path, group: str) -> None:
    task = ["task=instruction", "model=tiny_llama", "task.metrics=[exact_match]"]
    changed = {"generation": "generation=beam", "arithmetic": "arithmetic=int8"}[group]
    a_record(tmp_path, *task, "adapter=lora")
    a_record(tmp_path, *task, "adapter=dylora", changed)
    lines = labels.legend(load_records(tmp_path))
    assert any(changed in line for line in lines) and len(lines) == 2, lines


def test_nothing_is_averaged_over_precisions_devices_or_versions_in_silence(tmp_path: Path) -> None:
    for seed, precision, device, version in ((0, "bf16", "NVIDIA H100", "1"), (1, "fp32", "cpu, 2 threads", "2")):
        environment = {"precision": precision, "device": device, "rankbench": version}
        a_record(tmp_path, f"seed={seed}", environment=environment)
    assert labels.legend(load_records(tmp_path)) == [
        "dylora averages runs of unlike precision: bf16, fp32.",
        "dylora averages runs of unlike device: NVIDIA H100, cpu.",
        "dylora averages runs of unlike version of rankbench: 1, 2.",
    ]


def test_tasks_and_models_are_named_where_they_differ(tmp_path: Path) -> None:
    a_record(tmp_path, "task=sst2")
    a_record(tmp_path, "task=rte")
    assert named(tmp_path) == ["sst2 dylora", "rte dylora"]
    a_record(tmp_path, "model=tiny_gpt2")
    assert [set(name.split()[:2]) for name in named(tmp_path)] == [
        {"tiny_bert", "sst2"},
        {"tiny_bert", "rte"},
        {"tiny_gpt2", "sst2"},
    ]


def test_runs_that_differ_within_a_task_stay_apart_beside_another_task(tmp_path: Path) -> None:
    a_record(tmp_path, "task=sst2", "task.max_train_examples=50")
    a_record(tmp_path, "task=sst2", "task.max_train_examples=500")
    a_record(tmp_path, "task=rte")
    assert len(set(named(tmp_path))) == 3


def test_runs_on_other_data_are_never_averaged(tmp_path: Path) -> None:
    a_record(tmp_path, "seed=0", "task.data_dir=.", data="a" * 64, values={1: 0.2})
    a_record(tmp_path, "seed=1", "task.data_dir=..", data="b" * 64, values={1: 0.8})
    assert len(set(named(tmp_path))) == 2
    assert sorted(curve.curve_long(tmp_path)["mean"]) == [0.2, 0.8]


def test_data_and_weights_are_called_by_where_they_lay(tmp_path: Path) -> None:
    """A digest stands where other content lay in a place of that name, and the legend says what each of them is."""
    a_record(tmp_path, "seed=0", place="/a/reviews", data="a", rows=900)
    a_record(tmp_path, "seed=1", place="/elsewhere/moved", data="a", rows=900)
    a_record(tmp_path, "seed=2", place="/a/tickets", data="b", rows=1200)
    assert named(tmp_path) == ["dylora data=moved"] * 2 + ["dylora data=tickets"]
    assert labels.legend(load_records(tmp_path)) == [
        "data=moved: train.jsonl of 900 rows.",
        "data=tickets: train.jsonl of 1,200 rows.",
    ]
    for digest in "cd":
        a_record(tmp_path, place="/b/reviews", data=digest)
    found = [name.split()[1] for name in named(tmp_path)[3:]]
    assert len(set(found)) == 2 and all(name.startswith("data=reviews@") for name in found)


def test_weights_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for place, mark in (("/m/first", "1" * 16), ("/m/second", "2" * 16)):
        a_record(tmp_path, backbone={"location": place, "fingerprint": mark})
    assert named(tmp_path) == ["dylora weights=first", "dylora weights=second"]


PRESETS = ("tiny_bert", "tiny_gpt2", "roberta_base", "llama2_7b")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_whose_weights_were_not_used_is_not_named(preset: str, tmp_path: Path) -> None:
    """Weights of one's own under any preset: where its own would lie, and what they are, is nobody's setting."""
    for model in ("roberta_large", preset):
        used = {"source": "path", "location": "/m/other", "fingerprint": "1" * 16}
        target = ["adapter.target_modules=[query]", "train.learning_rate=0.01"]
        a_record(tmp_path, f"model={model}", "model.name=other", "model.path=/m/other", *target, backbone=used)
    assert named(tmp_path) == ["dylora"] * 2
    assert labels.legend(load_records(tmp_path)) == []


def test_a_preset_whose_data_were_not_used_is_not_named(tmp_path: Path) -> None:
    for task in ("sst2", "rte"):
        words = ["task.name=own", "task.data_dir=/d", "task.text_columns=[text]", "task.label_names=null"]
        a_record(tmp_path, f"task={task}", *words)
    assert named(tmp_path) == ["dylora"] * 2
    assert labels.legend(load_records(tmp_path)) == []


def test_weights_and_data_of_two_hubs_stay_apart(tmp_path: Path) -> None:
    for hub in ("one/model", "other/model", "one/text"):
        used = {"source": "hub", "location": hub, "fingerprint": f"{hub}@abc"}
        a_record(tmp_path, "model=roberta_base", f"model.hub={hub}", "model.name=m", "adapter.r=4", backbone=used)
    assert len(set(named(tmp_path))) == 3
    assert not any("hub=" in name or "revision" in name for name in named(tmp_path))


def test_random_weights_of_two_architectures_stay_apart(tmp_path: Path) -> None:
    drawn = {"source": "random", "fingerprint": "random"}
    for layers in (1, 2):
        a_record(tmp_path, f"model.random.num_hidden_layers={layers}", backbone=drawn)
    assert named(tmp_path) == ["dylora num_hidden_layers=1", "dylora num_hidden_layers=2"]
    a_record(tmp_path, backbone={"source": "path", "location": "/m/other", "fingerprint": "1" * 16})
    assert named(tmp_path) == ["dylora num_hidden_layers=1", "dylora num_hidden_layers=2", "dylora"]


def test_which_metrics_are_asked_for_makes_no_other_method(tmp_path: Path) -> None:
    a_record(tmp_path, "seed=0", "task.metrics=[accuracy,f1]")
    a_record(tmp_path, "seed=1")
    assert named(tmp_path) == ["dylora", "dylora"]


@pytest.mark.parametrize("name", ["leaderboard", "lora_search_vs_dylora", "distribution", "glue", "curve"])
def test_every_table_says_in_what_else_its_methods_differ(name: str, tmp_path: Path) -> None:
    for task in ("sst2", "rte") if name in ("leaderboard", "glue") else ("sst2",):
        a_record(tmp_path, f"task={task}", "train.learning_rate=0.01")
        a_record(tmp_path, f"task={task}", "adapter=dylora_late", "train.learning_rate=0.02")
    said = report.table(name, tmp_path).text("md").replace("\n", " ")
    assert "dylora: learning_rate=0.01." in said and "dylora_late: learning_rate=0.02." in said
    assert name not in ("leaderboard", "glue") or "rte, tiny_bert: dylora: learning_rate=0.01." in said


def test_runs_on_moved_data_are_averaged(tmp_path: Path) -> None:
    a_record(tmp_path, "seed=0", "task.data_dir=.", values={1: 0.2})
    a_record(tmp_path, "seed=1", "task.data_dir=..", values={1: 0.8})
    assert curve.curve_long(tmp_path)["mean"].tolist() == [0.5]


# Numbers


def test_mean_spread_and_number_of_seeds_are_right(tmp_path: Path) -> None:
    scores = [0.50, 0.56, 0.59]
    for seed, value in enumerate(scores):
        a_record(tmp_path, f"seed={seed}", values={1: value, 4: value + 0.1})
    long = curve.curve_long(tmp_path)
    assert list(long.columns) == ["label", "metric", "rank", "depth", "mean", "std", "n"]
    first = long[long["rank"] == 1].iloc[0]
    assert (first["label"], first["metric"], first["n"]) == ("dylora", "accuracy", 3)
    assert first["mean"] == pytest.approx(statistics.mean(scores))
    assert first["std"] == pytest.approx(statistics.stdev(scores))
    table = curve.curve(tmp_path)
    assert table["dylora"].to_dict() == {1: "55.0 ± 4.6", 4: "65.0 ± 4.6"}
    assert curve.caption(table) == "accuracy x 100; mean ± standard deviation over 3 seeds"


def test_where_the_number_of_seeds_differs_each_cell_says_its_own(tmp_path: Path) -> None:
    for seed in range(3):
        a_record(tmp_path, f"seed={seed}", values={1: 0.5, 4: 0.6} if seed else {1: 0.5})
    table = curve.curve(tmp_path)
    assert table["dylora"].to_dict() == {1: "50.0 ± 0.0 (3)", 4: "60.0 ± 0.0 (2)"}
    assert curve.caption(table).endswith("mean ± standard deviation (seeds)")


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    a_record(tmp_path, values={2: 0.61234})
    assert math.isnan(curve.curve_long(tmp_path)["std"].iloc[0])
    assert curve.curve(tmp_path).loc[2, "dylora"] == "61.2"


def test_a_rank_that_a_method_did_not_measure_is_a_dash(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=dylora", values={1: 0.5, 2: 0.6, 8: 0.7})
    a_record(tmp_path, "adapter=lora", values={8: 0.71})
    table = curve.curve(tmp_path)
    assert table.to_dict("list") == {"dylora": ["50.0", "60.0", "70.0"], "lora": ["-", "-", "71.0"]}
    assert list(table.index) == [1, 2, 8]


def test_ranks_are_in_order_of_size_and_the_whole_model_comes_last(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=full", values={None: 0.9})
    a_record(tmp_path, "adapter=dylora", "adapter.r=16", values={16: 0.8, 2: 0.6, 10: 0.7})
    table = curve.curve(tmp_path)
    assert list(table.index) == [2, 10, 16, "whole"]
    assert table.loc["whole"].to_dict() == {"full": "90.0", "dylora": "-"}


def test_the_first_metric_is_taken_unless_another_is_asked(tmp_path: Path) -> None:
    a_record(tmp_path, values={1: 0.5})
    assert curve.curve(tmp_path).columns.name == "accuracy"
    assert curve.curve(tmp_path, "f1").loc[1, "dylora"] == "25.0"


def test_an_unknown_metric_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    a_record(tmp_path)
    with pytest.raises(RequestError, match=r"--metric bleu.*accuracy, f1"):
        curve.curve(tmp_path, "bleu")


@pytest.mark.parametrize("status", ["failed", "oom"])
def test_runs_that_are_not_done_have_no_place_in_a_curve(tmp_path: Path, status: str) -> None:
    a_record(tmp_path, "seed=0", status=status, submodels=[], training=None)
    with pytest.raises(RequestError, match="none of these runs is done"):
        curve.curve(tmp_path)
    a_record(tmp_path, "seed=1", values={1: 0.4})
    assert curve.curve(tmp_path).to_dict("list") == {"dylora": ["40.0"]}


def test_any_set_of_folders_can_be_compared(tmp_path: Path) -> None:
    a_record(tmp_path / "a", "adapter=dylora", values={1: 0.5})
    record = json.loads((a_record(tmp_path / "b", "adapter=lora", values={1: 0.6}) / "run-0/record.json").read_text())
    (tmp_path / "b" / "run-0" / "record.json").write_text(json.dumps(record | {"run_id": "another"}))
    assert set(curve.curve([tmp_path / "a", tmp_path / "b"]).columns) == {"dylora", "lora"}


# Forms


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """Records of two methods over two seeds, one of whose names holds an underscore."""
    for seed in (0, 1):
        a_record(tmp_path, f"seed={seed}", values={1: 0.5 + seed / 10, 2: 0.6})
        a_record(tmp_path, f"seed={seed}", "adapter.update=frozen_grad", values={2: 0.7})
    return tmp_path


def test_markdown_reads_back_as_the_table(compared: Path) -> None:
    table = curve.curve(compared)
    text = layout.as_text(table, "md")
    lines = text.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in lines}) == 1  # columns stand under each other
    assert set(lines[1]) <= set("|-: ")
    assert cells[0] == ["rank", *table.columns]
    assert cells[2:] == [[str(rank), *row] for rank, row in zip(table.index, table.to_numpy().tolist(), strict=True)]


def test_csv_reads_back_as_the_table(compared: Path) -> None:
    table = curve.curve(compared)
    rows = list(csv.reader(io.StringIO(layout.as_text(table, "csv"))))
    assert rows[0] == ["rank", *table.columns]
    assert rows[1:] == [[str(rank), *row] for rank, row in zip(table.index, table.to_numpy().tolist(), strict=True)]


def test_latex_escapes_what_latex_would_read(compared: Path) -> None:
    text = layout.as_text(curve.curve(compared), "latex")
    assert r"frozen\_grad" in text
    assert r"$\pm$" in text and "±" not in text
    assert text.startswith(r"\begin{tabular}{lrr}") and text.endswith("\\end{tabular}\n")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [line.count("&") for line in body] == [2] * 3
    odd = pd.DataFrame({"50% & more_or_less #1": ["1"]}, index=pd.Index([1], name="rank"))
    assert r"50\% \& more\_or\_less \#1" in layout.as_text(odd, "latex")


def test_a_wide_table_goes_on_below_and_loses_nothing() -> None:
    index = pd.Index(["1", "22"], name="rank")
    table = pd.DataFrame({f"column {i}": [f"{i}", "x" * i] for i in range(12)}, index)
    parts = layout.as_text(table, "md", 40).split("\n\n")
    lines = [line for part in parts for line in part.splitlines()]
    assert max(map(len, lines)) <= 40 and len(parts) == 6 and all(part.startswith("| rank |") for part in parts)
    cells = [cell.strip() for part in parts for cell in part.splitlines()[0].strip("|").split("|")]
    assert [cell for cell in cells if cell != "rank"] == list(table.columns)
    assert layout.as_text(table, "md", 400) == layout.as_text(table, "md")
    assert layout.as_text(table, "csv", 40) == layout.as_text(table, "csv")
    assert layout.as_text(table, "md", 10).count("column") == 12, "a column that is too wide stands alone"


@pytest.mark.parametrize("form", ["md", "csv", "latex"])
def test_every_form_ends_in_one_newline(compared: Path, form: str) -> None:
    text = layout.as_text(curve.curve(compared), form)
    assert text.endswith("\n") and not text.endswith("\n\n")


# The command


def shown(folder: Path, form: str, metric: str | None = None) -> str:
    """The table as the command shows it: Markdown comes with a line that says what the cells are."""
    table = curve.curve(folder, metric)
    return (f"{curve.caption(table)}\n\n" if form == "md" else "") + layout.as_text(table, form)


@pytest.mark.parametrize(("form", "mark"), [("md", "| rank |"), ("csv", "rank,"), ("latex", r"\begin{tabular}")])
def test_the_command_prints_the_table(call_main: Callable[..., Answer], compared: Path, form: str, mark: str) -> None:
    answer = call_main("table", "curve", str(compared), "--format", form)
    assert (answer.rc, answer.err) == (0, "")
    assert answer.out == shown(compared, form)
    assert mark in answer.out


def test_markdown_is_the_default_and_a_metric_can_be_named(call_main: Callable[..., Answer], compared: Path) -> None:
    answer = call_main("table", "curve", str(compared), "--metric", "f1")
    assert answer.out == shown(compared, "md", "f1")
    assert answer.out.startswith("f1 x 100")


@pytest.mark.parametrize("suffix", ["md", "csv", "tex"])
def test_the_command_writes_the_table_to_a_file(
    call_main: Callable[..., Answer], compared: Path, tmp_path: Path, suffix: str
) -> None:
    form = {"tex": "latex"}.get(suffix, suffix)
    file = tmp_path / f"out.{suffix}"
    answer = call_main("table", "curve", str(compared), "--format", form, "--to", str(file))
    assert (answer.rc, answer.out) == (0, "")
    assert file.read_text(encoding="utf-8") == shown(compared, form)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_command_draws_the_picture(
    call_main: Callable[..., Answer], compared: Path, tmp_path: Path, suffix: str, start: bytes
) -> None:
    file = tmp_path / f"curve.{suffix}"
    assert call_main("table", "curve", str(compared), "--to", str(file)).rc == 0
    assert file.read_bytes().startswith(start)


def test_the_same_records_draw_the_same_svg(call_main: Callable[..., Answer], compared: Path, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        call_main("table", "curve", str(compared), "--to", str(tmp_path / name))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize("to", ["nowhere/table.md", "nowhere/curve.png"])
def test_a_file_that_cannot_be_written_is_refused(
    call_main: Callable[..., Answer], compared: Path, tmp_path: Path, to: str
) -> None:
    answer = call_main("table", "curve", str(compared), "--to", str(tmp_path / to))
    assert answer.rc == 2
    assert "--to" in answer.err and len(answer.said) == 1


def test_a_picture_of_runs_without_ranks_is_refused_or_shows_them(
    call_main: Callable[..., Answer], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    a_record(tmp_path, "adapter=full", values={None: 0.9})
    file = tmp_path / "curve.png"
    answer = call_main("table", "curve", str(tmp_path), "--to", str(file))
    assert (answer.rc, file.exists()) in {(2, False), (0, True)}
    assert not [str(w.message) for w in recwarn if "legend" in str(w.message)]  # an empty picture


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["curve", "{none}"], "does not exist"),
        (["curve", "{empty}"], "no record.json under"),
        (["curve", "{runs}", "--metric", "bleu"], "accuracy, f1"),
        (["curve", "{runs}", "--format", "pdf"], "md"),
        (["courve", "{runs}"], "curve"),
        (["curve"], "runs"),
        ([], "name"),
    ],
    ids=["missing_folder", "no_records", "unknown_metric", "unknown_form", "unknown_table", "no_runs", "nothing"],
)
def test_a_wrong_request_for_a_table_is_refused(
    call_main: Callable[..., Answer], compared: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"none": tmp_path / "none", "empty": tmp_path / "empty", "runs": compared}
    answer = call_main("table", *(word.format(**places) for word in words))
    assert answer.rc == 2
    assert expected in answer.err and answer.out == ""


# Pictures


def test_a_picture_has_a_line_for_each_method_and_a_band_over_seeds(compared: Path) -> None:
    (axes,) = plots.curve(curve.curve_long(compared), "accuracy", "a title").axes
    assert [line.get_label() for line in axes.lines] == [
        "dylora full (2 seeds)",
        "dylora frozen_grad (2 seeds)",
    ]
    assert axes.lines[0].get_xdata().tolist() == [1, 2]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([55, 60]), "as the table reads"
    assert len(axes.collections) == 2
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("rank b", "accuracy x 100", "a title")


def test_a_picture_of_several_metrics_multiplies_each_by_its_own() -> None:
    table = pd.DataFrame({"label": ["a", "b"], "metric": ["accuracy", "loss"], "rank": 1, "depth": None, "n": 1})
    figure = plots.draw(table.assign(mean=[0.5, 2.5], std=0.0), "accuracy, loss", "")
    assert figure is not None
    (axes,) = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[50], [2.5]]
    assert axes.get_ylabel() == "accuracy x 100, loss"


def test_a_heat_map_and_a_front_show_the_tables_numbers() -> None:
    table = pd.DataFrame({"label": "a", "rank": [1, 2], "depth": 3, "mean": [0.25, 0.5], "std": 0.0, "n": 1})
    axes = plots.heat_map(table, "accuracy", "").axes
    assert [text.get_text() for text in axes[0].texts] == ["25", "50"] and axes[1].get_ylabel() == "accuracy x 100"
    (axes,) = plots.pareto(table.assign(parameters=[1, 2]), "accuracy", "").axes
    assert axes.collections[0].get_offsets().tolist() == [[1, 25], [2, 50]]
