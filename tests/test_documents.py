"""The documents: the site builds without a broken link, and says what every setting means."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from rankbench.settings.methods import METHODS
from rankbench.settings.samplers import SAMPLERS

pytestmark = pytest.mark.full


def test_the_site_builds_and_its_reference_has_every_setting(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'rankbench[docs]'")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(REPOSITORY / "mkdocs.yml")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*words, "-d", str(tmp_path)], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (page,) = tmp_path.rglob("settings*html")
    shown = set(re.findall(r"<code>([\w.]+)</code>", html.unescape(page.read_text())))
    for group, kinds in (("adapter", METHODS), ("sampler", SAMPLERS)):
        keys = {f"{group}.{setting.name}" for kind in kinds.values() for setting in fields(kind)}
        assert keys <= shown
    assert {"train.learning_rate", "task.data_dir", "model.path", "evaluate.cuts", "runs_dir", "cluster.gpus"} <= shown


def rows(page: str, head: str) -> list[list[str]]:
    """The cells of the first table below a heading, its head and rule left out."""
    section = re.split(r"(?m)^## ", (REPOSITORY / page).read_text().split(f"\n## {head}\n")[1])[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def sections(page: str) -> dict[str, str]:
    """The text below each heading of a page, by the heading's anchor."""
    parts = re.split(r"(?m)^##+ (.*)$", (REPOSITORY / page).read_text())
    anchors = (re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in parts[1::2])
    return dict(zip(anchors, parts[2::2], strict=True))


def test_the_door_recommends_what_was_measured() -> None:
    """Each row names a method that there is and a table that stands behind it, and the page with the reasons agrees."""
    door = rows("README.md", "Which method to run when")
    page = {want: (run, why) for want, run, why in rows("docs/measurements.md", "Which method to run when")}
    measured = sections("docs/measurements.md")
    assert {want: run for want, run, _ in door} == {
        want: run for want, (run, _) in page.items() if run != "nothing yet"
    }
    for want, run, where in [*door, *([want, *both] for want, both in page.items())]:
        named = re.findall(r"adapter=(\w+)", run)
        swept = re.findall(r"\+sweeps=(\w+)", run)
        assert named or swept or run == "nothing yet", want
        assert set(named) <= set(METHODS) and all((REPOSITORY / "sweeps" / f"{name}.yaml").exists() for name in swept)
        linked = re.findall(r"\]\((?:docs/measurements\.md)?#([\w-]+)\)", where)
        assert linked, f"no table stands behind {want}"
        assert all(re.search(r"(?m)^\|.*\d", measured[anchor]) for anchor in linked)


def test_the_sweep_runs_what_the_door_recommends_first() -> None:
    door = rows("README.md", "Which method to run when")
    sweep = yaml.safe_load((REPOSITORY / "sweeps" / "answer.yaml").read_text())
    first = [re.findall(r"adapter=(\w+)", run)[0] for _, run, _ in door[:2]]
    assert sweep["hydra"]["sweeper"]["params"]["adapter"].split(",") == first
    assert sweep["evaluate"]["cuts"] == ["svd"] and "evaluate.cuts=[svd]" in door[0][1]


def test_the_door_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_no_page_says_a_thing_twice(page: Path) -> None:
    heads = [line for line in page.read_text().splitlines() if line.startswith("#")]
    assert sorted(set(heads)) == sorted(heads)
