"""How many rows a figure of test splits is of."""

from __future__ import annotations

from typing import Any

import pytest

from rankbench.records import tested


def record(splits: dict[str, Any]) -> dict[str, Any]:
    return {"config": {"task": {"test_splits": list(splits)}}, "data": {"splits": splits}}


@pytest.mark.parametrize(
    ("metric", "rows"),
    [
        ("ter_webnlg", 6),
        ("ter_webnlg_seen", 4),
        ("ter_webnlg_unseen", 2),  # which ends as "seen" does
    ],
)
def test_a_group_has_its_own_rows(metric: str, rows: int) -> None:
    assert tested.rows(record({"test": {"rows": 6, "groups": {"seen": 4, "unseen": 2}}}), metric, 6) == rows


@pytest.mark.parametrize(
    ("metric", "rows"),
    [("bleu_webnlg_a", 6), ("bleu_webnlg_b", 9), ("bleu_webnlg_a_seen", 4), ("bleu_webnlg_b_seen", 0)],
)
def test_of_several_splits_each_has_its_own(metric: str, rows: int) -> None:
    splits = {"a": {"rows": 6, "groups": {"seen": 4, "unseen": 2}}, "b": {"rows": 9, "groups": {"unseen": 9}}}
    assert tested.rows(record(splits), metric, 15) == rows
