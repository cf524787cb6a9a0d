"""soft_vs_early_exit: exits against methods, what each cost, and the paper's figures apart from ours."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, compose_run

from rankbench.errors import RequestError
from rankbench.settings.identity import settings
from rankbench.tables import comparisons, layout
from rankbench.tables.comparisons import published
from rankbench.tables.comparisons.depth import pictures

EXITS = (2, 3, 4)


def a_run_over_depth(folder: Path, adapter: str, losses: dict[int, float], *overrides: str, **more: Any) -> str:
    """The record of a run with these overrides, with a loss for each exit; returns its id."""
    words = ["model=tiny_llama", "task=alpaca", f"adapter={adapter}", *overrides]
    run_id = f"run-{len(list(folder.glob('*/record.json')))}"
    record = {
        "schema": 1,
        "run_id": run_id,
        "status": "done",
        "config": settings(compose_run(*words)),
        "submodels": [
            {
                "rank": None,
                "depth": depth,
                "metrics": {"loss": loss, "perplexity": 2 * loss},
                "n": 50,
                "parameters": {"adapter": 0, "head": 0, "trainable": 1, "total": depth * 10**6},
                "eval_seconds": 5.0,
            }
            for depth, loss in losses.items()
        ],
        "training": {"examples_per_second": 10.0, "seconds": 20.0, "peak_memory_bytes": 3 * 2**30},
        "environment": {"device": "a processor"},
    } | more
    (folder / run_id).mkdir(parents=True)
    (folder / run_id / "record.json").write_text(json.dumps(record))
    return run_id


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        start = a_run_over_depth(tmp_path, "sft", {2: 9.0 + seed, 3: 7.0, 4: 3.0}, f"seed={seed}")
        body = f"adapter.start_from={tmp_path / start}"
        (tmp_path / start / "adapter").mkdir()
        a_run_over_depth(tmp_path, "early_exit", {2: 6.0, 3: 5.0, 4: 3.0}, f"seed={seed}", body)
        a_run_over_depth(tmp_path, "sorted_ft", {2: 5.0 - seed, 3: 4.0, 4: 3.5}, f"seed={seed}")
    a_run_over_depth(tmp_path, "sft", {2: 4.5}, "model.layers=2")
    return tmp_path


def test_methods_stand_beside_each_other_at_each_exit(runs: Path) -> None:
    quality, speed, parameters, training, *_ = comparisons.soft_vs_early_exit(runs)
    assert quality.caption == (
        "alpaca, tiny_llama: loss of 50 examples at each exit, mean ± standard deviation over seeds, lower is better."
    )
    assert list(quality.frame.columns) == ["SFT", "SFT+ICT", "SoFT", "fine-tuned alone"]
    assert quality.frame.loc[2].tolist() == ["9.500 ± 0.707", "6.000 ± 0.000", "4.500 ± 0.707", "4.500"]
    assert quality.frame.loc[3].tolist() == ["7.000 ± 0.000", "5.000 ± 0.000", "4.000 ± 0.000", "-"]
    assert parameters.frame["SoFT"].tolist() == ["2.000", "3.000", "4.000"]
    assert speed.caption.startswith("Generated tokens a second") and speed.frame.loc[2, "fine-tuned alone"] == "10.0"
    rows = training.frame
    assert list(rows.index) == ["SFT", "SFT+ICT", "SoFT", "fine-tuned alone, 2 layers"]
    assert rows.loc["SFT"].tolist() == ["200 ± 0", "20 ± 0", "3.0 ± 0.0"]
    assert rows.loc["SFT+ICT"].tolist() == ["400 ± 0", "40 ± 0", "3.0 ± 0.0"], "with the SFT that it began from"


def test_the_picture_names_methods_as_the_table_does(runs: Path) -> None:
    (picture,) = pictures(runs)
    (axes,) = picture.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["SFT (2 seeds)", "SFT+ICT (2 seeds)", "SoFT (2 seeds)", "fine-tuned alone"]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert lines["SoFT (2 seeds)"].get_xdata().tolist() == list(EXITS)
    assert lines["SoFT (2 seeds)"].get_ydata().tolist() == [4.5, 4.0, 3.5]
    assert len(axes.containers) == 1, "what was fine-tuned alone is a point"
    with pytest.raises(RequestError, match="--metric bleu"):
        pictures(runs, "bleu")


def test_another_metric_and_generated_tokens(tmp_path: Path) -> None:
    a_run_over_depth(tmp_path, "sft", {2: 9.0, 4: 3.0})
    file = tmp_path / "run-0" / "record.json"
    record = json.loads(file.read_text())
    for sub in record["submodels"]:
        sub["generated"] = {"tokens": 100 * sub["depth"], "seconds": 4.0}
        sub |= {"tokens_per_second": 40.0} if sub["depth"] == 4 else {}
        sub["metrics"] |= {"exact_match": 0.125, "exact_match_seen": 0.25}
    file.write_text(json.dumps(record))
    ours, *_ = comparisons.soft_vs_early_exit(tmp_path, "exact_match_seen")
    assert "exact_match_seen x 100 at each exit" in ours.caption  # 50 counts the rows of every split
    quality, speed, *_ = comparisons.soft_vs_early_exit(tmp_path, "exact_match")
    assert "exact_match x 100 of 50 examples at each exit, one seed." in quality.caption
    assert quality.frame["SFT"].tolist() == ["12.5", "12.5"]
    assert speed.caption.startswith("Generated tokens a second") and speed.frame["SFT"].tolist() == ["-", "40.0"]


def test_a_speed_that_no_run_measured_is_no_table(tmp_path: Path) -> None:
    a_run_over_depth(tmp_path, "sft", {2: 9.0, 4: 3.0})
    before = len(comparisons.soft_vs_early_exit(tmp_path))
    file = tmp_path / "run-0" / "record.json"
    record = json.loads(file.read_text())
    for sub in record["submodels"]:
        sub["generated"] = {"tokens": 100, "seconds": 4.0}
    file.write_text(json.dumps(record))
    assert len(comparisons.soft_vs_early_exit(tmp_path)) == before - 1


def test_settings_tell_runs_of_one_method_apart(tmp_path: Path) -> None:
    a_run_over_depth(tmp_path, "sorted_ft", {4: 3.0})
    a_run_over_depth(tmp_path, "sorted_ft", {4: 2.0}, "sampler=uniform")
    a_run_over_depth(tmp_path, "sft", {4: 1.0})
    assert list(comparisons.soft_vs_early_exit(tmp_path)[0].frame.columns) == ["SFT", "SoFT all", "SoFT uniform"]


def test_early_exits_without_their_body_are_refused(runs: Path) -> None:
    heads = [file for file in runs.glob("*") if "early_exit" in (file / "record.json").read_text()]
    with pytest.raises(RequestError, match=r"began from run-\d, which is not among these runs; give it too"):
        comparisons.soft_vs_early_exit(heads[0])


ALONE = {"rank": None, "depth": 4, "metrics": {"loss": 1}, "n": 1, "eval_seconds": 1.0} | {
    "parameters": {"trainable": 1, "total": 2}
}


@pytest.mark.parametrize(
    ("adapter", "overrides", "more", "message"),
    [
        ("sft", ["task=triviaqa", "task.metrics=[loss,perplexity]"], {}, "several tasks"),
        ("sft", ["model=tiny_gpt2"], {}, "several models"),
        ("sft", [], {"submodels": [ALONE]}, "does not have it"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    adapter: str, overrides: list[str], more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    a_run_over_depth(tmp_path, "sorted_ft", {4: 3.0})
    a_run_over_depth(tmp_path, adapter, {4: 3.0}, *overrides, **more)
    with pytest.raises(RequestError, match=message):
        comparisons.soft_vs_early_exit(tmp_path, "perplexity")


def test_runs_without_exits_are_refused(tmp_path: Path) -> None:
    a_run_over_depth(tmp_path, "sft", {4: 3.0}, status="failed")
    with pytest.raises(RequestError, match="none of these runs is done and has exits"):
        comparisons.soft_vs_early_exit(tmp_path)


def test_published_figures_stand_apart_and_are_said_to_be_so(runs: Path) -> None:
    made = comparisons.soft_vs_early_exit(runs)
    theirs = [block for block in made if block.caption.startswith("Published, not ours: Sorted LLaMA")]
    assert len(theirs) == 3 and made[-3:] == theirs
    exits, decoding, training = (block.frame for block in theirs)
    assert exits.loc["12"].tolist() == ["17 / 152.5 / 0.5", "23.5 / 144 / 2.5", "-0.165", "-0.118"]
    assert decoding.loc["dynamic"].tolist() == ["69.91", "81.01", "36.53"]
    assert training.loc["SoFT"].tolist() == ["25269.87", "125682"]
    assert all("-" not in frame.to_numpy().ravel().tolist() for frame in (exits, decoding, training))


def test_a_judges_score_is_wins_less_losses_over_all() -> None:
    """The paper prints (W - L) / T and calls T ties; its own figures agree with the total alone."""
    for depth, score in (("12", -0.797), ("24", -0.268), ("40", -0.059)):
        key = ("PandaLM", "SoFT 2 epochs vs SFT layer 40", depth)
        wins, losses, ties = (
            float(published._value("Sorted LLaMA", "4", *key, what)) for what in ("wins", "losses", "ties")
        )
        assert wins + losses + ties == 170
        assert float(published._value("Sorted LLaMA", "Fig 1", *key, "score")) == pytest.approx(score)
        assert (wins - losses) / 170 == pytest.approx(score, abs=1e-3)


def test_forms_read_back(runs: Path) -> None:
    made = comparisons.soft_vs_early_exit(runs)
    parts = layout.render(made, "csv").split("\n\n")
    assert len(parts) == len(made) == 7
    for block, part in zip(made, parts, strict=True):
        lines = part.splitlines()
        caption = " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))
        assert caption == block.caption
        rows = list(csv.reader(io.StringIO("\n".join(line for line in lines if not line.startswith("# ")))))
        assert rows[0][1:] == list(block.frame.columns) and len(rows) == len(block.frame) + 1
    latex = layout.render(made, "latex")
    assert latex.count(r"\begin{tabular}") == 7 and r"$\pm$" in latex and "\n% " in latex
    assert max(map(len, layout.render(made, "md").splitlines())) < 100


def test_the_command_prints_it(runs: Path, command_line: Callable[..., Answer]) -> None:
    done = command_line("table", "soft_vs_early_exit", str(runs), "--metric", "perplexity")
    assert done.rc == 0 and "alpaca, tiny_llama: perplexity of 50 examples" in done.out
    wrong = command_line("table", "soft_vs_early_exit", str(runs), "--metric", "accuracy")
    assert wrong.rc == 2 and "--metric accuracy" in wrong.err and "loss, perplexity" in wrong.err
