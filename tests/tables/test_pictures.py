"""Pictures: a log2 axis of ranks, names beside the lines, baselines as level lines, values under the pointer."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_curve import a_record

from rankbench.records.record import load_records
from rankbench.tables import baselines, plots, report
from rankbench.tables.comparisons import ranks as comparison

SVG = "{http://www.w3.org/2000/svg}"
LONG = "LoRA, one training a rank, learning_rate=0.001 target_modules=[query, key, value]"


def a_table(*labels: str, ranks: Any = (1, 2, 4), seeds: int = 1, start: float = 0.8) -> pd.DataFrame:
    """Curves that rise by a point a rank, each method a point above the one before."""
    rows = [
        {"label": label, "rank": rank, "depth": None, "mean": start + 0.01 * (i + k), "std": 0.01, "n": seeds}
        for k, label in enumerate(labels)
        for i, rank in enumerate(ranks)
    ]
    return pd.DataFrame(rows)


def named(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [" ".join(text.get_text().split()) for text in legend.get_texts()]


def titles(figure: Figure) -> list[str]:
    """What an SVG says where the pointer rests."""
    out = io.StringIO()
    plots.write(figure, out, "svg")
    return [str(title.text) for title in ElementTree.fromstring(out.getvalue()).iter(f"{SVG}title")]


@pytest.mark.parametrize(
    ("ranks", "labelled"),
    [
        ([1, 2, 4, 8], [1, 2, 4, 8]),
        (range(1, 9), list(range(1, 9))),
        ([1, 3, 5, 8], [1, 3, 5, 8]),
        ([3, 5, 7], [3, 5, 7]),
        ([6], [6]),
        (range(1, 65), [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]),
        ([1, 100, 1000, 1001], [1, 100, 1001]),
    ],
)
def test_ranks_stand_at_their_logarithms_and_are_labelled_where_there_is_room(ranks: Any, labelled: list[int]) -> None:
    (axes,) = plots.curve(a_table("dylora", ranks=ranks), "matthews_correlation", "").axes
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "matthews correlation x 100"
    assert axes.get_xticks().tolist() == labelled
    assert [text.get_text() for text in axes.get_xticklabels()] == [str(rank) for rank in labelled]


def test_many_depths_are_labelled_where_there_is_room() -> None:
    table = a_table("sft", ranks=range(1, 31)).rename(columns={"rank": "depth", "depth": "rank"})
    (axes,) = plots.curve(table, "accuracy", "", "depth").axes
    assert axes.get_xscale() == "linear" and {1, 2, 4, 8, 16, 30} - {2} <= set(axes.get_xticks())
    assert len(axes.get_xticks()) < 20


@pytest.mark.parametrize("lines", [8, 30])
@pytest.mark.parametrize("kind", ["curve", "pareto"])
def test_the_legend_stands_beside_the_axes_within_the_picture(kind: str, lines: int) -> None:
    table = a_table("dylora", LONG, *(f"lora lr={i}" for i in range(lines)), seeds=3).assign(parameters=10)
    figure = getattr(plots, kind)(table, "accuracy", "")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    box, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert box.x0 >= inside.x1 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
    assert inside.width > figure.bbox.width / 2, "a long name is wrapped and leaves room for the lines"
    assert any(LONG in name for name in named(axes))


def test_seeds_that_few_points_have_are_said_and_no_band_narrows_to_one_seed() -> None:
    few = a_table("lora").assign(n=[1, 1, 3], std=[0.0, 0.0, 0.02])
    (axes,) = plots.curve(pd.concat([few, a_table("dylora", seeds=3)]), "accuracy", "").axes
    assert named(axes) == ["lora (1 to 3 seeds)", "dylora (3 seeds)"]
    title = axes.get_legend().get_title().get_text().split()
    assert " ".join(title) == "mean; band or bar: one standard deviation over seeds"
    bars, band = axes.collections
    ((low, high),) = bars.get_segments()  # type: ignore[attr-defined]
    assert [*low, *high] == pytest.approx([4, 80, 4, 84]), "one bar, at the point of three seeds"
    assert {x for x, _ in band.get_paths()[0].vertices} == {1, 2, 4}


def test_baselines_and_whole_models_are_thin_level_lines_with_their_names() -> None:
    whole = pd.DataFrame({"label": ["full"], "rank": [None], "depth": [None], "mean": [0.83], "std": [0.01], "n": [3]})
    figure = plots.draw(pd.concat([a_table("dylora"), whole]), "accuracy", "", {"untuned": 0.79, "majority class": 0.5})
    assert figure is not None
    (axes,) = figure.axes
    assert named(axes) == ["dylora", "full (3 seeds): 83", "untuned: 79", "majority class: 50, below"]
    levels = {line.get_ydata()[0]: line for line in axes.lines[1:]}
    assert sorted(levels) == pytest.approx([50, 79, 83]) and all(line.get_linewidth() < 1 for line in levels.values())
    assert len({str(line._dash_pattern) for line in levels.values()}) == 3  # type: ignore[attr-defined]
    low, high = axes.get_ylim()
    assert 50 < low < 79 and high > 83, "a far line would press the curves flat"


def test_a_baseline_close_by_widens_the_view() -> None:
    (axes,) = plots.curve(a_table("lora"), "loss", "", lines={"mean": 0.825}).axes
    assert axes.get_ylim()[1] > 0.825 and named(axes) == ["lora", "mean: 0.825"]


def test_whole_models_alone_are_no_curve() -> None:
    assert plots.draw(a_table("full", ranks=[None]), "accuracy", "", {"mean": 0.5}) is None


def test_full_fine_tuning_stands_in_the_picture_of_a_comparison(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=dylora", baselines=[{"baseline": "majority class", "metrics": {"accuracy": 0.45}}])
    a_record(tmp_path, "adapter=full", values={None: 0.62})
    for figure in (report.table("curve", tmp_path).pictures()[0], comparison.pictures(tmp_path)[0]):
        assert named(figure.axes[0]) == ["dylora", "full: 62", "majority class: 45"]
    costs = comparison.pictures(tmp_path)[1].axes[0]
    assert named(costs) == ["dylora", "not beaten"]


# Under the pointer


def test_every_point_and_line_of_an_svg_says_its_value() -> None:
    table = a_table("dylora", "lora & <co>", seeds=3)
    figure = plots.curve(table, "accuracy", "", apart=["lora & <co>"], lines={"majority class": 0.79})
    joined, points = figure.axes[0].lines[:2]
    assert joined.get_linestyle() != "None" and points.get_linestyle() == "None", "trained apart, so no line between"
    assert titles(figure) == [
        "majority class: 79",
        *(f"dylora, rank {rank}: {80 + i} ± 1 (3 seeds)" for i, rank in enumerate((1, 2, 4))),
        *(f"lora & <co>, rank {rank}: {81 + i} ± 1 (3 seeds)" for i, rank in enumerate((1, 2, 4))),
    ]


def test_a_point_of_cost_says_rank_value_and_parameters() -> None:
    table = a_table("lora", ranks=[1, 8]).assign(parameters=[1000, 8000])
    assert titles(plots.pareto(table, "accuracy", "")) == [
        "lora, rank 1: 80, 1,000 parameters",
        "lora, rank 8: 81, 8,000 parameters",
    ]


def test_a_point_speaks_where_its_marker_is() -> None:
    out = io.StringIO()
    plots.write(plots.curve(a_table("a", "b"), "accuracy", ""), out, "svg")
    svg = ElementTree.fromstring(out.getvalue())
    spots = [(spot.get("cx"), spot.get("cy")) for spot in svg.iter(f"{SVG}circle")]
    marks = [(mark.get("x"), mark.get("y")) for mark in svg.iter(f"{SVG}use")]
    assert len(spots) == 6 and set(spots) <= set(marks) and list(svg)[-6:] == list(svg.iter(f"{SVG}circle"))
    assert "<script" not in out.getvalue() and not re.search(r"says:", out.getvalue())


# Baselines of records


def with_baselines(folder: Path, *overrides: str, **values: float) -> None:
    measured = [{"baseline": name.replace("_", " "), "metrics": {"accuracy": v}} for name, v in values.items()]
    a_record(folder, *overrides, baselines=measured)


def test_records_without_baselines_have_none(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=dylora")
    a_record(tmp_path, "adapter=lora", baselines=[{"baseline": "mean", "metrics": {"loss": 0.5, "accuracy": None}}])
    assert baselines.lines(load_records(tmp_path), "accuracy") == {}


def test_equal_baselines_are_one_and_seeds_are_averaged(tmp_path: Path) -> None:
    for adapter in ("dylora", "lora"):
        for seed, untuned in ((0, 0.4), (1, 0.5)):
            with_baselines(tmp_path, f"adapter={adapter}", f"seed={seed}", majority_class=0.6, untuned=untuned)
    a_record(tmp_path, "adapter=full", values={None: 0.9})
    assert baselines.lines(load_records(tmp_path), "accuracy") == pytest.approx(
        {"majority class": 0.6, "untuned": 0.45}
    )


def test_unlike_baselines_name_their_methods(tmp_path: Path) -> None:
    with_baselines(tmp_path, "adapter=dylora", majority_class=0.6, untuned=0.4)
    with_baselines(tmp_path, "adapter=lora", majority_class=0.6004, untuned=0.5)
    assert baselines.lines(load_records(tmp_path), "accuracy") == pytest.approx(
        {"majority class": 0.6002, "untuned, dylora": 0.4, "untuned, lora": 0.5}
    )


def test_a_failed_run_has_no_say(tmp_path: Path) -> None:
    with_baselines(tmp_path, "adapter=dylora", mean=0.5)
    file = tmp_path / "run-0" / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "failed"}))
    assert baselines.lines(load_records(tmp_path), "accuracy") == {}
