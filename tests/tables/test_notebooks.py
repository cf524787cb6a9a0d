"""The notebooks: they run top to bottom on the committed records, and show what these records say now."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from conftest import REPOSITORY
from test_comparisons_ranks import cuts, search, trained  # noqa: F401 (a fixture)
from test_curve import a_record

FOLDER = REPOSITORY / "notebooks"
# Notebook -> what it exports, each pattern at least once.
EXPORTED = {
    "lora_search_vs_dylora": ["lora_search_vs_dylora_leaderboard.csv"]
    + [f"lora_search_vs_dylora_*.{ending}" for ending in ("tex", "html")],
    "soft_vs_early_exit": [
        f"soft_vs_early_exit_{task}.{ending}"
        for task in ("alpaca", "sst2", "triviaqa")
        for ending in ("csv", "html", "tex")
    ],
    "text_from_data": [
        f"text_from_data{part}.{ending}" for part in ("", "_choice") for ending in ("csv", "html", "tex")
    ],
    "choose_a_rank": [f"choose_a_rank.{ending}" for ending in ("csv", "html", "tex")],
}
NAMES = sorted(EXPORTED)


def runner() -> ModuleType:
    """notebooks/execute.py, which `make notebooks` runs."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def a_copy(name: str, folder: Path) -> Path:
    """The notebook in a folder of its own, from where the committed records are where they are from the real one."""
    (folder / "notebooks").mkdir()
    (folder / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    return Path(shutil.copy(FOLDER / f"{name}.ipynb", folder / "notebooks"))


def committed(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def outputs(notebook: nbformat.NotebookNode) -> list[dict[str, Any]]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def of_kind(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    return [output["data"][kind] for output in outputs(notebook) if kind in output.get("data", {})]


def tables_in(notebook: nbformat.NotebookNode) -> list[str]:
    """Our own tables, whose text no other package decides."""
    return [text for text in of_kind(notebook, "text/html") if text.startswith("<figure>")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_a_notebook_runs_top_to_bottom_and_shows_what_is_committed(name: str, tmp_path: Path) -> None:
    file = a_copy(name, tmp_path)
    ran = runner().execute(file)
    assert not [output for output in outputs(ran) if output["output_type"] == "error"]
    assert all(list((file.parent / "exports").glob(pattern)) for pattern in EXPORTED[name])
    assert all(file.stat().st_size > 200 for file in (file.parent / "exports").iterdir())
    assert tables_in(ran) and tables_in(ran) == tables_in(committed(name)), "run `make notebooks`"
    assert len(of_kind(ran, "image/png")) == len(of_kind(committed(name), "image/png"))


def test_no_notebook_is_left_out() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_run_in_order_and_tells_nothing_of_a_machine(name: str) -> None:
    notebook = committed(name)
    nbformat.validate(notebook)
    assert notebook.metadata == runner().METADATA
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(cell.metadata for cell in notebook.cells)
    assert not [
        output for output in outputs(notebook) if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    pictures = of_kind(notebook, "image/png")
    assert pictures and max(map(len, pictures)) < 150_000
    for output in outputs(notebook):
        output.get("data", {}).pop("image/png", None)
    text = json.dumps(notebook)
    assert not [path for path in (str(REPOSITORY), sys.prefix, "/tmp/", "/home/", "/root/", "/Users/") if path in text]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_with_its_question_and_the_command_behind_its_records(name: str) -> None:
    first, settings, *_ = cells = committed(name).cells
    assert re.match(r"# .+\?\n", first.source) and "    python -m rankbench " in first.source
    assert settings.source.startswith('RUNS = "../benchmarks/results/') and "EXPORTS = " in settings.source
    for sweep in re.findall(r"\+sweeps=(\w+)", first.source):
        assert (REPOSITORY / "sweeps" / f"{sweep}.yaml").is_file()
    prose = " ".join(
        re.sub(r"`[^`]*`|^ {4}.*$", "", cell.source, flags=re.M) for cell in cells if cell.cell_type == "markdown"
    )
    assert not re.findall(r"\d+\.\d|\d %", prose), "figures stand in outputs, where they cannot grow old"


@pytest.mark.slow
def test_several_tasks_need_no_other_notebook(search: Path, tmp_path: Path) -> None:  # noqa: F811
    """A whole search, with cuts, of two tasks: only RUNS changes."""
    values = dict.fromkeys((1, 2, 4), 0.5)
    for seed in (0, 1):
        at = ("task=mrpc", f"seed={seed}")
        for rank in values:
            a_record(
                search, *at, "adapter=lora", f"adapter.r={rank}", f"evaluate.submodels=[{rank}]", values={rank: 0.6}
            )
        a_record(search, *at, values=values, training=trained(3))
        a_record(search, *at, "adapter=lora", "evaluate.cuts=[svd]", values=values, cuts=cuts(svd=values))
    beside = tmp_path.with_name(f"{tmp_path.name}_beside")  # a copy has a link to other records
    beside.mkdir()
    file = a_copy("lora_search_vs_dylora", beside)
    file.write_text(
        re.sub(r'RUNS = \\".*?\\"', f"RUNS = {json.dumps(str(search))}".replace('"', r"\""), file.read_text())
    )
    ran = runner().execute(file)
    written = {path.name for path in (file.parent / "exports").iterdir()}
    assert written >= {f"lora_search_vs_dylora_{task}.csv" for task in ("sst2", "mrpc")}
    assert len(of_kind(ran, "image/png")) == 4
    assert len([text for text in tables_in(ran) if "Paired by seed (2 seeds)" in text]) == 2
    assert "LoRA, one training a rank" in (file.parent / "exports" / "lora_search_vs_dylora_mrpc.csv").read_text()
