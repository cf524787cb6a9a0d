"""What is installed is pinned; the wheel holds all that a run needs, and works away from the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONF, REPOSITORY, write_tiny
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def pins(python: str) -> dict[str, str]:
    """The version of each package that constraints.txt names for this Python."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    asked = [Requirement(line) for line in lines if line and not line.startswith("#")]
    of_python = {"python_version": python, "python_full_version": f"{python}.9"}
    meant = [one for one in asked if one.marker is None or one.marker.evaluate(of_python)]
    assert all(str(one.specifier).startswith("==") for one in meant)
    found = {canonicalize_name(one.name): str(one.specifier)[2:] for one in meant}
    assert len(found) == len(meant), "two pins for one package"
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_has_one_exact_pin_that_it_admits(python: str) -> None:
    table, pinned = project(), pins(python)
    for text in [
        *table["dependencies"],
        *(text for extra in table["optional-dependencies"].values() for text in extra),
    ]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)], prereleases=True), text


def test_all_places_name_one_version_and_licence() -> None:
    table, cited = project(), yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (table["version"], table["license"])
    assert f"## {table['version']}" in (REPOSITORY / "CHANGELOG.md").read_text()
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip builds it; the build backend comes from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder), str(REPOSITORY)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    if done.returncode and ("No matching distribution" in done.stderr or "onnection" in done.stderr):
        pytest.skip("the build backend cannot be fetched: no package index")
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("rankbench-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    words = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(folder), str(wheel)]
    subprocess.run(words, check=True, timeout=300)
    return folder


def call(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rankbench", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_wheel_holds_every_config_file_module_and_table(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "rankbench/conf/config.yaml" in names
    assert {f"rankbench/conf/{file.relative_to(CONF)}" for file in CONF.rglob("*.yaml")} <= names
    source = REPOSITORY / "src"
    needed = [file for ending in ("*.py", "*.csv", "py.typed") for file in source.rglob(ending)]
    assert {str(file.relative_to(source)) for file in needed} <= names


@pytest.mark.slow
def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        (licence,) = (name for name in content.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert content.read(licence) == (REPOSITORY / "LICENSE").read_bytes()
        (metadata,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        assert "License-Expression: Apache-2.0" in content.read(metadata).decode().splitlines()


@pytest.mark.slow
def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert all(name.startswith("rankbench/") or ".dist-info/" in name for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".jsonl", ".parquet", ".safetensors"))]


@pytest.mark.slow
def test_the_wheel_offers_the_console_script(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        (name,) = (name for name in content.namelist() if name.endswith("entry_points.txt"))
        assert "rankbench = rankbench.__main__:main" in content.read(name).decode()


@pytest.mark.slow
def test_the_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import rankbench.__main__ as m; from rankbench.settings.compose import CONF; print(m.__file__, CONF)"
    words = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(installed)}
    out = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    assert out.split() == [str(installed / "rankbench" / "__main__.py"), str(installed / "rankbench" / "conf")]


@pytest.mark.slow
def test_the_installed_package_composes_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = call(installed, tmp_path, "task=sst2", "adapter=lora", "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "")
    assert "name: sst2" in done.stdout and "scale: alpha_over_r" in done.stdout


@pytest.mark.slow
def test_the_installed_package_refuses_a_choice_with_its_own_choices(installed: Path, tmp_path: Path) -> None:
    done = call(installed, tmp_path, "task=sst3")
    assert done.returncode == 2
    assert "did you mean sst2?" in done.stderr


@pytest.mark.slow
def test_the_installed_package_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path / "data")
    done = call(installed, tmp_path, "model=tiny_bert", "task=classification", "task.data_dir=data", "train=debug")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("classification-tiny_bert-dylora-*/record.json"))) == 1
