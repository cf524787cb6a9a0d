"""Table nlg: every metric at each rank of each method, a block a task, what papers printed apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_comparisons_ranks import cuts
from test_curve import a_record

from rankbench.tables import comparisons, report
from rankbench.tables.comparisons import ranks


def subs(*chosen: int, shift: float = 0.0, test: float | None = None, groups: bool = False) -> list[dict[str, Any]]:
    found = []
    for rank in chosen:
        metrics = {"bleu_sacre": 0.1 * rank + shift, "loss": 3 - 0.5 * rank}
        metrics |= {f"bleu_sacre_{group}": 0.05 * rank for group in (("seen", "unseen") if groups else ())}
        row = {"rank": rank, "depth": None, "metrics": metrics, "n": 9, "eval_seconds": 1.0}
        row["parameters"] = {"adapter": rank, "head": 0, "trainable": 98_304 * rank, "total": 10**6}
        found.append(row | ({} if test is None else {"test": {"bleu_sacre": test * rank}, "test_n": 9}))
    return found


DATA = "task.data_dir=e2e"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        at = ("task=e2e", DATA, "model=tiny_gpt2", f"seed={seed}")
        for rank in (1, 2):
            own = ("adapter=lora", f"adapter.r={rank}", f"evaluate.submodels=[{rank}]")
            a_record(tmp_path, *at, *own, submodels=subs(rank, shift=seed / 100))
        a_record(tmp_path, *at, "adapter=dylora", submodels=subs(1, 2, 3, 4))
        a_record(tmp_path, *at, "adapter=lora", submodels=subs(1, 2, 4), cuts=_cuts())
    return tmp_path


def _cuts() -> list[dict[str, Any]]:
    return [row | {"metrics": {"bleu_sacre": 0.3, "loss": 2.0}} for row in cuts(svd={1: 0.3, 2: 0.3})]


def test_a_row_is_a_method_and_rank_and_a_column_a_metric(runs: Path) -> None:
    ours, *theirs = comparisons.COMPARISONS["nlg"](runs, None)
    assert ours.caption == "e2e, tiny_gpt2: bleu_sacre x 100, loss, mean ± standard deviation over seeds."
    assert list(ours.frame.columns) == ["trained, millions", "bleu sacre", "loss"]
    assert ours.frame.loc[f"{ranks.SEARCH}, rank 2"].tolist() == ["0.20", "20.5 ± 0.7", "2.000 ± 0.000"]
    assert ours.frame.loc["dylora, rank 4"].tolist() == ["0.39", "40.0 ± 0.0", "1.000 ± 0.000"]
    assert ours.frame.loc["lora svd, rank 1", "bleu sacre"] == "30.0 ± 0.0"
    assert f"{ranks.SEARCH}, rank 4" in ours.frame.index, "the largest LoRA is the search's own last point"
    assert [block.caption.split(": ")[0] for block in theirs] == ["Published, not ours"] * 3
    assert theirs[0].frame.loc["LoRA of rank 4 cut, rank 3", "E2E BLEU"] == "63.68"
    assert theirs[1].frame.loc["LoRA of rank 4 cut, rank 1", "WebNLG TER"] == "1.18"
    assert theirs[2].frame.loc["LoRA, rank 4", "WebNLG seen"] == "62.1 ± 0.2"


def test_one_metric_may_be_asked_for(runs: Path) -> None:
    made = report.table("nlg", runs, "loss")
    assert list(made.ours[0].frame.columns) == ["trained, millions", "loss"] and len(made.published) == 3
    assert "dylora, rank 1 |" in made.text("md") and made.pictures()


def test_groups_follow_the_whole_and_test_splits_stand_apart(tmp_path: Path) -> None:
    at = ("task=webnlg", DATA, "model=tiny_gpt2", "task.test_splits=[test]")
    a_record(tmp_path, *at, submodels=subs(1, 2, test=0.2, groups=True))
    a_record(tmp_path, "task=dart", DATA, "model=tiny_gpt2", submodels=subs(1, 2))
    dart, webnlg, tested, *_ = comparisons.COMPARISONS["nlg"](tmp_path, None)
    assert dart.caption.startswith("dart, tiny_gpt2: bleu_sacre x 100, loss, one seed")
    assert list(webnlg.frame.columns)[1:] == ["bleu sacre", "loss", "bleu sacre seen", "bleu sacre unseen"]
    assert "on the test splits" in tested.caption
    assert tested.frame.loc["dylora, rank 2", "bleu sacre"] == "40.0"


def test_a_qlora_a_rank_stands_beside_one_qdylora(tmp_path: Path) -> None:
    nf4 = ("task=triviaqa", "task.data_dir=qa", "model=tiny_llama", "quantization=nf4")
    for rank in (1, 2):
        own = ("adapter=lora", f"adapter.r={rank}", f"evaluate.submodels=[{rank}]")
        a_record(tmp_path, *nf4, *own, submodels=subs(rank))
    a_record(tmp_path, "adapter=qdylora", *nf4[:3], "adapter.r=4", submodels=subs(1, 2))
    made = report.table("qdylora_vs_qlora", tmp_path, "loss")
    assert list(made.ours[0].frame.columns) == [ranks.SEARCH, "qdylora"]
    assert made.published[0].frame.loc["QDyLoRA", "GSM8K"] == "8" and len(made.published) == 1
