"""Tables over ranks: the search beside one nested run, the papers' ablations, GLUE and the leaderboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer
from scipy import stats as scipy_stats
from test_curve import a_record

from rankbench.errors import RequestError
from rankbench.tables import comparisons, layout, report
from rankbench.tables.comparisons import ranks
from rankbench.tables.curve import curve_long

LORA = ("adapter=lora",)


def cuts(**values: dict[int, float]) -> list[dict[str, Any]]:
    return [
        {"cut": how, "rank": rank, "depth": None, "metrics": {"accuracy": value, "f1": value / 2}, "n": 100}
        | {"parameters": {"adapter": 1, "head": 1, "trainable": 2, "total": 3}, "eval_seconds": 1.0}
        for how, of in values.items()
        for rank, value in of.items()
    ]


def trained(seconds: float) -> dict[str, Any]:
    return {"steps": 1, "seconds": seconds, "examples_per_second": 1.0, "peak_memory_bytes": 1, "loss_curve": []}


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """Two seeds of a search over ranks 1, 2 and 4, one DyLoRA and one LoRA with its cuts."""
    for seed in (0, 1):
        at = f"seed={seed}"
        for rank, value in ((1, 0.50), (2, 0.62), (4, 0.60)):
            words = (*LORA, f"adapter.r={rank}", f"evaluate.submodels=[{rank}]", at)
            a_record(tmp_path, *words, values={rank: value + seed / 100}, training=trained(10 * rank))
        nested = {rank: 0.55 + rank / 100 for rank in (1, 2, 3, 4)}
        a_record(tmp_path, "adapter=dylora", at, values=nested, training=trained(35))
        how = "evaluate.cuts=[svd]"
        own = {1: 0.3, 2: 0.4, 3: 0.5, 4: 0.6}
        a_record(tmp_path, *LORA, how, at, values=own, training=trained(40), cuts=cuts(svd=dict.fromkeys(own, 0.6)))
    return tmp_path


def test_the_search_is_one_method_beside_nested_runs_and_cuts(search: Path) -> None:
    curve, best, _, *paper = comparisons.lora_search_vs_dylora(search, None)
    assert list(curve.frame.columns) == [ranks.SEARCH, "dylora", "lora", "lora svd"]
    assert curve.frame.loc["2"].tolist() == ["62.5 ± 0.7", "57.0 ± 0.0", "40.0 ± 0.0", "60.0 ± 0.0"]
    assert curve.frame.loc["3", ranks.SEARCH] == "-"
    assert curve.caption == "sst2, tiny_bert: accuracy x 100 at each rank, mean ± standard deviation over seeds (2)."
    assert "Best over ranks 1, 2, 4" in best.caption
    rows = best.frame
    assert rows.loc[ranks.SEARCH].tolist() == ["62.5 ± 0.7", "2", "59.0 ± 0.7", "3", "70", "2.00"]
    assert rows.loc["dylora"].tolist() == ["59.0 ± 0.0", "4", "57.2 ± 0.0", "1", "35", "1.00"]
    assert rows.loc["lora svd"].tolist() == ["60.0 ± 0.0", "1", "60.0 ± 0.0", "1", "40", "1.14"]
    assert len(paper) == 2 and all(block.caption.startswith("Published, not ours: DyLoRA") for block in paper)


def test_a_lora_that_measures_lower_ranks_too_gives_the_search_its_own(search: Path) -> None:
    a_record(search, *LORA, "adapter.r=8", "seed=0", values={1: 0.1, 8: 0.9}, training=trained(80))
    curve, best, *_ = comparisons.lora_search_vs_dylora(search, None)
    assert curve.frame.loc[["1", "8"], ranks.SEARCH].tolist() == ["50.5 ± 0.7", "90.0 (1)"]
    row = best.frame.loc[ranks.SEARCH]
    assert (row["trainings"], row["seconds"]) == ("3", "70"), "of ranks 1, 2, 4, which DyLoRA has too"
    assert "Measured at other ranks: lora r=8 (1, 8)." in best.caption


def test_one_point_is_a_search_where_two_loras_add_to_it(tmp_path: Path) -> None:
    a_record(tmp_path, *LORA, "adapter.r=1", "evaluate.submodels=[1]", values={1: 0.5})
    a_record(tmp_path, *LORA, "adapter.r=4", "evaluate.submodels=[1,4]", values={1: 0.1, 4: 0.7})
    assert comparisons.lora_search_vs_dylora(tmp_path, None)[0].frame[ranks.SEARCH].tolist() == ["50.0", "-"]
    a_record(tmp_path, *LORA, "adapter.r=2", "evaluate.submodels=[1,2]", values={1: 0.2, 2: 0.6})
    assert comparisons.lora_search_vs_dylora(tmp_path, None)[0].frame[ranks.SEARCH].tolist() == ["50.0", "60.0", "70.0"]


def test_a_lora_at_another_rate_keeps_no_rank_from_the_search(search: Path) -> None:
    for rate, value in ((1e-3, 0.9), (3e-3, 0.2)):  # the search ran at the first
        words = (*LORA, "adapter.r=8", "seed=0", f"train.learning_rate={rate}")
        a_record(search, *words, values={1: 0.1, 8: value}, training=trained(80))
    assert comparisons.lora_search_vs_dylora(search, None)[0].frame.loc["8", ranks.SEARCH] == "90.0 (1)"


def test_all_methods_are_compared_over_the_ranks_that_search_and_nested_runs_have(tmp_path: Path) -> None:
    """Equal at ranks 4 and 8, where both are: the search's lower ranks count for nothing and cost nothing."""
    equal = {1: 0.5, 2: 0.6, 4: 0.7, 8: 0.8}
    for rank, value in equal.items():
        words = (*LORA, f"adapter.r={rank}", f"evaluate.submodels=[{rank}]")
        a_record(tmp_path, *words, values={rank: value}, training=trained(10))
    a_record(tmp_path, "adapter=dylora", values={4: 0.7, 8: 0.8}, training=trained(20))
    best = comparisons.lora_search_vs_dylora(tmp_path, None)[1]
    assert "Best over ranks 4, 8," in best.caption and "A search's ranks 1, 2 are left aside" in best.caption
    assert best.frame.loc[ranks.SEARCH].tolist() == ["80.0", "8", "75.0", "2", "20", "1.00"]
    assert best.frame.loc["dylora"].tolist() == ["80.0", "8", "75.0", "1", "20", "1.00"]
    glue = comparisons.glue(tmp_path, None)[0]
    assert glue.frame["sst2"].tolist() == ["75.0", "75.0"] and "Ranks: sst2 over 4, 8." in glue.caption


def test_a_seed_that_lacks_a_rank_is_in_no_area(search: Path) -> None:
    a_record(search, *LORA, "adapter.r=4", "evaluate.submodels=[4]", "seed=2", values={4: 0.9}, training=trained(40))
    row = comparisons.lora_search_vs_dylora(search, None)[1].frame.loc[ranks.SEARCH]
    assert row.tolist() == ["62.5 ± 0.7 (2)", "2", "59.0 ± 0.7 (2)", "3", "70", "2.00"]


def test_a_training_that_was_measured_twice_is_paid_and_counted_once(search: Path) -> None:
    """The search's rank 4 was measured at lower ranks too, DyLoRA by another metric, and cut another way."""
    before = comparisons.lora_search_vs_dylora(search, None)[1].frame
    of_four = ("adapter.r=4", "evaluate.submodels=[1,4]")
    for seed in (0, 1):
        a_record(search, *LORA, *of_four, f"seed={seed}", values={1: 0.3, 4: 0.6}, training=trained(40))
        nested = {rank: 0.55 + rank / 100 for rank in (1, 2, 3, 4)}
        how = ("adapter=dylora", f"seed={seed}", "evaluate.cuts=[svd]", "task.metrics=[accuracy]")
        a_record(search, *how, values=nested, training=trained(35))
    after = comparisons.lora_search_vs_dylora(search, None)[1].frame
    assert after.loc[before.index].to_dict() == before.to_dict()
    assert set(curve_long(search)["n"]) == {2}


def test_a_search_beside_other_ranks_costs_what_it_took(tmp_path: Path) -> None:
    for rank, value in ((4, 0.7), (8, 0.8)):
        words = (*LORA, f"adapter.r={rank}", f"evaluate.submodels=[{rank}]")
        a_record(tmp_path, *words, values={rank: value}, training=trained(10))
    a_record(tmp_path, "adapter=dylora", values={1: 0.5, 2: 0.6}, training=trained(10))
    best = comparisons.lora_search_vs_dylora(tmp_path, None)[1]
    assert best.frame.loc[ranks.SEARCH, ["best", "trainings", "seconds", "x nested"]].tolist() == [
        "80.0",
        "2",
        "20",
        "2.00",
    ]
    assert "left aside" not in best.caption


def test_a_rank_of_one_seed_alone_takes_no_seed_from_the_others(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        for rank in (1, 2, 4):
            words = (*LORA, f"adapter.r={rank}", f"evaluate.submodels=[{rank}]", f"seed={seed}")
            a_record(tmp_path, *words, values={rank: 0.6}, training=trained(10))
        nested = {1: 0.55, 2: 0.65, 4: 0.65, 8: 0.7}
        a_record(tmp_path, "adapter=dylora", f"seed={seed}", values=nested, training=trained(30))
    before = comparisons.lora_search_vs_dylora(tmp_path, None)
    a_record(tmp_path, *LORA, "adapter.r=8", "evaluate.submodels=[8]", "seed=0", values={8: 0.9})
    after = comparisons.lora_search_vs_dylora(tmp_path, None)
    assert [one.frame.to_dict() for one in after[1:3]] == [one.frame.to_dict() for one in before[1:3]]


def test_a_seed_that_lacks_a_rank_is_no_base_either(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        nested = {1: 0.5, 2: 0.6} if seed == 2 else {1: 0.5, 2: 0.6, 4: 0.7}
        a_record(tmp_path, "adapter=dylora", f"seed={seed}", values=nested, training=trained(10 if seed == 2 else 100))
    best = comparisons.lora_search_vs_dylora(tmp_path, None)[1]
    assert best.frame.loc["dylora", ["seconds", "x nested"]].tolist() == ["100", "1.00"]
    assert "Seeds left out, which lack a rank: 1 of dylora." in best.caption


def test_a_run_that_its_evaluations_decided_is_another_training_by_another_metric(tmp_path: Path) -> None:
    for metrics in ("[accuracy,f1]", "[f1,accuracy]"):
        words = ("adapter=dylora", "train.keep=best", "train.eval_steps=5", f"task.metrics={metrics}")
        a_record(tmp_path, *words, values={1: 0.5, 2: 0.6}, training=trained(10))
    frame = comparisons.budget(tmp_path, "accuracy")[0].frame
    assert frame.index.tolist() == ["dylora judge=accuracy, 3 epochs", "dylora judge=f1, 3 epochs"]


def test_each_rank_of_a_search_took_its_own_training(search: Path) -> None:
    seconds = comparisons.flop(search, None)[0].frame["seconds"]
    assert [seconds[f"{ranks.SEARCH}, rank {rank}"] for rank in (1, 2, 4)] == ["10 ± 0", "20 ± 0", "40 ± 0"]


def test_of_equals_the_smallest_rank_is_the_best(tmp_path: Path) -> None:
    for rank in (8, 1, 4, 2):
        a_record(tmp_path, *LORA, f"adapter.r={rank}", f"evaluate.submodels=[{rank}]", values={rank: 0.8})
    a_record(tmp_path, "adapter=dylora", values=dict.fromkeys((8, 4, 2, 1), 0.8))
    assert comparisons.lora_search_vs_dylora(tmp_path, None)[1].frame["at rank"].tolist() == ["1", "1"]


def test_searches_of_two_models_are_two(tmp_path: Path) -> None:
    for model, value in (("tiny_bert", 0.5), ("tiny_gpt2", 0.9)):
        for rank in (1, 2):
            words = (*LORA, f"model={model}", f"adapter.r={rank}", f"evaluate.submodels=[{rank}]")
            a_record(tmp_path, *words, values={rank: value})
    searches = [f"tiny_bert {ranks.SEARCH}", f"tiny_gpt2 {ranks.SEARCH}"]
    assert sorted(set(curve_long(tmp_path)["label"])) == searches
    areas = comparisons.glue(tmp_path, None)[0]
    assert areas.frame["sst2"].to_dict() == dict(zip(searches, ["50.0", "90.0"], strict=True))
    with pytest.raises(RequestError, match="several models"):
        comparisons.budget(tmp_path, None)


def test_a_scale_that_follows_the_rank_is_one_search(tmp_path: Path) -> None:
    for rank in (1, 2, 4):
        words = (*LORA, f"adapter.r={rank}", f"adapter.lora_alpha={2 * rank}", f"evaluate.submodels=[{rank}]")
        a_record(tmp_path, *words, values={rank: 0.5})
    assert comparisons.lora_search_vs_dylora(tmp_path, None)[1].frame["trainings"].to_dict() == {ranks.SEARCH: "3"}


def test_a_search_takes_a_lora_of_its_own_scaling_alone(tmp_path: Path) -> None:
    """By floats 0.3 / 3 is not 0.1 / 1."""
    for rank in (1, 2, 3):
        words = (*LORA, f"adapter.r={rank}", f"adapter.lora_alpha={rank / 10}", f"evaluate.submodels=[{rank}]")
        a_record(tmp_path, *words, values={rank: 0.5})
    for rank, alpha in ((16, 0.8), (8, 0.8)):
        words = (*LORA, f"adapter.r={rank}", f"adapter.lora_alpha={alpha}")
        a_record(tmp_path, *words, values={1: 0.1, rank: 0.9})
    made = comparisons.lora_search_vs_dylora(tmp_path, None)[0].frame
    assert made.loc["8", ranks.SEARCH] == "90.0" and made.loc["16", ranks.SEARCH] == "-"
    assert f"{ranks.SEARCH}: lora_alpha" not in report.table("lora_search_vs_dylora", tmp_path).text("md")


def test_an_average_is_of_one_unit_and_seeds_are_counted_by_task(tmp_path: Path) -> None:
    for task, seed in (("sst2", 0), ("sst2", 1), ("rte", 2)):
        a_record(tmp_path, f"task={task}", f"seed={seed}", "adapter=dylora", values={1: 0.5, 2: 0.7})
    block = comparisons.glue(tmp_path, None)[1]
    assert "seeds (3)" not in block.caption
    assert block.frame.loc["1"].tolist() == ["50.0 ± 0.0", "50.0 (1)", "50.0"]
    a_record(tmp_path, "task=stsb", "adapter=dylora", submodels=scored_by({"mse": 2.5}))
    assert list(comparisons.glue(tmp_path, None)[1].frame.columns) == ["sst2", "rte", "stsb"]


def test_a_best_is_over_the_ranks_that_the_search_trained(search: Path) -> None:
    """A nested run with more ranks has no more candidates."""
    a_record(search, "adapter=dylora", "adapter.update=frozen_grad", values={1: 0.1, 2: 0.2, 3: 0.9, 4: 0.3})
    best = comparisons.lora_search_vs_dylora(search, None)[1].frame
    assert best.loc["dylora frozen_grad"].tolist()[:2] == ["30.0 (1)", "4"]


def test_seeds_that_are_missing_show(search: Path) -> None:
    a_record(search, *LORA, "adapter.r=8", "evaluate.submodels=[8]", values={8: 0.7})
    curve = comparisons.lora_search_vs_dylora(search, None)[0].frame
    assert curve.loc["8"].tolist() == ["70.0 (1)", "-", "-", "-"]


def test_a_grid_of_learning_rates_is_several_searches(search: Path) -> None:
    for rank in (1, 2):
        words = ("train.learning_rate=0.5", f"adapter.r={rank}", f"evaluate.submodels=[{rank}]")
        a_record(search, *LORA, *words, values={rank: 0.2})
    columns = list(comparisons.lora_search_vs_dylora(search, None)[0].frame.columns)
    assert [c for c in columns if c.startswith(ranks.SEARCH)] == [
        *(f"{ranks.SEARCH} learning_rate=0.001", f"{ranks.SEARCH} learning_rate=0.5")
    ]


def test_a_falling_metric_is_best_where_it_is_lowest(tmp_path: Path) -> None:
    a_record(tmp_path, "task=alpaca", values={1: 3.0, 2: 2.0, 4: 2.5})
    for file in tmp_path.glob("*/record.json"):
        file.write_text(file.read_text().replace('"accuracy"', '"loss"').replace('"f1"', '"perplexity"'))
    best = comparisons.lora_search_vs_dylora(tmp_path, None)[1].frame
    assert best.loc["dylora"].tolist()[:2] == ["2.000", "2"]


def by_seed(path: Path, margin: float = 0.5) -> layout.Block:
    return comparisons.lora_search_vs_dylora(path, None, margin)[2]


def test_nested_runs_are_held_to_the_search_and_to_svd_cuts_by_seed(search: Path) -> None:
    """DyLoRA is 1.25 and 2.25 points behind the search's AURAC, and 2.75 behind a constant 60 at both seeds."""
    block = by_seed(search)
    assert list(block.frame.index) == [
        f"dylora - {ranks.SEARCH}, AURAC",
        "dylora - lora svd, AURAC",
        f"dylora - {ranks.SEARCH}, best",
    ]
    half = scipy_stats.t.ppf(0.975, 1) * 0.5
    assert block.frame.iloc[0].tolist() == [
        "-1.8",
        f"{-1.75 - half:+.1f} to {-1.75 + half:+.1f}",
        "0.500",
        "1.000",
        "no",
    ]
    assert block.frame.iloc[1].tolist() == ["-2.8", "-2.8 to -2.8", "0.500", "1.000", "no"]
    assert block.frame.iloc[2, 0] == "-3.5", "59 less 62 and 63"
    assert by_seed(search, margin=3).frame["within 3"].tolist() == ["no", "yes", "no"]
    assert "above 0 the first is better" in block.caption and "accuracy x 100" in block.caption


def test_what_few_seeds_cannot_show_is_said(search: Path) -> None:
    assert "Paired by seed (2 seeds)" in by_seed(search).caption
    assert "With 2 seeds no p can be below 0.5, however large the difference." in by_seed(search).caption
    for seed in range(2, 6):
        a_record(search, "adapter=dylora", f"seed={seed}", values={1: 0.5, 2: 0.5, 4: 0.5})
        how = "evaluate.cuts=[svd]"
        a_record(search, *LORA, how, f"seed={seed}", cuts=cuts(svd={1: 0.7 + seed / 100, 2: 0.7, 4: 0.7}))
    caption = by_seed(search).caption
    assert "(2 to 6 seeds)" in caption, "the search still has two"
    assert by_seed(search).frame.loc["dylora - lora svd, AURAC", "p"] == f"{2 / 2**6:.3f}"


def test_without_search_and_cuts_every_other_method_is_a_rival(tmp_path: Path) -> None:
    for seed in (0, 1):
        a_record(tmp_path, *LORA, f"seed={seed}")
        a_record(tmp_path, f"seed={seed}", values={1: 0.6, 2: 0.7})
    assert list(by_seed(tmp_path).frame.index) == ["dylora - lora, AURAC"]
    assert by_seed(tmp_path).frame.iloc[0, 0] == "+10.0"


def test_one_seed_is_no_test(tmp_path: Path) -> None:
    a_record(tmp_path, *LORA)
    a_record(tmp_path)
    a_record(tmp_path, "seed=1")
    assert by_seed(tmp_path).caption.startswith("Published"), "LoRA has one seed"


def test_of_a_loss_a_difference_below_zero_is_better(tmp_path: Path) -> None:
    for seed in (0, 1):
        a_record(tmp_path, "task=alpaca", *LORA, f"seed={seed}", values={1: 3.0, 2: 2.0})
        a_record(tmp_path, "task=alpaca", f"seed={seed}", values={1: 2.0, 2: 2.0})
    for file in tmp_path.glob("*/record.json"):
        file.write_text(file.read_text().replace('"accuracy"', '"loss"').replace('"f1"', '"perplexity"'))
    assert (
        by_seed(tmp_path).frame.iloc[0, 0] == "-0.500" and "(below 0 the first is better)" in by_seed(tmp_path).caption
    )


def test_ablations_stand_beside_the_papers(tmp_path: Path) -> None:
    for seed in (0, 1):
        for sampler in ("uniform", "geometric", "all"):
            a_record(tmp_path, f"sampler={sampler}", f"seed={seed}", training=trained(10 if sampler != "all" else 25))
    a_record(tmp_path, *LORA)
    curve, seconds, paper = comparisons.loss(tmp_path, "f1")
    assert list(curve.frame.columns) == ["dylora uniform", "dylora geometric", "dylora all"]
    assert seconds.frame["seconds"].tolist() == ["10 ± 0", "10 ± 0", "25 ± 0"]
    assert paper.frame.loc["DyLoRA nested-dropout sum loss"].tolist() == ["1175.69", "54.12"]
    assert comparisons.distribution(tmp_path, None)[-1].frame.loc["DyLoRA uniform; full update, rank 8"].tolist() == [
        "84.47"
    ]


def test_glue_has_a_column_for_each_task_and_averages_whole_rows_alone(tmp_path: Path) -> None:
    a_record(tmp_path, values={1: 0.5, 2: 0.6})
    a_record(tmp_path, "task=mrpc", values={1: 0.8, 2: 0.9})
    a_record(tmp_path, "task=mrpc", *LORA, values={1: 0.8})
    areas, dylora, lora, *paper = comparisons.glue(tmp_path, None)
    assert areas.frame.loc["dylora"].tolist() == ["55.0", "42.5"]
    assert areas.frame.loc[lora.caption.split(":")[0]].tolist() == ["-", "-"]  # one rank is no curve
    assert list(dylora.frame.columns) == ["sst2", "mrpc", "average of 2"]
    assert dylora.frame.loc["1"].tolist() == ["50.0", "40.0", "45.0"]  # MRPC by F1, which a_record halves
    assert lora.frame.loc["1"].tolist() == ["-", "40.0", "40.0"] and "average of 1" in lora.frame.columns
    assert "sst2 accuracy x 100, mrpc f1 x 100" in dylora.caption
    table = paper[0].frame
    assert table.loc["LoRA r=8, cut, rank 1", "GLUE-8 avg"] == "54.90"
    assert paper[1].frame.loc["DyLoRA", "RTE"] == "80.14 (4)"


def test_what_trains_and_what_a_model_holds_are_told_apart(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=full", values={None: 0.9})
    a_record(tmp_path, values={1: 0.5})
    for file in tmp_path.glob("*/record.json"):
        file.write_text(
            file.read_text().replace('"trainable": 2, "total": 3', '"trainable": 2000000, "total": 3000000')
        )
    rows = comparisons.flop(tmp_path, None)[0].frame
    assert list(rows.columns) == ["accuracy", "trained, millions", "whole, millions", "seconds"]
    assert set(rows.index) == {"dylora, rank 1", "full"}
    assert rows.loc["full"].tolist() == ["90.0", "2.000", "3.00", "1"]


def test_the_leaderboard_puts_the_best_first(search: Path) -> None:
    a_record(search, "task=mrpc", values={1: 0.5})
    mrpc, sst2 = comparisons.leaderboard(search, None)
    assert mrpc.caption.startswith("mrpc") and mrpc.frame.loc["dylora", "AURAC"] == "-"
    assert list(sst2.frame.index)[-1] == "dylora" and sst2.frame.loc["lora", "rank"] == "4"


@pytest.mark.parametrize("name", ["lora_search_vs_dylora", "distribution", "loss", "flop"])
def test_runs_of_several_tasks_are_refused(name: str, tmp_path: Path) -> None:
    a_record(tmp_path)
    a_record(tmp_path, "task=mrpc")
    with pytest.raises(RequestError, match=r"several tasks \(mrpc, sst2\)"):
        comparisons.COMPARISONS[name](tmp_path, None)


@pytest.mark.parametrize("name", sorted(comparisons.COMPARISONS))
def test_runs_that_are_not_done_are_refused(name: str, tmp_path: Path) -> None:
    a_record(tmp_path, status="failed")
    with pytest.raises(RequestError, match="none of these runs"):
        comparisons.COMPARISONS[name](tmp_path, None)


@pytest.mark.parametrize("name", ["lora_search_vs_dylora", "glue", "leaderboard"])
@pytest.mark.parametrize("form", ["md", "csv", "latex"])
def test_every_form_is_written(name: str, form: str, search: Path) -> None:
    made = comparisons.COMPARISONS[name](search, None)
    text = layout.render(made, form)
    assert text.endswith("\n") and all(block.caption.split(":")[0] in text.replace("\n# ", " ") for block in made)


def test_the_command_prints_a_comparison(search: Path, command_line: Callable[..., Answer]) -> None:
    done = command_line("table", "lora_search_vs_dylora", str(search))
    assert done.rc == 0 and "| LoRA, one training a rank |" in done.out, done.err
    assert command_line("table", "no_such_table", str(search)).rc == 2


# Runs that a table leaves out


def scored_by(metrics: dict[str, float]) -> list[dict[str, Any]]:
    counts = {"adapter": 1, "head": 1, "trainable": 2, "total": 3}
    return [
        {"rank": rank, "depth": None, "metrics": metrics, "n": 100, "parameters": counts, "eval_seconds": 1.0}
        for rank in (1, 2)
    ]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two runs of one task scored by other metrics at other learning rates, and one that failed."""
    a_record(tmp_path, "adapter=dylora", "train.learning_rate=0.01", submodels=scored_by({"accuracy": 0.5}))
    odd = ["adapter=dylora", "train.learning_rate=0.02", "task.metrics=[f1_macro]"]
    a_record(tmp_path, *odd, submodels=scored_by({"f1_macro": 0.25}))
    a_record(tmp_path, "adapter=dylora", status="failed", submodels=[])
    return tmp_path


def words(name: str, path: Path, metric: str | None = None) -> str:
    return " ".join(report.table(name, path, metric).text("md").replace("\\", "").split())


@pytest.mark.parametrize("name", ["lora_search_vs_dylora", "glue", "distribution", "loss", "flop"])
def test_runs_without_the_metric_are_said_to_be_left_out(name: str, mixed: Path) -> None:
    """Neither their settings nor what is said of their scores stands below a table that they are not in."""
    said = words(name, mixed)
    assert "Left out: 1 of 3 runs, without accuracy; --metric shows them by f1_macro." in said
    assert "Left out: 1 of 3 runs, not done (run-2)." in said
    assert "learning_rate" not in said
    assert "without f1_macro; --metric shows them by accuracy." in words(name, mixed, "f1_macro")


def test_a_leaderboard_has_a_block_for_each_metric(mixed: Path) -> None:
    a_record(mixed, "adapter=lora", "train.learning_rate=0.04", submodels=scored_by({"accuracy": 0.75}))
    said = words("leaderboard", mixed)
    assert "accuracy x 100, best first" in said and "f1_macro x 100, best first" in said
    assert "50.0" in said and "25.0" in said
    assert "accuracy: dylora: learning_rate=0.01." in said and "0.02" not in said, "it stands alone"
    asked = words("leaderboard", mixed, "accuracy")
    assert "25.0" not in asked and "Left out: 1 of 4 runs, without accuracy" in asked


def test_a_curve_of_one_metric_says_who_lacks_it(mixed: Path) -> None:
    assert "Left out: 1 of 3 runs, not done" in words("curve", mixed) and "without" not in words("curve", mixed)
    said = words("curve", mixed, "accuracy")
    assert "without accuracy; --metric shows them by f1_macro." in said and "learning_rate" not in said


@pytest.mark.parametrize("name", ["distribution", "loss"])
def test_other_methods_are_said_to_be_left_out(name: str, mixed: Path) -> None:
    a_record(mixed, "adapter=lora", submodels=scored_by({"accuracy": 0.75}))
    assert "Left out: 1 of 4 runs, which this table does not compare (lora)." in words(name, mixed)


@pytest.mark.parametrize(
    "name", ["lora_search_vs_dylora", "glue", "distribution", "loss", "flop", "leaderboard", "curve"]
)
def test_a_metric_that_no_run_has_is_refused_with_those_there(name: str, mixed: Path) -> None:
    with pytest.raises(RequestError, match="--metric bleu: these runs have accuracy, f1_macro"):
        report.table(name, mixed, "bleu")


@pytest.mark.parametrize("name", ["lora_search_vs_dylora", "glue", "leaderboard", "curve"])
def test_a_metric_of_several_splits_is_asked_for_by_its_split(name: str, tmp_path: Path) -> None:
    a_record(tmp_path, submodels=scored_by({"f1_dev_a": 0.5, "f1_dev_b": 0.6, "f1_macro_dev_a": 0.7}))
    with pytest.raises(
        RequestError, match=r"--metric f1 was measured on several splits; say which: f1_dev_a, f1_dev_b$"
    ):
        report.table(name, tmp_path, "f1")


PAIRED = ("soft_vs_early_exit", "integer")  # tables of runs of two kinds


@pytest.mark.parametrize("name", ["curve", *(name for name in report.NAMES if name not in PAIRED)])
def test_a_table_of_one_split_names_the_others(name: str, tmp_path: Path) -> None:
    a_record(tmp_path, submodels=scored_by({"f1_dev_a": 0.5, "accuracy_dev_a": 0.6, "f1_dev_b": 0.7}))
    assert "f1_dev_a is of dev_a alone; the others: --metric f1_dev_b." in words(name, tmp_path)
    assert "f1_dev_b is of dev_b alone; the others: --metric f1_dev_a." in words(name, tmp_path, "f1_dev_b")
    assert "alone" not in words(name, tmp_path, "accuracy_dev_a"), "it was measured there and nowhere else"


@pytest.mark.parametrize("name", ["curve", "leaderboard"])
@pytest.mark.parametrize(("metric", "told"), [("f1", True), ("f1_dev", True), ("f1_macro", False), ("accuracy", False)])
def test_the_class_of_f1_is_told_where_f1_is_shown(name: str, metric: str, told: bool, tmp_path: Path) -> None:
    scores = dict.fromkeys(["f1_macro", "f1", "f1_dev", "accuracy"], 0.5)
    a_record(tmp_path, submodels=scored_by(scores))
    (file,) = tmp_path.glob("*/record.json")
    file.write_text(file.read_text().replace('"location"', '"positive_label": "3", "location"'))
    assert ("f1 is of the class 3." in words(name, tmp_path, metric)) == told


def test_a_budget_adds_up_the_trainings_of_a_search_and_holds_lengths_apart(tmp_path: Path) -> None:
    for epochs, gain in ((1, 0.0), (4, 0.1)):
        of = f"train.epochs={epochs}"
        for rank, value in ((1, 0.50), (4, 0.60)):
            words = (*LORA, of, f"adapter.r={rank}", f"evaluate.submodels=[{rank}]")
            a_record(tmp_path, *words, values={rank: value + gain}, training=trained(10) | {"steps": 25 * epochs})
        nested = {rank: 0.5 + rank / 100 + gain for rank in (1, 2, 4)}
        a_record(tmp_path, "adapter=dylora", of, values=nested, training=trained(12) | {"steps": 25 * epochs})
    (block,) = comparisons.budget(tmp_path, None)
    assert "over ranks 1, 4;" in block.caption
    rows = {name: row.tolist() for name, row in block.frame.iterrows()}
    assert rows == {
        "dylora, 1 epoch": ["1", "25", "12", "52.5", "54.0", "4", "1"],
        "dylora, 4 epochs": ["1", "100", "12", "62.5", "64.0", "4", "1"],
        f"{ranks.SEARCH}, 1 epoch": ["2", "50", "20", "55.0", "60.0", "4", "1"],
        f"{ranks.SEARCH}, 4 epochs": ["2", "200", "20", "65.0", "70.0", "4", "1"],
    }
    (picture,) = report.table("budget", tmp_path).pictures()
    assert [line.get_xdata().tolist() for line in picture.axes[0].lines] == [[50, 200], [25, 100]]


def test_a_budget_names_a_method_alike_at_every_length(tmp_path: Path) -> None:
    for rate, steps in ((1e-3, 4), (1e-2, 4), (1e-2, 8)):
        words = ("adapter=dylora", f"train.learning_rate={rate}", f"train.max_steps={steps}", f"train.epochs={steps}")
        a_record(tmp_path, *words, values={1: 0.5, 2: 0.6}, training=trained(1) | {"steps": steps})
    names = [f"dylora learning_rate={rate}, {steps} steps" for rate, steps in (("0.001", 4), ("0.01", 4), ("0.01", 8))]
    assert comparisons.budget(tmp_path, None)[0].frame.index.tolist() == names


def test_in_a_budget_one_rank_alone_leaves_the_others_theirs(tmp_path: Path) -> None:
    for rank in (1, 2, 16):
        words = (*LORA, f"adapter.r={rank}", f"evaluate.submodels=[{rank}]", "train.epochs=1")
        a_record(tmp_path, *words, values={rank: 0.5 + rank / 100}, training=trained(10))
    a_record(tmp_path, *LORA, "adapter.r=1", "evaluate.submodels=[1]", "train.epochs=9", values={1: 0.7})
    a_record(tmp_path, *LORA, "adapter.r=8", "train.epochs=9", values={1: 0.1, 2: 0.1, 8: 0.8})
    a_record(tmp_path, "adapter=full", "train.epochs=1", submodels=[scored_by({"accuracy": 0.9})[0] | {"rank": None}])
    a_record(tmp_path, "adapter=dylora", "train.epochs=1", values={1: 0.4, 2: 0.6, 4: 0.9}, training=trained(10))
    (block,) = comparisons.budget(tmp_path, None)
    assert "over ranks 1, 2;" in block.caption and "A search's ranks 16 are left aside" in block.caption
    assert block.frame[["trainings", "AURAC", "best accuracy", "at rank"]].T.to_dict("list") == {
        f"{ranks.SEARCH}, 1 epoch": ["2", "51.5", "52.0", "2"],
        f"{ranks.SEARCH}, 9 epochs": ["1", "-", "70.0", "1"],
        "lora, 9 epochs": ["1", "10.0", "10.0", "1"],
        "full, 1 epoch": ["1", "-", "90.0", "whole"],
        "dylora, 1 epoch": ["1", "50.0", "60.0", "2"],
    }


def test_a_budget_over_no_common_rank_is_refused(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=dylora", "train.epochs=5", values={1: 0.5, 8: 0.5})
    a_record(tmp_path, "adapter=dylora", values={2: 0.5, 4: 0.5})
    with pytest.raises(RequestError, match="these runs share none"):
        comparisons.budget(tmp_path, None)
