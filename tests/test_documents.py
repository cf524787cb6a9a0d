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


def test_the_door_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_no_page_says_a_thing_twice(page: Path) -> None:
    heads = [line for line in page.read_text().splitlines() if line.startswith("#")]
    assert sorted(set(heads)) == sorted(heads)
