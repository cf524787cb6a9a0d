"""A method of another package, as the documents show it: installed, run, tabulated, exported, and gone again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Answer, tiny_overrides, write_tiny

pytestmark = pytest.mark.full

PAGE = REPOSITORY / "docs" / "extend.md"
SHOWN = re.compile(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", flags=re.M | re.S)
METRIC = """
from rankbench.settings.metrics import Measure

LONGEST = Measure("classification", "rankbench_fa.extra:Longest", of_scores=True)
"""
EXTRA = """
from dataclasses import dataclass
from typing import ClassVar

from rankbench.settings.samplers.base import OverRanks
from rankbench.tasks.metrics.base import Probabilities


@dataclass
class Ends(OverRanks):
    implementation: ClassVar[str] = "rankbench_fa.extra:ends"


def ends(sampler, members, u):
    return ((members[0], 0.5), (members[-1], 0.5))


class Longest(Probabilities):
    def _compute(self, predictions, references):
        return {"longest": float(min(len(row) == 2 and 0.99 < sum(row) < 1.01 for row in predictions))}
"""
PROCESS = """
import contextlib, glob, io, json, sys
given, said, begin = json.loads(sys.argv[1]), [], ""
error = io.StringIO()
with contextlib.redirect_stderr(error):
    from rankbench.__main__ import main
    begin = error.getvalue()
for words in given:
    words = [found for word in words for found in (glob.glob(word) or [word])]  # as a shell does
    sys.argv, out, error, rc = ["rankbench", *words], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main()
        except SystemExit as stop:
            rc = stop.code or 0
    said.append((rc, out.getvalue(), begin + error.getvalue()))
print(json.dumps(said))
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
        "from rankbench.tasks.metrics.base import Probabilities\n", ""
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
def done(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A run of the outside method, its rank 2 exported, and what its table says."""
    root = tmp_path_factory.mktemp("runs")
    words = [*tiny_overrides(write_tiny(root / "data"), root / "runs"), "adapter=dylora_fa", "adapter.a_times=2"]
    run = [*words, "sampler=ends", "task.metrics=[accuracy,longest]"]
    export = ["export", root / "runs" / "*dylora_fa*", "--rank", "2", "--to", root / "out"]
    ran, table, exported = called(installed, root, run, ["table", "leaderboard", root / "runs"], export)
    assert ran.rc == table.rc == exported.rc == 0, ran.err + table.err + exported.err
    (record,) = (root / "runs").glob("*dylora_fa*/record.json")
    return record.parent, root / "out", table.out


def called(site: Path | None, folder: Path, *commands: list[Any]) -> list[Answer]:
    """What the command line says to each, one after the other in a process with the package installed or without."""
    path = os.pathsep.join([*([str(site)] if site else []), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, json.dumps(commands, default=str)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return [Answer(*found, 0.0, 0.0) for found in json.loads(done.stdout)]


def test_its_run_measures_every_rank_and_trains_b_alone(done: tuple[Path, Path, str]) -> None:
    record = json.loads((done[0] / "record.json").read_text())
    assert [row["rank"] for row in record["submodels"]] == [1, 2, 3, 4]
    assert record["config"]["adapter"]["a_times"] == 2 and record["config"]["sampler"]["name"] == "ends"
    assert {row["metrics"]["longest"] for row in record["submodels"]} == {1.0}
    assert {entry["submodel"] for entry in record["training"]["loss_curve"]} == {"rank 1 + rank 4"}


def test_it_is_tabulated_and_exported(done: tuple[Path, Path, str]) -> None:
    from rankbench.shipping import adapter_files

    folder, out, table = done
    assert "dylora_fa" in table
    exported, whole = adapter_files.read(out), adapter_files.read(folder / "adapter")
    for name, (a, b) in exported.layers().items():
        assert a.shape[0] == b.shape[1] == 2
        assert (a == whole.layers()[name][0][:2]).all()


def test_its_settings_are_its_own(installed: Path, tmp_path: Path) -> None:
    wrong = ["model=tiny_bert", "adapter=dylora_fa", "adapter.a_times=0"]
    unknown, unusable = called(installed, tmp_path, ["adapter=lora", "adapter.a_times=2"], wrong)
    assert unknown.rc == 2 and "adapter=lora has no setting a_times; adapter=dylora_fa has it" in unknown.err
    assert unusable.rc == 2 and "adapter.a_times=0.0 must be above 0" in unusable.err


def test_where_it_is_not_installed_its_records_are_read_all_the_same(
    done: tuple[Path, Path, str], tmp_path: Path
) -> None:
    folder = done[0]
    *tables, choice, export, run = called(
        None,
        tmp_path,
        ["table", "curve", folder],
        ["table", "leaderboard", folder],
        ["table", "choose_rank", folder],
        ["export", folder, "--to", tmp_path / "out"],
        ["adapter=dylora_fa"],
    )
    assert all(table.rc == 0 and "dylora_fa" in table.out for table in tables)
    assert choice.rc == 0 and "every rank less rank" in choice.out
    assert export.rc == 2 and "adapter=dylora_fa is not installed here" in export.err
    assert run.rc == 2 and "dylora_fa" in run.err


def test_a_package_that_is_broken_is_named_and_left_out(installed: Path, tmp_path: Path) -> None:
    broken = tmp_path / "site"
    shutil.copytree(installed, broken)
    (broken / "rankbench_fa" / "settings.py").write_text("import nothing_of_that_name\n")
    (answer,) = called(broken, tmp_path, ["adapter=dylora_fa"])
    assert answer.rc == 2
    assert "dylora_fa of rankbench-fa is left out: No module named 'nothing_of_that_name'" in answer.err
