"""choose_rank: the smallest rank surely within a margin of the best, what the best is worth, and how to ship it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, Answer, compose_run

import rankbench
from rankbench.errors import RequestError
from rankbench.settings.identity import settings
from rankbench.tables import choice, stats
from rankbench.tables.layout import Block
from rankbench.tasks import metrics
from rankbench.tasks.metrics import text

N = 400
Place = tuple[int | None, int | None]  # rank, depth
NESTED = {"method": "dylora", "r": 4, "scale": "alpha_over_b", "trained_ranks": [1, 2, 4]}


def hits(share: float, but: int = 0) -> np.ndarray:
    """Right answers to the first `share` of the examples, except the last `but` of those."""
    return np.arange(N) < round(share * N) - but


def a_run(
    folder: Path,
    columns: dict[Place, dict[str, np.ndarray]],
    references: np.ndarray,
    names: tuple[str, ...] = ("accuracy",),
    accepted: list[list[str]] | None = None,
    **more: Any,
) -> Path:
    """A done run with these columns (n,) for each sub-model and the metrics they give, its adapter not kept."""
    folder.mkdir(parents=True)
    parts, subs = [], []
    for (rank, depth), own in columns.items():
        scores = own.get("scores")
        flat = {} if scores is None else {f"score_{i}": scores[:, i] for i in range(scores.shape[1])}
        flat |= {name: column for name, column in own.items() if name != "scores"}
        place = {"rank": pd.array([rank] * len(references), "Int64"), "depth": pd.array([depth] * N, "Int64")}
        parts.append(
            pd.DataFrame(place | {"split": "validation", "index": np.arange(N), **flat, "reference": references})
        )
        subs.append(
            {
                "rank": rank,
                "depth": depth,
                "metrics": metrics.score(list(names), own, accepted or references),
                "n": N,
                "eval_seconds": 1.0,
                "parameters": {
                    "adapter": 1000 * (rank or 0),
                    "head": 0,
                    "trainable": 1000 * (rank or depth or 0),
                    "total": 10**6 * (depth or 30) + 1000 * (rank or 0),
                },
            }
        )
    frame = pd.concat(parts).sample(frac=1, random_state=0)
    frame.to_parquet(folder / "predictions.parquet", index=False)
    names_of = {"task": "a task", "model": "a model", "adapter": "dylora", "sampler": "uniform", "quantization": "none"}
    config = {group: {"name": name} for group, name in names_of.items()} | {"seed": 0}
    record = {"schema": 2, "run_id": folder.name, "status": "done", "config": config, "submodels": subs[::-1]}
    record["environment"] = {"precision": "fp32", "device": "cpu"}
    (folder / "record.json").write_text(json.dumps(record | more))
    return folder


def of_ranks(folder: Path, right: dict[int, np.ndarray], **more: Any) -> Path:
    """A run of two classes whose ranks are right on these examples."""
    truth = np.arange(N) // 3 % 2
    columns = {(rank, None): {"prediction": np.where(own, truth, 1 - truth)} for rank, own in right.items()}
    return a_run(folder, columns, truth, **more)


def trained(run: Path, note: dict[str, Any]) -> None:
    """What a run leaves of its adapter for others to read."""
    (run / "adapter").mkdir()
    (run / "adapter" / "rankbench.json").write_text(json.dumps(note))


def shown(made: list[Block], row: int | str) -> dict[str, str]:
    return dict(made[0].frame.loc[str(row)])


# The choice


def test_the_smallest_rank_within_the_margin_is_chosen(tmp_path: Path) -> None:
    """Rank 2 is wrong on one example of 400 more than rank 4, and rank 1 on 40."""
    run = of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8, but=1), 4: hits(0.8)})
    made, closing = choice.choose_rank(run, margin=2)
    assert closing[0].startswith(
        "Rank 2: the smallest rank within 2 of the best, whichever that is, at 95 %; at most 1"
    )
    assert [shown(made, rank)["within 2"] for rank in (1, 2, 4)] == ["no", "yes", "yes"]
    assert choice.choose_rank(run, margin=30)[1][0].startswith("Rank 1: the smallest rank")


def test_where_the_examples_do_not_tell_that_is_said_with_how_many_would(tmp_path: Path) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8, but=1), 4: hits(0.8)})
    made, (answer, *_) = choice.choose_rank(run, margin=0.3)
    assert [shown(made, rank)["within 0.3"] for rank in (1, 2, 4)] == ["no", "?", "?"]
    assert answer.startswith("These 400 examples do not tell which rank is within 0.3 of the best. Rank 4 scores best,")
    needed = int(answer.split("Some ")[1].split()[0].replace(",", ""))
    low, high = (float(end) for end in shown(made, 2)["interval"].split(" to "))
    assert needed == pytest.approx(400 * ((high - low) / 2 / 0.3) ** 2, rel=0.15)


def test_an_equal_share_from_other_examples_is_no_proof_of_being_as_good(tmp_path: Path) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.8)[::-1], 2: hits(0.8, but=2), 4: hits(0.8)})
    made, closing = choice.choose_rank(run, margin=2.5)
    assert shown(made, 4)["minus best"] == "+0.0" and shown(made, 4)["within 2.5"] == "?", "of equals the smaller"
    assert "Rank 1 scores best, 80.0; 3 of 3 may be the best." in closing[0]


def test_the_table_says_what_is_known_of_each_rank(tmp_path: Path) -> None:
    right = {1: hits(0.7), 2: hits(0.8, but=6), 3: hits(0.8, but=5), 4: hits(0.8)}
    made, closing = choice.choose_rank(of_ranks(tmp_path / "run", right), margin=2)
    first, second, third, best = (shown(made, rank) for rank in right)
    assert (first["accuracy x 100"], first["minus best"], first["parameters"]) == ("70.0", "-10.0", "1,000")
    assert (best["minus best"], best["interval"], best["p"]) == ("-", "-", "-")
    assert first["p"] == "< 0.001" and 0.03 < float(second["p"]) < float(third["p"]) < 0.2
    low, high = (float(end) for end in second["interval"].split(" to "))
    assert low < -2 < high < 1
    chosen = [float(shown(made, rank)["best of half"].split()[0]) for rank in right]
    assert sum(chosen) == pytest.approx(100, abs=2) and chosen[-1] > 90
    assert "a task, a model, 400 examples" in made[0].caption and "over all pairs" in made[0].caption
    assert closing[1].startswith("It costs 4,000 parameters, 16 kB as an adapter, or 120.0 MB as a merged model")
    assert "Chosen on one half of the examples" in closing[2] and "beside the table's best, 80.0." in closing[2]
    assert closing[3].endswith(f"{100 * stats.aurac([1, 2, 3, 4], [0.7, 0.785, 0.7875, 0.8]):.1f}.")


def test_equal_ranks_share_the_halves_and_none_is_the_smallest_by_that(tmp_path: Path) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.8), 2: hits(0.8), 4: hits(0.8)})
    made, closing = choice.choose_rank(run, margin=2)
    assert [shown(made, rank)["best of half"] for rank in (1, 2, 4)] == ["33 %"] * 3
    assert not any("worse by -" in line or "better by -" in line for line in closing)


def test_no_rank_that_answers_one_class_is_chosen(tmp_path: Path) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.8, but=1), 2: hits(0.8)})
    record = json.loads((run / "record.json").read_text())
    for sub in record["submodels"]:
        if sub["rank"] == 1:
            sub["one_class"] = "ok"
    (run / "record.json").write_text(json.dumps(record))
    closing = choice.choose_rank(run, margin=5)[1]
    assert closing[0].startswith("Rank 2: the smallest rank within 5")
    assert any(line.startswith("Rank 1 answers ok for every example") for line in closing)
    for sub in record["submodels"]:
        sub["one_class"] = "ok"
    (run / "record.json").write_text(json.dumps(record))
    closing = choice.choose_rank(run, margin=5)[1]
    assert (
        closing[0].startswith("No rank is named: every rank answers one class")
        and "nothing here to ship" in closing[-1]
    )


def test_equal_ranks_are_at_most_nothing_worse(tmp_path: Path) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.8), 2: hits(0.8)})
    assert choice.choose_rank(run)[1][0].endswith("at most 0.00 worse.")


def test_the_same_run_has_the_same_answer(tmp_path: Path) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8, but=1), 4: hits(0.8)})
    assert choice.text(*choice.choose_rank(run, None, 2), "md") == choice.text(*choice.choose_rank(run, None, 2), "md")


def test_of_a_loss_the_lowest_is_best(tmp_path: Path) -> None:
    tokens, base = np.full(N, 4), np.linspace(4, 12, N)
    columns: dict[Place, dict[str, np.ndarray]] = {
        (rank, None): {"loss": base + more, "tokens": tokens} for rank, more in ((1, 4.0), (2, 0.01), (4, 0.0))
    }
    made, closing = choice.choose_rank(a_run(tmp_path / "run", columns, np.zeros(N), ("loss", "perplexity")))
    assert shown(made, 1)["loss"] == "3.000" and shown(made, 1)["minus best"] == "+1.000"
    assert shown(made, 1)["within 0.5"] == "no"
    assert closing[0].startswith("Rank 2: the smallest rank within 0.5 of the best, whichever that is, at 95 %")
    assert "at most 0.00" in closing[0]
    assert choice.choose_rank(tmp_path / "run", "perplexity", 0.01)[1][0].startswith("Rank 4: better than every")


def test_losses_of_other_tokens_are_not_compared(tmp_path: Path) -> None:
    for name, tokens in (("a", 4), ("c", 5)):
        columns: dict[Place, dict[str, np.ndarray]] = {
            (rank, None): {"loss": np.linspace(4, 12, N) * rank, "tokens": np.full(N, tokens)} for rank in (1, 2)
        }
        a_run(tmp_path / name, columns, np.zeros(N), ("loss",))
    with pytest.raises(RequestError, match=r"a and .*c have other tokens for the same responses"):
        choice.choose_rank([tmp_path / "a", tmp_path / "c"])


def test_nothing_is_named_where_no_answer_is_right(tmp_path: Path) -> None:
    wanted = np.array(["Paris", "a dog", "Oslo", "no"] * (N // 4), dtype=object)
    for right in (0, 1):
        columns: dict[Place, dict[str, np.ndarray]] = {}
        for rank in (1, 2):
            said = np.array([f"{rank} {i}" for i in range(N)], dtype=object)
            said[:right] = wanted[:right]
            columns[rank, None] = {"prediction": said}
        folder = a_run(tmp_path / f"{right}", columns, wanted, ("exact_match",), [[text] for text in wanted])
        answer = choice.choose_rank(folder)[1][0]
        assert (answer == "No rank is named: every rank scores 0 on every example.") is (right == 0), answer


@pytest.mark.parametrize("metric", ["exact_match", "exact_match_normalized"])
def test_exact_match_is_tested_where_every_question_accepts_one_text(metric: str, tmp_path: Path) -> None:
    wanted = np.array(["Paris", "a dog", "Oslo", "no"] * (N // 4), dtype=object)
    columns: dict[Place, dict[str, np.ndarray]] = {
        (rank, None): {"prediction": np.where(own, wanted, "?")} for rank, own in ((1, hits(0.5)), (2, hits(0.6)))
    }
    one = a_run(tmp_path / "one", columns, wanted, (metric,), [[text] for text in wanted])
    assert shown(choice.choose_rank(one)[0], 1)[f"{metric} x 100"] == "50.0"
    several = a_run(tmp_path / "several", columns, wanted, (metric,), [[text, "?"] for text in wanted])
    with pytest.raises(RequestError, match=r"accept several texts .* use --metric loss"):
        choice.choose_rank(several)
    kept = pd.read_parquet(several / "predictions.parquet")
    kept[metric] = [
        text in (reference, "?") for text, reference in zip(kept["prediction"], kept["reference"], strict=True)
    ]
    kept.to_parquet(several / "predictions.parquet")
    value = json.loads((several / "record.json").read_text())["submodels"][0]["metrics"][metric]
    assert shown(choice.choose_rank(several)[0], 1)[f"{metric} x 100"] == f"{100 * value:.1f}"


def test_a_split_is_chosen_by_its_metrics_name(tmp_path: Path) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8)})
    file, record = run / "predictions.parquet", json.loads((run / "record.json").read_text())
    matched = pd.read_parquet(file).assign(split="validation_matched")
    other = matched.assign(split="validation_mismatched", prediction=matched["reference"])
    pd.concat([matched, other]).to_parquet(file)
    for sub in record["submodels"]:
        sub["metrics"] = {"accuracy_matched": sub["metrics"]["accuracy"], "accuracy_mismatched": 1.0}
    (run / "record.json").write_text(json.dumps(record))
    assert shown(choice.choose_rank(run)[0], 1)["accuracy_matched x 100"] == "70.0"
    assert shown(choice.choose_rank(run, "accuracy_mismatched")[0], 1)["accuracy_mismatched x 100"] == "100.0"
    said = "accuracy_matched is of matched alone; the others: --metric accuracy_mismatched."
    assert said in choice.choose_rank(run)[1]
    with pytest.raises(RequestError, match="several splits; say which: accuracy_matched, accuracy_mismatched"):
        choice.choose_rank(run, "accuracy")


# Shipping it


def test_exits_and_pairs_are_shipped_at_their_depth(tmp_path: Path) -> None:
    truth = np.ones(N, dtype=int)
    exits: dict[Place, dict[str, np.ndarray]] = {
        (None, depth): {"prediction": own.astype(int)} for depth, own in ((10, hits(0.7)), (20, hits(0.8)))
    }
    run = a_run(tmp_path / "exits", exits, truth)
    trained(run, {"method": "sorted_ft", "exits": [10, 20], "trained_exits": [10, 20]})
    made, closing = choice.choose_rank(run, margin=30)
    assert closing[0].startswith("Depth 10: the smallest exit") and made[0].frame.index.name == "depth"
    assert closing[-1] == f"    rankbench export {run} --depth 10 --to DIR"
    pairs = {(rank, depth): own for depth, own in ((10, exits[None, 10]), (20, exits[None, 20])) for rank in (1, 4)}
    run = a_run(tmp_path / "with a space", pairs, truth)
    trained(run, NESTED | {"exits": [10, 20], "trained_exits": [10, 20]})
    made, closing = choice.choose_rank(run, margin=1)
    assert closing[0].startswith("Rank 1 at depth 20: the smallest pair within 1") and list(made[0].frame["depth"]) == [
        "10",
        "10",
        "20",
        "20",
    ]
    assert shlex.split(closing[-1])[2:] == [str(run), "--rank", "1", "--depth", "20", "--to", "DIR"]


def test_a_rank_that_was_not_trained_is_not_shipped_as_it_is(tmp_path: Path) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8, but=1), 3: hits(0.8), 4: hits(0.8, but=1)})
    trained(run, NESTED | {"method": "lora", "trained_ranks": [4]})
    *_, why, instead, command = choice.choose_rank(run, margin=2)[1]
    assert why.startswith("Rank 2 was measured and not trained") and "--svd cuts the trained rank" in why
    assert instead == "The smallest within the margin that can be exported, rank 4:"
    assert command == f"    rankbench export {run} --rank 4 --to DIR"


def test_a_run_without_its_adapter_is_answered_and_not_shipped(tmp_path: Path) -> None:
    closing = choice.choose_rank(of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8)}))[1]
    assert "holds no adapter/, so nothing can be exported" in closing[-2]
    assert not [line for line in closing if "rankbench export" in line]


def test_the_command_that_it_prints_ships_the_rank(
    finished: Path, call_main: Callable[..., Answer], tmp_path: Path
) -> None:
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    record = json.loads((run / "record.json").read_text())
    record["submodels"] = [{k: v for k, v in sub.items() if k != "one_class"} for sub in record["submodels"]]
    (run / "record.json").write_text(json.dumps(record))
    answer = call_main("table", "choose_rank", str(run), "--metric", "f1", "--margin", "99")
    assert (answer.rc, answer.err) == (0, "")
    assert "| rank | f1 x 100 |" in answer.out and "Rank 1: the smallest" in answer.out
    program, *words = shlex.split(answer.out.splitlines()[-1])
    assert program == "rankbench"
    shipped = call_main(*(str(tmp_path / "shipped") if word == "DIR" else word for word in words))
    assert shipped.rc == 0
    assert json.loads((tmp_path / "shipped" / "adapter_config.json").read_text())["r"] == 1


@pytest.mark.parametrize("form", ["md", "csv", "latex"])
def test_what_is_said_beside_the_table_is_a_comment_in_every_form(
    form: str, tmp_path: Path, call_main: Callable[..., Answer]
) -> None:
    run, file = of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8)}), tmp_path / "answer"
    assert call_main("table", "choose_rank", str(run), "--format", form, "--to", str(file)).rc == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    mark = {"md": "", "csv": "# ", "latex": "% "}[form]
    assert any(line.startswith(f"{mark}Rank 2: better") for line in lines)
    assert all(line.startswith(mark) for line in lines[-6:]) and max(map(len, lines)) < 110


def test_a_terminal_of_80_columns_shows_it_all(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8)})
    shown_there = call_main("table", "choose_rank", str(run)).out.splitlines()
    assert max(len(line) for line in shown_there if line.startswith("|")) <= 80
    assert call_main("table", "choose_rank", str(run), "--to", str(tmp_path / "answer.md")).rc == 0
    in_file = [line for line in (tmp_path / "answer.md").read_text().splitlines() if line.startswith("|")]
    heads = [line for line in shown_there if line.startswith("| rank |")]
    columns = [cell.strip() for line in heads for cell in line.strip("|").split("|")]
    assert len(heads) == 2 and [cell for cell in columns if cell != "rank"] == list(
        choice.choose_rank(run)[0][0].frame.columns
    )
    assert len(in_file) == 4 and all(column in in_file[0] for column in columns)


def test_python_has_what_the_command_prints(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    run = of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8, but=1), 4: hits(0.8)})
    made = rankbench.choose_rank(run, margin=2)
    assert repr(made) == call_main("table", "choose_rank", str(run), "--margin", "2").out
    assert made.closing[0].startswith("Rank 2:") and "<p>Rank 2: the smallest" in made._repr_html_()
    assert repr(rankbench.table("choose_rank", [run, run], margin=2)) == repr(made), "a run given twice is one run"


@pytest.mark.parametrize("task", ["mrpc", "cola"])
def test_runs_on_real_data_give_the_recorded_metrics(task: str) -> None:
    """Their predictions are held to the record before anything is said of them."""
    for run in sorted((REPOSITORY / "benchmarks" / "results" / task).glob("*-dylora-*"))[:2]:
        made, _ = choice.choose_rank(run)
        record = json.loads((run / "record.json").read_text())
        values = [100 * next(iter(sub["metrics"].values())) for sub in record["submodels"]]
        assert made[0].frame.iloc[:, 0].tolist() == [f"{value:.1f}" for value in values]


# What is refused


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8)})


def spoil(run: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(run / "predictions.parquet")).to_parquet(run / "predictions.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.iloc[1:], "is not of this run, or damaged"),
        (lambda frame: frame.iloc[:0], "is not of this run, or damaged"),
        (lambda frame: frame[frame["rank"] == 1], "is not of this run, or damaged"),
        (lambda frame: frame.assign(rank=frame["rank"] + 1), "other sub-models than the record"),
        (lambda frame: frame.assign(index=frame["index"] + frame["rank"]), "differ in index"),
        (lambda frame: frame.drop(columns="prediction"), "is not of this run, or damaged"),
        (lambda frame: frame.assign(prediction=1 - frame["prediction"]), "does not give the accuracy of the record"),
    ],
)
def test_predictions_of_something_else_are_refused(
    run: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    spoil(run, change)
    with pytest.raises(RequestError, match=message) as refused:
        choice.choose_rank(run)
    assert "run it again with fresh=true" in str(refused.value)


def test_a_run_without_its_predictions_is_refused_with_the_mend(run: Path, call_main: Callable[..., Answer]) -> None:
    (run / "predictions.parquet").unlink()
    answer = call_main("table", "choose_rank", str(run))
    assert answer.rc == 2 and len(answer.said) == 1
    assert "lacks predictions.parquet" in answer.err and "fresh=true" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--metric", "bleu"], "--metric bleu: this run has accuracy"),
        (["{run}", "--margin", "0"], "give one above 0"),
        (["{runs}/none"], "does not exist"),
    ],
)
def test_a_wrong_request_is_answered_in_one_line(
    run: Path, call_main: Callable[..., Answer], words: list[str], message: str
) -> None:
    answer = call_main("table", "choose_rank", *(word.format(run=run, runs=run.parent) for word in words))
    assert (answer.rc, answer.out, len(answer.said)) == (2, "", 1)
    assert message in answer.err


ALONE = {"rank": 1, "depth": None, "metrics": {"accuracy": 1.0}, "n": N, "eval_seconds": 1.0} | {
    "parameters": {"trainable": 1, "total": 2}
}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"status": "failed"}, "is not done"),
        ({"schema": 99}, "newer rankbench"),
        ({"submodels": [ALONE]}, "one sub-model"),
    ],
)
def test_a_run_without_a_choice_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        choice.choose_rank(of_ranks(tmp_path / "run", {1: hits(0.7), 2: hits(0.8)}, **more))


# Metrics that say nothing


def of_scores(folder: Path, said: dict[int, np.ndarray], truth: np.ndarray, *names: str) -> Path:
    return a_run(folder, {(rank, None): {"prediction": own} for rank, own in said.items()}, truth, names)


SPREAD = np.linspace(0, 1, N)
FLAT = np.full(N, 2.5)


@pytest.mark.parametrize(
    ("metric", "truth", "said"),
    [
        ("pearson", FLAT, {1: SPREAD, 2: SPREAD**2}),
        ("spearman", FLAT, {1: SPREAD, 2: SPREAD**2}),
        ("matthews_correlation", np.ones(N, int), {1: np.arange(N) % 2, 2: np.arange(N) // 7 % 2}),
        ("r2", FLAT, {1: SPREAD, 2: SPREAD**2}),
        *(
            (one, np.zeros(N, int), {1: np.arange(N) % 2, 2: np.arange(N) // 7 % 2})
            for one in ("f1", "precision", "recall")
        ),
    ],
)
def test_no_rank_is_named_by_a_metric_that_is_undefined(
    metric: str, truth: np.ndarray, said: dict[int, np.ndarray], tmp_path: Path
) -> None:
    made, closing = choice.choose_rank(of_scores(tmp_path / "run", said, truth, metric))
    assert closing[0].startswith(f"No rank is named: {metric} is undefined, since ")
    assert closing[1:] == ["So there is nothing here to ship."]
    assert [shown(made, rank)["within 0.5"] for rank in said] == ["?", "?"]


CHANCES = np.array([SPREAD, 1 - SPREAD]).T


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_no_rank_is_named_by_an_area_over_one_class(metric: str, tmp_path: Path) -> None:
    columns: dict[Place, dict[str, np.ndarray]] = {(1, None): {"scores": CHANCES}, (2, None): {"scores": 1 - CHANCES}}
    closing = choice.choose_rank(a_run(tmp_path / "run", columns, np.ones(N, int), (metric,)))[1]
    assert closing[0] == f"No rank is named: {metric} is undefined, since every label is the same."


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "log_loss", "ece"])
def test_a_rank_is_named_by_its_probabilities(metric: str, tmp_path: Path) -> None:
    """Rank 2 says one class of every example, and ranks them rightly all the same; rank 1 and 4 are sure of nothing."""
    truth = (SPREAD > 0.9).astype(int)
    sure = np.where(truth, 0.4, 0.05 * SPREAD)
    columns: dict[Place, dict[str, np.ndarray]] = {
        (rank, None): {"prediction": np.zeros(N, int), "scores": np.array([1 - own, own]).T}
        for rank, own in ((1, np.full(N, 0.49)), (2, sure), (4, np.full(N, 0.48)))
    }
    run = a_run(tmp_path / "run", columns, truth, (metric,))
    record = json.loads((run / "record.json").read_text())
    for sub in record["submodels"]:
        sub["one_class"] = "ham"
    (run / "record.json").write_text(json.dumps(record))
    closing = choice.choose_rank(run, margin=0.1)[1]
    assert closing[0].startswith("Rank 2: better than every other rank"), closing[0]
    assert "Every sub-model answers ham for every example." in closing


@pytest.mark.parametrize("metric", ["mse", "mae", "r2"])
def test_a_rank_is_named_by_its_errors(metric: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=N)
    made = of_scores(
        tmp_path / "run", {1: SPREAD + noise, 2: SPREAD + noise / 50, 4: SPREAD + noise / 2}, SPREAD, metric
    )
    assert choice.choose_rank(made, margin=0.01)[1][0].startswith("Rank 2: better than every other rank")


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_rank_that_answers_one_value_is_not_named(metric: str, tmp_path: Path) -> None:
    truth = SPREAD**2
    closing = choice.choose_rank(of_scores(tmp_path / "flat", {1: FLAT, 2: FLAT + 1}, truth, metric))[1]
    assert closing[0] == "No rank is named: every rank answers one value for every example."
    assert closing[-1] == "So there is nothing here to ship."
    some = of_scores(tmp_path / "some", {1: FLAT, 2: SPREAD}, truth, metric)
    assert choice.choose_rank(some, margin=150)[1][0].startswith("Rank 2: ")


def test_accuracy_over_one_class_is_what_it_says(tmp_path: Path) -> None:
    run = of_scores(tmp_path / "run", {1: np.arange(N) % 2, 2: np.ones(N, int)}, np.ones(N, int), "accuracy")
    assert choice.choose_rank(run)[1][0].startswith("Rank 2: better than every other rank")


# Many runs


def of_method(
    folder: Path, seed: int, right: dict[Place, np.ndarray], *words: str, cuts: dict[int, np.ndarray] | None = None
) -> Path:
    """A run of a method over the same examples; `cuts` are by rank what the SVD's are right on."""
    truth = np.arange(N) // 3 % 2
    columns = {place: {"prediction": np.where(own, truth, 1 - truth)} for place, own in right.items()}
    config = settings(compose_run("task=classification", "model=tiny_llama", f"seed={seed}", *words))
    run = a_run(folder / f"{words[0]}-{len(list(folder.glob('*')))}-{seed}", columns, truth, config=config)
    if cuts:
        frame = pd.read_parquet(run / "predictions.parquet").assign(cut=None)
        own = [frame[frame["rank"] == 4].sort_values("index") for _ in cuts]
        said = [np.where(hit, truth, 1 - truth) for hit in cuts.values()]
        more = [o.assign(cut="svd", rank=b, prediction=p) for o, b, p in zip(own, cuts, said, strict=True)]
        pd.concat([frame, *more]).to_parquet(run / "predictions.parquet")
        record = json.loads((run / "record.json").read_text())
        (whole,) = [sub for sub in record["submodels"] if sub["rank"] == 4]
        record["cuts"] = [
            whole
            | {"cut": "svd", "rank": b, "metrics": {"accuracy": float(hit.mean())}}
            | {"parameters": whole["parameters"] | {"trainable": 1000 * b}}
            for b, hit in cuts.items()
        ]
        (run / "record.json").write_text(json.dumps(record))
    trained(run, {"method": "lora", "r": 4, "scale": "alpha_over_r", "trained_ranks": [rank for rank, _ in right]})
    return run


def a_search(folder: Path, seed: int = 0) -> None:
    """Ranks 1 and 4 each by its own LoRA, the latter cut down too, and a DyLoRA of ranks 1 to 4."""
    of_method(folder, seed, {(1, None): hits(0.72)}, "adapter=lora", "adapter.r=1", "evaluate.submodels=[1]")
    lora = "adapter=lora", "adapter.r=4", "evaluate.submodels=[4]", "evaluate.cuts=[svd]"
    of_method(folder, seed, {(4, None): hits(0.8)}, *lora, cuts={2: hits(0.8, but=1), 4: hits(0.8)})
    nested = {(rank, None): hits(share) for rank, share in ((1, 0.6), (2, 0.65), (4, 0.7))}
    of_method(folder, seed, nested, "adapter=dylora", "adapter.r=4")


def test_everything_that_was_run_is_one_choice(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    a_search(tmp_path)
    (block,), lines = choice.choose_rank(tmp_path, margin=2)
    search, cut = "LoRA, one training a rank", "LoRA, one training a rank svd"
    places = [f"{search}, rank 1", "dylora, rank 1", f"{cut}, rank 2", "dylora, rank 2"]
    places += [f"{search}, rank 4", "dylora, rank 4"]
    assert list(block.frame.index) == places, "by size; rank 4 cut to 4 is rank 4"
    assert lines[0].startswith(f"{cut}, rank 2: the smallest candidate within 2 of the best")
    command = shlex.split(lines[-1])
    assert command[-5:] == ["--rank", "2", "--svd", "--to", "DIR"] and "adapter=lora-1-0" in command[2]
    answer = call_main("table", "choose_rank", str(tmp_path), "--margin", "2")
    assert (answer.rc, answer.err) == (0, "") and lines[-1] in answer.out


def test_a_margin_that_the_examples_tell_is_named_and_nothing_else_exported(tmp_path: Path) -> None:
    a_search(tmp_path)
    lines = choice.choose_rank(tmp_path, margin=0.1)[1]
    assert "do not tell" in lines[0] and not [line for line in lines if "rankbench export" in line]
    words = shlex.split(lines[-1])
    asked = float(words[words.index("--margin") + 1])
    named = lines[0].partition("it would be ")[2].rstrip(".")
    assert choice.choose_rank(tmp_path, margin=asked)[1][0].startswith(named)
    assert "do not tell" in choice.choose_rank(tmp_path, margin=asked - 0.1)[1][0]


def test_seeds_that_differ_widen_the_intervals(tmp_path: Path) -> None:
    def spread(folder: Path, shares: list[tuple[float, float]]) -> tuple[pd.Series, list[str], str]:
        for seed, (one, other) in enumerate(shares):
            right = {(1, None): hits(one), (4, None): hits(other)}
            of_method(folder, seed, right, "adapter=dylora", "adapter.r=4", "evaluate.submodels=[1,4]")
        (block,), lines = choice.choose_rank(folder, margin=1.5)
        return block.frame.iloc[0], lines, block.caption

    alike, _, caption = spread(tmp_path / "alike", [(0.75, 0.8)] * 3)
    assert "400 examples, the mean of 3 seeds" in caption and "resamples of examples and seeds" in caption
    apart, lines, _ = spread(tmp_path / "apart", [(0.72, 0.83), (0.78, 0.77), (0.75, 0.80)])
    assert alike["minus best"] == apart["minus best"] == "-5.0"
    assert alike["within 1.5"] == "no" and apart["within 1.5"] == "?", "two points over seeds are not sure over seeds"
    assert "the more seeds the better" in lines[0]
    words = choice.choose_rank(tmp_path / "apart", margin=90)[1]
    assert words[-2] == "Of its 3 seeds the one that scores best:" and "adapter=dylora-1-1" in words[-1]


def test_a_shallow_exit_is_smaller_than_any_rank_of_the_whole(tmp_path: Path) -> None:
    of_method(tmp_path, 0, {(1, None): hits(0.8)}, "adapter=lora", "adapter.r=1", "evaluate.submodels=[1]")
    of_method(tmp_path, 0, {(None, 2): hits(0.8), (None, 4): hits(0.8)}, "adapter=sorted_ft", "adapter.exits=[2,4]")
    (block,), lines = choice.choose_rank(tmp_path, margin=5)
    assert lines[0].startswith("sorted_ft, depth 2: the smallest candidate within 5")
    assert list(block.frame.index) == ["sorted_ft, depth 2", "sorted_ft, depth 4", "lora, rank 1"]


def change_record(run: Path, change: dict[str, Any]) -> None:
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps(record | change))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("task", "several tasks"),
        ("rows", "were scored on other examples"),
        ("names", "were scored on other examples"),
        ("digest", "were scored on other examples"),
        ("twice", "are of one method and one seed"),
    ],
)
def test_runs_that_cannot_be_held_against_each_other_are_refused(tmp_path: Path, spoil: str, message: str) -> None:
    run = of_method(tmp_path, 0, {(1, None): hits(0.7), (4, None): hits(0.8)}, "adapter=dylora", "adapter.r=4")
    other = of_method(
        tmp_path, 0, {(1, None): hits(0.7), (4, None): hits(0.8)}, "adapter=dylora", "adapter.r=4", "train.epochs=2"
    )
    choice.choose_rank(tmp_path)
    record = json.loads((other / "record.json").read_text())
    if spoil == "task":
        change_record(other, {"config": record["config"] | {"task": record["config"]["task"] | {"name": "another"}}})
    elif spoil == "rows":
        frame = pd.read_parquet(other / "predictions.parquet")
        frame.assign(index=frame["index"] + 1).to_parquet(other / "predictions.parquet")
    elif spoil == "names":
        change_record(other, {"data": {"label_names": ["no", "yes"]}})
    elif spoil == "digest":
        for place, digest in ((run, "a"), (other, "b")):
            change_record(place, {"data": {"splits": {"validation": {"sha256": digest, "file": "x", "rows": N}}}})
    else:
        change_record(other, {"config": json.loads((run / "record.json").read_text())["config"]})
    with pytest.raises(RequestError, match=message):
        choice.choose_rank(tmp_path)


def test_unfinished_runs_and_other_metrics_are_left_out_and_told(tmp_path: Path) -> None:
    a_search(tmp_path)
    *_, last = sorted(tmp_path.glob("adapter=lora*"))
    change_record(last, {"status": "failed"})
    lines = choice.choose_rank(tmp_path, margin=90)[1]
    assert any(line.startswith("Left out: 1 of 3 runs, not done") for line in lines)


@pytest.mark.parametrize("metric", ["rouge_l_e2e", "bleu_e2e"])
def test_ranks_are_compared_without_the_texts_where_sums_are_kept(metric: str, tmp_path: Path) -> None:
    accepted = [[f"the {i} place serves food by the river"] for i in range(N)]
    made = [[f"the {i} place serves food", f"the {i} place is cheap by the sea"] for i in range(N)]
    said = np.array([[texts[i % 2] for i, texts in enumerate(made)], [f"the {i} place serves" for i in range(N)]])
    kept = text.columns([metric], said, accepted)
    columns = {
        (rank, None): {"prediction": said[i]} | {name: values[i] for name, values in kept.items()}
        for i, rank in enumerate((1, 2))
    }
    whole = a_run(tmp_path / "whole", columns, np.array([one for (one,) in accepted]), (metric,), accepted)
    bare = Path(shutil.copytree(whole, tmp_path / "bare"))
    frame = pd.read_parquet(bare / "predictions.parquet").drop(columns=["prediction", "reference"])
    frame.to_parquet(bare / "predictions.parquet", index=False)
    tables = [rankbench.table("choose_rank", run).ours[0].frame for run in (whole, bare)]
    pd.testing.assert_frame_equal(*tables)
