"""Text of any origin as Markdown, LaTeX or matplotlib shows it literally: nothing in it is read as a mark."""

from __future__ import annotations

import re

_LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    | {"<": "$<$", ">": "$>$", "±": r"$\pm$"}
)
_READ = re.compile(
    r"[|`*$~]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # between letters it is one
    r"|<(?=[A-Za-z/!?])"  # a tag
    r"|&(?=#?\w+;)"  # an entity
    r"|\](?=[(\[])"  # a link
)


def on_one_line(text: str) -> str:
    """The text with a space for each line break."""
    return " ".join(text.splitlines())


def markdown(text: str) -> str:
    """As Markdown, in a sentence or in a table's cell."""
    kept = re.sub(r"\\(?=[!-/:-@\[-`{-~]|$)", r"\\\\", on_one_line(text))
    return _READ.sub(r"\\\g<0>", kept)


def code(text: str) -> str:
    """As a span of code in Markdown, in backticks enough."""
    line = on_one_line(text)
    marks = "`" * (_longest(line) + 1)
    apart = " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{marks}{apart}{line}{apart}{marks}"


def block(text: str, language: str = "") -> str:
    """As a block of code in Markdown, between fences that are longer than any in it."""
    marks = "`" * max(3, _longest(text) + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def _longest(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def latex(text: str) -> str:
    """As LaTeX, in a sentence or in a table's cell."""
    made = on_one_line(text).translate(_LATEX).replace("--", "-{}-").replace("--", "-{}-")
    return "{}" + made if made[:1] in ("[", "*") else made  # after \\ these are an option of it


def picture(text: str) -> str:
    """As matplotlib draws it: no mathematics, and no name that a legend hides."""
    line = on_one_line(text).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line
