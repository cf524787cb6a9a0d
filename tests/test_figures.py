"""The pages' figures: what a table shows is printed by the commands beside it, from the committed records."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache

import pytest
from conftest import REPOSITORY

from rankbench.tables import report

NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?"
TASKS = ("sst2", "mrpc", "cola", "rte", "stsb")
PAGES = ("README.md", "docs/measurements.md", "docs/integer.md")


def sections(page: str) -> Iterator[tuple[str, str]]:
    """Each heading of a page and the text below it."""
    parts = re.split(r"(?m)^##+ (.*)$", (REPOSITORY / page).read_text())
    return zip(parts[1::2], parts[2::2], strict=True)


def commands(section: str) -> list[str]:
    """The `rankbench table` commands over committed records that the section names, one of a task for every task."""
    flat = section.replace("\n", " ")
    named = re.findall(r"(?:`|    )(?:python -m )?(?:rankbench )?table (\w+ benchmarks/results[^`|]*?)(?:`|  )", flat)
    found = []
    for words in named:
        tasks = TASKS if "--task" in words and "--metric" not in words else ("",)
        found += [re.sub(r"--task \w+", f"--task {task}", words) if task else words for task in tasks]
    return list(dict.fromkeys(found))


def shown(section: str) -> list[str]:
    """The figures with a point in the section's tables; those of a paper stand in italics and are left out."""
    cells = [cell.strip() for line in section.splitlines() if line.startswith("|") for cell in line.split("|")]
    own = (cell.strip("*") for cell in cells if not re.fullmatch(r"\*[^*].*\*", cell))
    parts = (part.strip() for cell in own for part in re.split(r"[()]| to ", cell))
    return [part for part in parts if "." in part and re.fullmatch(f"{NUMBER}( ± {NUMBER})?", part)]


@cache
def printed(words: str) -> str:
    """What `rankbench table WORDS` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        report.main(shlex.split(words))
    return out.getvalue()


def stands(figure: str, text: str) -> bool:
    """Whether the figure, or one with more digits that rounds to it, is in the text."""
    if "±" in figure:
        return figure in text
    digits = len(figure.split(".")[1])
    width = 0.5 * 10**-digits + 1e-9
    value = float(figure.replace(",", ""))
    return any(abs(float(found.replace(",", "")) - value) <= width for found in re.findall(rf"{NUMBER}", text))


CASES = [(page, head, text) for page in PAGES for head, text in sections(page) if commands(text)]


@pytest.mark.parametrize(("page", "head", "text"), CASES, ids=[f"{page}: {head}" for page, head, _ in CASES])
def test_a_table_shows_what_its_commands_print(page: str, head: str, text: str) -> None:
    now = "\n".join(printed(words) for words in commands(text))
    figures = shown(text)
    assert figures
    assert [figure for figure in figures if not stands(figure, now)] == []
