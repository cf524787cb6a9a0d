"""Fills settings.md while the site is built: each key from the settings' dataclasses, each choice from conf/."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

log = logging.getLogger("mkdocs.hooks.settings")  # a warning here fails `mkdocs build --strict`
COMMAND = re.compile(r"^ {3,}(.+)$|(?<=: )(python -m .+)$")  # in a comment: indented, or the end of a line
CONF = Path(__file__).resolve().parents[1] / "conf"

Row = tuple[str, str, str, str]  # key, type, default, meaning


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """What mkdocs calls for each page: settings.md grows, the others stay as they are."""
    if page.file.src_uri != "settings.md":
        return markdown
    from rankbench.settings.methods import METHODS
    from rankbench.settings.run import Run
    from rankbench.settings.samplers import SAMPLERS

    several: dict[str, Mapping[str, type]] = {"adapter": METHODS, "sampler": SAMPLERS}
    return "\n".join([markdown, "## Every key", *keys(Run, several), "## Every choice", *choices(CONF)])


def keys(root: type, several: Mapping[str, Mapping[str, type]]) -> Iterator[str]:
    """Tables of the dataclass `root` and the groups in it; of the groups in `several` one class for each choice."""
    types = get_type_hints(root)
    yield from _table("The run", (_row(root, field) for field in fields(root) if not is_dataclass(types[field.name])))
    for group in (field.name for field in fields(root) if is_dataclass(types[field.name])):
        if group not in several:
            yield from _table(f"`{group}`", (_row(types[group], field, group) for field in fields(types[group])))
            continue
        found: dict[Row, list[str]] = {}
        for name, settings in several[group].items():
            for field in fields(settings):
                found.setdefault(_row(settings, field, group), []).append(name)
        rows = ((*row, "all" if len(of) == len(several[group]) else ", ".join(of)) for row, of in found.items())
        yield from _table(f"`{group}`", sorted(rows, key=lambda row: row[4] != "all"), f"for {group}=")


def choices(conf: Path) -> Iterator[str]:
    """A table for each group folder of `conf`: its YAML files and what the comment at their head says."""
    for group in sorted(folder for folder in conf.iterdir() if folder.is_dir()):
        yield from (f"### `{group.name}=`", "", "| choice | is |", "|---|---|")
        for file in sorted(group.glob("*.yaml")):
            text = file.read_text(encoding="utf-8")
            head = re.match(r"(?:# @package.*\n)?((?:#.*\n)*)", text)
            lines = [line[1:].rstrip() for line in head[1].splitlines()] if head else []
            said = " ".join(COMMAND.sub(lambda found: f"`{found[1] or found[2]}`", line).strip() for line in lines)
            hub = re.search(r"^hub: (\S+)", text, re.M)
            yield f"| `{file.stem}` | {_cell(said or (f'`{hub[1]}`' if hub else ''))} |"
        yield ""


def meanings(settings: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, of its own or inherited."""
    found: dict[str, str] = {}
    for owner in (kind for kind in reversed(settings.__mro__) if is_dataclass(kind)):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


def _row(settings: type, field: Field[Any], group: str = "") -> Row:
    key = f"{group}.{field.name}" if group else field.name
    meaning = meanings(settings).get(field.name, "")
    if not meaning:
        log.warning("%s.%s (%s) has no docstring under it", settings.__qualname__, field.name, key)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return f"`{key}`", _cell(_type(get_type_hints(settings)[field.name])), f"`{_plain(default)}`", _cell(meaning)


def _type(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{choice.value}`" for choice in hint)
    name = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", ()) else str(hint)
    return name.replace("typing.", "").replace("NoneType", "None").replace("None", "null").replace("Any", "any")


def _plain(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, Enum):
        return str(value.value)
    if value == "???":
        return "the choice's"
    return value if isinstance(value, str) and value else json.dumps(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(title: str, rows: Any, more: str = "") -> Iterator[str]:
    heads = ["key", "type", "default", "meaning", *([more] if more else [])]
    yield from (f"### {title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
