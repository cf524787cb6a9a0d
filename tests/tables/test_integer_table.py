"""Table integer: widths against tasks, and what each loses to floats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_choice import hits, of_ranks

from rankbench.errors import RequestError
from rankbench.tables import report, stats
from rankbench.tables.layout import Block

ROUNDING = {"weight": "nearest", "activation": "nearest", "gradient": "stochastic"}
Rows = dict[int | None, np.ndarray]


def arithmetic(name: str, **bits: int) -> dict[str, Any]:
    width = int(name.removeprefix("int")) if name != "float" else 8
    of = dict.fromkeys(ROUNDING, width) | bits
    return {"name": name, "bits": of, "rounding": ROUNDING, "scale": "row"}


def a_run(
    folder: Path, task: str, name: str, seed: int, right: Rows | float, method: str = "full", **bits: int
) -> None:
    """A run of a task that was right on these examples, or on the first share of them."""
    names = {"task": task, "model": "a model", "adapter": method, "sampler": "fixed", "quantization": "none"}
    config = {group: {"name": of} for group, of in names.items()} | {
        "seed": seed,
        "arithmetic": arithmetic(name, **bits),
    }
    config["adapter"] |= {"r": None}
    rows = right if isinstance(right, dict) else {None: hits(right)}
    of_ranks(folder / f"{task}-{method}-{name}-{seed}-{len(list(folder.glob('*')))}", rows, config=config)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """On both tasks int16 answers as floats do and int8 is wrong on a tenth more; int10 is of one task alone."""
    for task, share in (("mrpc", 0.8), ("rte", 0.6)):
        for seed in (0, 1, 2):
            for name, less in (("float", 0), ("int16", 0), ("int8", 0.1)):
                a_run(tmp_path, task, name, seed, share - less + seed / 200)
    a_run(tmp_path, "rte", "int10", 0, 0.59)
    a_run(tmp_path, "rte", "int8", 0, 0.58, activation=12)
    return tmp_path


def made(runs: Path, margin: float = 1) -> tuple[list[Block], list[Block]]:
    table = report.table("integer", runs, margin=margin)
    return table.ours, table.published


def test_each_width_stands_beside_floats_on_each_task_and_on_average(runs: Path) -> None:
    (values, differences), (paper,) = made(runs)
    assert values.caption.startswith(
        "a model, full: mrpc accuracy x 100, rte accuracy x 100, mean ± standard deviation"
    )
    assert values.frame.index.tolist() == ["float", "int16", "int10", "int8 activation=12", "int8"]
    assert values.frame.loc["int8"].tolist() == ["70.5 ± 0.5", "50.5 ± 0.5", "60.5"]
    assert values.frame.loc["int10"].tolist() == ["-", "59.0 (1)", "-"]
    rows = differences.frame
    assert rows.loc["int8, mrpc", "difference"] == "-10.0" and rows.loc["int8, mean of 2", "difference"] == "-10.0"
    assert rows.loc["int16, rte"].tolist()[::3] == ["+0.0", "yes"]
    assert rows.loc["int8, rte", "within 1"] == "no" and float(rows.loc["int8, rte", "p"]) < 0.01
    assert "int10, mean of 2" not in rows.index and "int10 of rte" in differences.caption
    assert paper.frame["difference"].to_dict() == {
        "int8, later title": "-3.1",
        "int8, first version": "-1.7",
        "int10, first version": "-0.5",
        "int16, both": "0.0",
    }


def test_the_mean_over_tasks_is_surer_than_a_task_and_seeds_that_part_make_it_less_sure(runs: Path) -> None:
    def wide(blocks: list[Block], row: str) -> float:
        low, high = blocks[1].frame.loc[row, "interval"].split(" to ")
        return float(high) - float(low)

    before = made(runs)[0]
    assert wide(before, "int8, mean of 2") < 0.85 * wide(before, "int8, mrpc")
    for record in runs.glob("mrpc-full-int8-*"):
        record.rename(runs.parent / record.name)
    for seed, share in enumerate((0.6, 0.7, 0.8)):
        a_run(runs, "mrpc", "int8", seed, share)
    assert wide(made(runs)[0], "int8, mrpc") > 1.5 * wide(before, "int8, mrpc")


def test_a_nested_method_counts_by_the_ranks_that_all_widths_measured(tmp_path: Path) -> None:
    a_run(tmp_path, "rte", "float", 0, {1: hits(0.5), 2: hits(0.6), 4: hits(0.9)}, "dylora")
    a_run(tmp_path, "rte", "int8", 0, {1: hits(0.4), 4: hits(0.9)}, "dylora")
    for file in tmp_path.glob("*/record.json"):
        record = json.loads(file.read_text())
        record["config"]["evaluate"] = {"submodels": [row["rank"] for row in record["submodels"]]}
        file.write_text(json.dumps(record))
    (values, differences), _ = made(tmp_path)
    assert values.frame["rte"].to_dict() == {"float": "70.0", "int8": "65.0"}
    assert "the mean over 2 ranks or exits" in values.caption and "mean" not in values.frame
    assert differences.frame.loc["int8, rte", "difference"] == "-5.0"
    for name in ("float", "int8"):
        a_run(tmp_path, "mrpc", name, 0, {2: hits(0.5)}, "dylora")
    assert "the mean over 1 to 2 ranks or exits" in made(tmp_path)[0][0].caption


def test_a_run_that_measured_more_or_less_or_cuts_changes_no_width(tmp_path: Path) -> None:
    for name in ("float", "int8"):
        for seed in (0, 1):
            a_run(tmp_path, "rte", name, seed, {1: hits(0.5), 2: hits(0.6)}, "lora")
    before = [block.frame.to_dict() for block in made(tmp_path)[0]]
    (file,) = tmp_path.glob("*float-1*/record.json")
    record = json.loads(file.read_text())
    record["config"]["evaluate"] = {"cuts": ["svd"]}
    file.write_text(json.dumps(record))
    assert [block.frame.to_dict() for block in made(tmp_path)[0]] == before
    assert before[1]["difference"] == {"int8, rte": "+0.0"}
    a_run(tmp_path, "rte", "int8", 2, {2: hits(0.6)}, "lora")
    assert made(tmp_path)[0][0].frame["rte"].to_dict() == {"float": "60.0 ± 0.0 (2)", "int8": "60.0 ± 0.0"}


def test_other_settings_are_no_width(runs: Path) -> None:
    """DyLoRA has no floats on mrpc and none on rte, so it is named and not shown."""
    a_run(runs, "mrpc", "int8", 0, {2: hits(0.5)}, "dylora")
    a_run(runs, "rte", "int8", 0, {2: hits(0.5)}, "dylora")
    assert len(made(runs)[0]) == 2
    a_run(runs, "mrpc", "float", 0, {2: hits(0.5)}, "dylora")
    values = made(runs)[0][0]
    assert values.caption.startswith("a model, dylora: mrpc") and values.caption.endswith("Not here: rte: int8 alone.")


def test_answers_that_are_all_alike_tell_nothing_and_other_seeds_are_named(tmp_path: Path) -> None:
    for name, seed in (("float", 0), ("int16", 0), ("int8", 3)):
        a_run(tmp_path, "rte", name, seed, 0.6)
    for file in tmp_path.glob("*int16*/record.json"):
        record = json.loads(file.read_text())
        record["submodels"][0]["one_class"] = "no"
        file.write_text(json.dumps(record))
    (_, differences), _ = made(tmp_path)
    assert "Of other seeds than floats: int8 of rte (3; float 0)." in differences.caption
    assert differences.caption.endswith("which tells nothing (?): int16 of rte.")
    assert list(differences.frame["within 1"]) == ["?", "yes"]


def test_without_floats_or_integers_it_says_what_to_run(tmp_path: Path) -> None:
    a_run(tmp_path, "rte", "int8", 0, 0.5)
    with pytest.raises(RequestError, match=r"full, rte: int8 alone\); .*sweeps=integer_bits"):
        made(tmp_path)
    a_run(tmp_path, "rte", "float", 0, {1: hits(0.5)})
    with pytest.raises(RequestError, match="no rank or exit that all of its runs measured"):
        made(tmp_path)
    with pytest.raises(RequestError, match="a margin of 0"):
        made(tmp_path, margin=0)


def test_the_mean_of_one_metric_is_that_metric() -> None:
    from rankbench.tables.metric_sums import sums

    truth = np.arange(300) % 2
    metric = sums("accuracy", {"prediction": np.stack([truth, np.where(np.arange(300) < 60, 1 - truth, truth)])}, truth)
    one, twice = stats.all_pairs(metric), stats.pairs_of_means([(metric, ()), (metric, ())])
    assert np.allclose(one.difference, twice.difference)
    ratio = (twice.high - twice.low)[0, 1] / (one.high - one.low)[0, 1]
    assert abs(ratio - 0.5**0.5) < 0.03
