"""Text of any origin reads back as itself: in Markdown, in LaTeX and in a picture."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest
from matplotlib import rc_context

from rankbench.system import markup
from rankbench.tables import layout, plots
from rankbench.tables.layout import Block

TEXTS = [
    "Ba$$in",
    "$5 or $6",
    "{x",
    "}{",
    "a|b",
    r"a\|b",
    "a\nb",
    "a\r\nb\u2028c",
    "50% & #1_2",
    r"back\slash",
    r"ends in \ ".strip(),
    r"\$x\$",
    "~x~ ~~y~~ x^2",
    "<b>bold</b> <!-- gone --> <https://x.y>",
    "a < b > c",
    "&amp; &#36; R&D",
    "*a* **b** a*b*c",
    "_a_ __b__ c_d_e",
    "`tick` ``two``",
    "[a](b) [c][d] ![e](f)",
    "a--b---c",
    "1.0 ± 2.0",
    "[option]",
    "*star",
    "_hidden",
    "ö 模型",
]


def as_read(text: str) -> str:
    """A text on one line, spaces told from nothing else."""
    return " ".join(text.split())


def markdown_read(text: str) -> list[str]:
    """The text of every paragraph and cell, as a reader of GitHub's Markdown sees it; any mark counts as a fault."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable(["table"])
    reader.enable("strikethrough")
    found = []
    for token in reader.parse(text):
        if token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "softbreak"}, (text, token.children)
            parts = [" " if child.type == "softbreak" else child.content for child in token.children]
            found.append(as_read("".join(parts)))
    return found


LATEX_READ = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textbar{}": "|",
    "$<$": "<",
    "$>$": ">",
    r"$\pm$": "±",
    "-{}-": "--",
    "{}": "",
} | {f"\\{mark}": mark for mark in "_%&#${}"}


def latex_read(text: str) -> str:
    """What LaTeX prints for a text of the commands above and letters; a special character alone counts as a fault."""
    found = ""
    while text:
        command = next((word for word in LATEX_READ if text.startswith(word)), None)
        if command == "-{}-":
            found, text = found + "-", text[3:]
            continue
        assert command or text[0] not in r"\~^|<>±_%&#${}", text
        assert not text.startswith("--"), text
        found, text = found + (LATEX_READ[command] if command else text[0]), text[len(command or "x") :]
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_a_sentence_and_a_cell_of_markdown_read_as_the_text(text: str) -> None:
    table = pd.DataFrame({text: [text]}, index=pd.Index([text], name="rank"))
    shown = layout.render([Block(f"Of {text}, that is.", table)], "md")
    assert markdown_read(shown) == [as_read(f"Of {text}, that is."), "rank", *[as_read(text)] * 3]
    assert markdown_read(layout.remarks([f"See {text}."], "md")) == [as_read(f"See {text}.")]


def test_names_as_people_give_them_stay_as_they_are_in_markdown() -> None:
    for text in ("dylora frozen_grad", "Llama-3.1-8B_v2", "learning_rate=0.001", "< 0.001", 'modules=["q", "v"]'):
        assert markup.markdown(text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_cell_of_latex_prints_the_text(text: str) -> None:
    table = pd.DataFrame({text: [text]}, index=pd.Index([text], name="rank"))
    lines = layout.render([Block(f"Of {text}.", table)], "latex").splitlines()
    assert all(line.startswith("%") for line in lines[: lines.index(r"\begin{tabular}{lr}")])
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r"\\")]
    assert [[latex_read(cell) for cell in row] for row in rows] == [
        ["rank", as_read(text)],
        [as_read(text), as_read(text)],
    ]
    assert not re.match(r"[\[*]", lines[-3]), "after a line's end these would be read as its option"


@pytest.mark.parametrize("text", TEXTS)
def test_csv_reads_back_as_the_text(text: str) -> None:
    table = pd.DataFrame({"a": [text, "next"]}, index=pd.Index([text, "next"], name="rank"))
    shown = layout.as_text(table, "csv")
    back = pd.read_csv(io.StringIO(shown, newline=""), keep_default_na=False)
    assert back.to_numpy().tolist() == [[text, text], ["next", "next"]]


@pytest.mark.parametrize("text", ["Ba$$in", "$5 or $6", r"\$x_{\$", "a\nb", "_hidden"])
@pytest.mark.parametrize("kind", ["curve", "pareto", "heat_map"])
def test_a_picture_shows_the_text_in_its_title_and_in_its_legend(text: str, kind: str) -> None:
    table = pd.DataFrame({"label": text, "rank": [1, 2], "depth": [1, 1], "mean": [0.1, 0.2], "std": 0.0, "n": 1})
    table["parameters"] = [10, 20]
    drawn = getattr(plots, kind)(table, "accuracy", f"Of {text}")
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        plots.write(drawn, out, "svg")
    svg = ElementTree.fromstring(out.getvalue())
    said = [as_read("".join(node.itertext())) for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert as_read(f"Of {text}") in said
    assert kind == "heat_map" or as_read(text) in said
    plots.write(drawn, io.BytesIO(), "png")
