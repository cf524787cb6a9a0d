"""GSM8K: the final number of an answer, by value; a row without one is refused before training."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from conftest import compose_run, write_jsonl

import rankbench
from rankbench.errors import RequestError
from rankbench.runs.life import execute
from rankbench.tasks import data
from rankbench.tasks.metrics.numbers import final_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("#### $70,000.", "70000"),
        ("#### -3 degrees, 4 less", "-3"),
        ("she has 5 left, so 12 in all", "12"),
        ("12.50", "12.5"),
        ("costs 1,200,000 dollars", "1200000"),
        ("pages 3,4", "4"),
        ("#### 5\n#### 6", "6"),
        (".5", "0.5"),
        ("7.", "7"),
        ("5-3", "3"),
        ("from -5 to -3", "-3"),
        ("no number", None),
        ("3 apples #### none", None),
        ("", None),
    ],
)
def test_the_final_number_is_read_by_value(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


def test_the_share_of_right_numbers() -> None:
    said = ["so 72", "#### 72.0", "71", "none at all", "1,000"]
    held = [["a\n#### 72"], ["#### 72"], ["#### 72"], ["#### 0"], ["#### 1000", "#### 1e"]]
    assert rankbench.score("exact_number", said, held) == pytest.approx(3 / 5)


def test_a_run_scores_numbers_and_ranks_are_held_against_each_other(tmp_path: Path) -> None:
    rows = [{"question": f"{i} and {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(40)]
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows[:4])
    words = ["model=tiny_gpt2", "task=gsm8k", f"task.data_dir={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}"]
    run = compose_run(*words, "task.validation_fraction=0", "adapter.r=2", "train.max_steps=1", "task.max_new_tokens=3")
    assert "exact_number" in execute(run)["submodels"][0]["metrics"]
    assert rankbench.choose_rank(run.folder, "exact_number").metric == "exact_number"
    write_jsonl(tmp_path / "data" / "validation.jsonl", [*rows[:2], {"question": "why?", "answer": "because"}])
    with pytest.raises(RequestError, match=r"validation.jsonl row 2 \(from 0\): no accepted answer has a number"):
        data.load(run.task)
