"""`rankbench table`: text, pages and pictures of a comparison."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_comparisons_ranks import search  # noqa: F401 (a fixture)
from test_curve import a_record

import rankbench
from rankbench.errors import RequestError
from rankbench.tables import comparisons, layout, page, plots, report
from rankbench.tables.comparisons.ranks import SEARCH, pictures
from rankbench.tables.layout import Block

VOID = {"meta", "br", "path", "use"}


class Reader(HTMLParser):
    """Counts elements, and holds that each one that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def read(file: Path) -> tuple[str, Reader]:
    text, reader = file.read_text(), Reader()
    reader.feed(text)
    assert not reader.open
    return text, reader


def test_the_command_knows_every_comparison() -> None:
    assert tuple(comparisons.COMPARISONS) == report.NAMES


def test_a_page_needs_no_other_file_and_keeps_published_figures_apart(search: Path, tmp_path: Path) -> None:  # noqa: F811
    report.main(["lora_search_vs_dylora", str(search), "--to", str(tmp_path / "p.html")])
    text, reader = read(tmp_path / "p.html")
    assert reader.seen["table"] == 5 and reader.seen["svg"] == 2 and reader.seen["section"] == 1
    assert not re.search(r"(src|href)=[\"'](?!#)", text) and "@import" not in text
    ours, theirs = text.split("<section>")
    assert "Published, not ours" not in ours and theirs.count("<table>") == 2
    assert ours.index("62.5 ± 0.7") < ours.index("<svg") < ours.index("AURAC: mean")


@pytest.mark.parametrize("name", ["curve", "leaderboard", "glue"])
def test_every_comparison_has_a_page(name: str, search: Path, tmp_path: Path) -> None:  # noqa: F811
    a_record(search, "task=mrpc", values={1: 0.5})
    report.main([name, str(search), "--format", "html", "--to", str(tmp_path / "p.txt")])
    assert read(tmp_path / "p.txt")[1].seen["table"] >= 1


def test_a_page_shows_text_as_text() -> None:
    frame = layout.frame({"<b>&": ["<i>1</i>"]}, ["a < b"], "x")
    text = page.page("a & b", [Block("c <d>", frame)], [])
    assert "&lt;b&gt;&amp;" in text and "a &lt; b" in text and "<i>" not in text and "<title>a &amp; b" in text


@pytest.mark.parametrize(("ending", "begins"), [("csv", "# sst2"), ("tex", "% sst2"), ("md", "sst2"), ("txt", "sst2")])
def test_the_ending_of_a_file_chooses_the_form(ending: str, begins: str, search: Path, tmp_path: Path) -> None:  # noqa: F811
    report.main(["lora_search_vs_dylora", str(search), "--to", str(tmp_path / f"t.{ending}")])
    assert (tmp_path / f"t.{ending}").read_text().startswith(begins)


def test_the_search_is_drawn_as_points_on_top(search: Path, tmp_path: Path) -> None:  # noqa: F811
    curve, costs = pictures(search)
    axes = curve.axes[0]
    labels = [" ".join(text.get_text().split()) for text in axes.get_legend().get_texts()]
    assert labels == ["dylora (2 seeds)", "lora (2 seeds)", "lora svd (2 seeds)", f"{SEARCH} (2 seeds)"]
    assert len(axes.containers) == 1 and len([line for line in axes.lines if line.get_linestyle() == "-"]) == 3
    assert costs.axes[0].get_xlabel() == "trained parameters"
    report.main(["lora_search_vs_dylora", str(search), "--to", str(tmp_path / "p.png")])
    assert (tmp_path / "p.png").stat().st_size > 20_000


def test_the_front_is_what_no_other_beats() -> None:
    cost, quality = np.array([1, 2, 3, 4.0]), np.array([0.5, 0.4, 0.9, 0.9])
    assert plots.front(cost, quality) == [0, 2]
    assert plots.front(cost, quality, rises=False) == [0, 1]


def test_points_of_one_cost_and_quality_are_both_on_the_front() -> None:
    assert plots.front(np.array([1.0, 1.0]), np.array([0.5, 0.5])) == [0, 1]
    table = pd.DataFrame({"label": ["a", "b"], "rank": [1, 1], "parameters": [1, 1], "mean": [0.5, 0.5]})
    assert plots.pareto(table, "accuracy", "t").axes[0].get_title() == "t"


def test_what_has_no_picture_says_so(tmp_path: Path) -> None:
    a_record(tmp_path, "adapter=full", values={None: 0.5})
    with pytest.raises(RequestError, match="no curve to draw"):
        report.main(["lora_search_vs_dylora", str(tmp_path), "--to", str(tmp_path / "p.png")])
    with pytest.raises(RequestError, match="cannot be written"):
        report.main(["leaderboard", str(tmp_path), "--to", str(tmp_path / "no" / "p.md")])


# From Python


def test_python_has_what_the_command_prints(
    search: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    report.main(["lora_search_vs_dylora", str(search), "--margin", "3"])
    made = rankbench.table("lora_search_vs_dylora", search, margin=3)
    assert repr(made) == capsys.readouterr().out and "within 3" in repr(made)
    assert [len(made.ours), len(made.published), len(made.pictures())] == [3, 2, 2]
    assert made.ours[0].frame.loc["2", "dylora"] == "57.0 ± 0.0"


def test_a_notebook_shows_every_block_under_its_caption(search: Path) -> None:  # noqa: F811
    made, reader = rankbench.table("lora_search_vs_dylora", search), Reader()
    reader.feed(made._repr_html_())
    assert not reader.open and reader.seen["table"] == 5 == reader.seen["figcaption"]
    assert made.ours[0]._repr_html_() in made._repr_html_()
    assert repr(made.ours[0]).startswith("sst2, tiny_bert: accuracy x 100 at each rank")


@pytest.mark.parametrize(
    ("name", "written"),
    [("c.md", "curve as Markdown"), ("c.csv", "curve as CSV"), ("c.html", "a page"), ("c.svg", "the picture of curve")],
)
def test_what_was_written_is_said(name: str, written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_record(tmp_path)
    report.main(["curve", str(tmp_path), "--to", str(tmp_path / name)])
    out, err = capsys.readouterr()
    assert out == "" and err == f"wrote {tmp_path / name}: {'curve as ' if name == 'c.html' else ''}{written}\n"


@pytest.mark.parametrize(
    ("ending", "begins"), [("csv", "# sst2"), ("tex", "% sst2"), ("html", "<!doctype"), ("png", None)]
)
def test_a_table_is_saved_in_the_form_of_its_ending(
    ending: str,
    begins: str | None,
    search: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    file = tmp_path / f"saved.{ending}"
    rankbench.table("lora_search_vs_dylora", search).save(file)
    assert file.read_text().startswith(begins) if begins else file.read_bytes().startswith(b"\x89PNG")


def test_one_task_of_several_is_taken_by_its_name(
    search: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = repr(rankbench.table("lora_search_vs_dylora", search))
    a_record(search, "task=mrpc", values={1: 0.5})
    assert repr(rankbench.table("lora_search_vs_dylora", search, task="sst2")) == alone
    report.main(["curve", str(search), "--task", "mrpc"])
    assert "|    1 |   50.0 |" in capsys.readouterr().out
    with pytest.raises(RequestError, match="none of these runs is of task rte; they are of mrpc, sst2"):
        report.main(["curve", str(search), "--task", "rte"])
    with pytest.raises(RequestError, match="no_such is no table; choose from curve"):
        rankbench.table("no_such", search)


def test_what_is_imported_lazily_is_there() -> None:
    assert all(callable(getattr(rankbench, name)) for name in rankbench.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        rankbench.nothing  # noqa: B018
    said = "import sys, rankbench; rankbench.table; print(sorted({'pandas', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_browser_shows_the_page(search: Path, tmp_path: Path) -> None:  # noqa: F811
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed (Debian: apt-get install chromium)")
    report.main(["lora_search_vs_dylora", str(search), "--to", str(tmp_path / "p.html")])
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--dump-dom", (tmp_path / "p.html").as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("<table>") == 5 and done.stdout.count("<svg") == 2


def test_a_file_is_what_its_ending_says_or_is_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    a_record(runs, "adapter=lora")
    report.main(["curve", str(runs), "--to", str(tmp_path / "c.pdf")])
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")
    for ending in (".jpg", ".docx", ".PNGG"):
        with pytest.raises(RequestError, match=r"is no form of a table or picture; end it in \.md, \.txt"):
            report.main(["curve", str(runs), "--to", str(tmp_path / f"c{ending}")])
    assert not list(tmp_path.glob("c.[jdP]*"))
