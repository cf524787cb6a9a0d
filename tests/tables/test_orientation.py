"""A comparison of many methods has them as rows where that fits a terminal, and its Python frame stays as it is."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY

import rankbench
from rankbench.tables import curve, layout
from rankbench.tables.layout import Block

LONG = "LoRA, one training a rank, at target_modules=[query, key, value] and learning_rate=0.001"


def a_frame(methods: list[str], ranks: int) -> pd.DataFrame:
    """A cell says which it is: method.rank."""
    rows = {name: [f"{i}.{rank} ± 1.0" for rank in range(ranks)] for i, name in enumerate(methods)}
    return pd.DataFrame(rows, index=pd.Index([2**rank for rank in range(ranks)], name="rank"))


def pieces(text: str) -> list[list[list[str]]]:
    """The tables in a Markdown text: rows of cells, the rule left out."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1] += [] if set(line) <= set("| -:") else [[cell.strip() for cell in line.strip("| ").split(" | ")]]
        elif found[-1]:
            found.append([])
    return [piece for piece in found if piece]


@pytest.mark.parametrize(("methods", "ranks", "turned"), [(3, 4, False), (9, 4, True), (3, 16, False), (6, 1, True)])
def test_methods_are_rows_where_they_are_more_than_fit(methods: int, ranks: int, turned: bool) -> None:
    frame = a_frame([f"a method {i}" for i in range(methods)], ranks)
    text = layout.render([Block("A caption.", frame, across="method")], "md", 80)
    (table,) = pieces(text)
    assert max(map(len, text.splitlines())) <= 80
    assert table[0][0] == ("method" if turned else "rank") and len(table) == 1 + (methods if turned else ranks)
    cells = table[1:]
    assert {cell for row in cells for cell in row[1:]} == set(frame.to_numpy().ravel())
    first = next(row for row in cells if row[0] == ("a method 1" if turned else "1"))
    assert first[1] == ("1.0 ± 1.0" if turned else "0.0 ± 1.0")


def test_what_fits_in_neither_way_goes_on_below_with_nothing_lost() -> None:
    frame = a_frame([f"a method {i}" for i in range(9)], 12)
    found = pieces(layout.as_text(frame, "md", 80, "method"))
    assert len(found) > 1 and {c for piece in found for row in piece[1:] for c in row[1:]} == set(frame.to_numpy().flat)


def test_long_names_leave_room_and_stand_in_full_below() -> None:
    names = [LONG, f"{LONG} too", *(f"m{i}" for i in range(7))]
    text = layout.as_text(a_frame(names, 4), "md", 80, "method")
    (table,) = pieces(text)
    assert [row[0][-3:] for row in table[1:3]] == ["[1]", "[2]"] and table[1][0].startswith("LoRA, one")
    said = " ".join(text.split())
    assert f"[1] {LONG}" in said and f"[2] {LONG} too" in said and max(map(len, text.splitlines())) <= 80


def test_a_page_turns_what_a_terminal_turns_and_a_program_reads_it_as_it_is() -> None:
    frame = a_frame([*(f"a method {i}" for i in range(8)), LONG], 4)
    block = Block("A caption.", frame, across="method")
    shown = layout.figure(block)
    assert '<th scope="col">method</th><th scope="col">rank 1</th>' in shown and f'<th scope="row">{LONG}</th>' in shown
    assert "method & rank 1" in layout.as_text(frame, "latex", None, "method")
    back = pd.read_csv(io.StringIO(layout.as_text(frame, "csv", None, "method")), index_col="rank")
    pd.testing.assert_frame_equal(back, frame)
    assert layout.figure(Block("A caption.", frame)).count('<th scope="row">') == 4, "what may not be turned is not"


@pytest.mark.parametrize("task", ["mrpc", "sst2"])
def test_the_search_of_every_method_fits_a_terminal(task: str) -> None:
    runs: Path = REPOSITORY / "benchmarks" / "results" / "search" / task
    made = rankbench.table("curve", runs)
    text = made.text("md", 80)
    assert len(pieces(text)) == 1 and max(map(len, text.splitlines())) <= 80
    assert made.ours[0].frame.index.name == "rank" and list(made.ours[0].frame) == list(curve.curve(runs))


def test_the_rule_of_a_column_of_one_character_is_one() -> None:
    """Markdown wants a hyphen in it."""
    text = layout.as_text(pd.DataFrame({"1": ["9"], "2": ["0"]}, index=pd.Index(["1"], name="n")), "md")
    assert text.splitlines() == ["|  n |  1 |  2 |", "| -: | -: | -: |", "|  1 |  9 |  0 |"]
