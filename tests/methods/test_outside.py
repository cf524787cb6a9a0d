"""A method of another package, as the documents show it: installed, run, tabulated, exported, and gone again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, tiny_overrides, write_tiny

pytestmark = pytest.mark.full

PAGE = REPOSITORY / "docs" / "extend.md"
SHOWN = re.compile(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", flags=re.M | re.S)
METRIC = """
from rankbench.settings.metrics import Measure

LONGEST = Measure("classification", "rankbench_fa.extra:Longest")
"""
EXTRA = """
from dataclasses import dataclass
from typing import ClassVar

from rankbench.settings.samplers.base import OverRanks
from rankbench.tasks.metrics.classification import Accuracy


@dataclass
class Ends(OverRanks):
    implementation: ClassVar[str] = "rankbench_fa.extra:ends"


def ends(sampler, members, u):
    return ((members[0], 0.5), (members[-1], 0.5))


class Longest(Accuracy):
    def _compute(self, predictions, references):
        return {"longest": 1.0}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, and a sampler and a metric beside it, installed into a folder of its own."""
    root = tmp_path_factory.mktemp("outside")
    files = dict(SHOWN.findall(PAGE.read_text()))
    assert sum(len(text.strip().splitlines()) for text in files.values()) <= 60
    points = '\n[project.entry-points."rankbench.samplers"]\nends = "rankbench_fa.sampler:Ends"\n'
    points += '\n[project.entry-points."rankbench.metrics"]\nlongest = "rankbench_fa.metric:LONGEST"\n'
    files["pyproject.toml"] = files["pyproject.toml"].replace("\n[tool.", f"{points}\n[tool.")
    files["rankbench_fa/sampler.py"] = EXTRA.split("\n\n\ndef")[0].replace(
        "from rankbench.tasks.metrics.classification import Accuracy\n", ""
    )
    files["rankbench_fa/metric.py"], files["rankbench_fa/extra.py"] = METRIC, EXTRA
    files["rankbench_fa/conf/sampler/ends.yaml"] = "defaults:\n  - /settings/sampler@_here_: ends\nname: ends\n"
    for name, text in files.items():
        (root / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "source" / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", root / "site", root / "source"], check=True, timeout=120)
    return root / "site"


@pytest.fixture(scope="module")
def done(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the outside method."""
    root = tmp_path_factory.mktemp("runs")
    words = [*tiny_overrides(write_tiny(root / "data"), root / "runs"), "adapter=dylora_fa", "adapter.a_times=2"]
    call(installed, root, *words, "sampler=ends", "task.metrics=[accuracy,longest]")
    (record,) = (root / "runs").glob("*dylora_fa*/record.json")
    return record.parent


def call(site: Path | None, folder: Path, *words: str, rc: int = 0) -> str:
    """What the command line says with the package installed there, or without it."""
    path = os.pathsep.join([*([str(site)] if site else []), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "rankbench", *map(str, words)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == rc, done.stderr
    return done.stdout if rc == 0 else done.stderr


def test_its_run_measures_every_rank_and_trains_b_alone(done: Path) -> None:
    record = json.loads((done / "record.json").read_text())
    assert [row["rank"] for row in record["submodels"]] == [1, 2, 3, 4]
    assert record["config"]["adapter"]["a_times"] == 2 and record["config"]["sampler"]["name"] == "ends"
    assert {row["metrics"]["longest"] for row in record["submodels"]} == {1.0}
    assert {entry["submodel"] for entry in record["training"]["loss_curve"]} == {"rank 1 + rank 4"}


def test_it_is_tabulated_and_exported(installed: Path, done: Path, tmp_path: Path) -> None:
    from rankbench.shipping import adapter_files

    assert "dylora_fa" in call(installed, tmp_path, "table", "leaderboard", str(done))
    call(installed, tmp_path, "export", str(done), "--rank", "2", "--to", str(tmp_path / "out"))
    exported, whole = (adapter_files.read(place) for place in (tmp_path / "out", done / "adapter"))
    for name, (a, b) in exported.layers().items():
        assert a.shape[0] == b.shape[1] == 2
        assert (a == whole.layers()[name][0][:2]).all()


def test_its_settings_are_its_own(installed: Path, tmp_path: Path) -> None:
    said = call(installed, tmp_path, "adapter=lora", "adapter.a_times=2", rc=2)
    assert "adapter=lora has no setting a_times; adapter=dylora_fa has it" in said
    assert "adapter.a_times=0.0 must be above 0" in call(
        installed, tmp_path, "model=tiny_bert", "adapter=dylora_fa", "adapter.a_times=0", rc=2
    )


def test_where_it_is_not_installed_its_records_are_read_all_the_same(done: Path, tmp_path: Path) -> None:
    for table in ("curve", "leaderboard"):
        assert "dylora_fa" in call(None, tmp_path, "table", table, str(done))
    assert "Rank " in call(None, tmp_path, "table", "choose_rank", str(done))
    assert "adapter=dylora_fa is not installed here" in call(
        None, tmp_path, "export", str(done), "--to", str(tmp_path / "out"), rc=2
    )
    assert "dylora_fa" in call(None, tmp_path, "adapter=dylora_fa", rc=2)


def test_a_package_that_is_broken_is_named_and_left_out(installed: Path, tmp_path: Path) -> None:
    broken = tmp_path / "site"
    shutil.copytree(installed, broken)
    (broken / "rankbench_fa" / "settings.py").write_text("import nothing_of_that_name\n")
    said = call(broken, tmp_path, "adapter=dylora_fa", rc=2)
    assert "dylora_fa of rankbench-fa is left out: No module named 'nothing_of_that_name'" in said
