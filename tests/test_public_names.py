"""What `import rankbench` offers: these names, typed and described, and no others."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Answer

import rankbench
from rankbench.errors import RequestError
from rankbench.shipping import export

NAMES = ["__version__", "choose_rank", "load", "load_runs", "run", "table"]


def test_the_public_names_are_these_and_no_others() -> None:
    assert dir(rankbench) == sorted(rankbench.__all__) == NAMES
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = rankbench.train


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_public_function_says_what_it_does_and_raises_and_has_types(name: str) -> None:
    function = getattr(rankbench, name)
    assert "RequestError" in function.__doc__ or "RequestError" in (inspect.getdoc(function) or "")
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    assert (Path(rankbench.__file__).parent / "py.typed").exists()


def test_a_run_from_python_is_the_command_lines(tiny: list[str], tmp_path: Path) -> None:
    record = rankbench.run(*tiny)
    folder = tmp_path / "runs" / record["run_id"]
    assert json.loads((folder / "record.json").read_text()) == record
    assert record["environment"]["command"] == " ".join(["python -m rankbench", *tiny])
    assert rankbench.run(*tiny) == record  # already done
    assert set(rankbench.load_runs(folder)["rank"]) == {1, 2, 3, 4}


def test_a_wrong_request_from_python_is_refused(tiny: list[str]) -> None:
    with pytest.raises(RequestError, match=r"adapter\.r=0"):
        rankbench.run(*tiny, "adapter.r=0")


def test_the_version_is_ours_and_those_of_the_libraries_that_matter(call_main: Callable[..., Answer]) -> None:
    answer = call_main("--version")
    shown = dict(line.split() for line in answer.out.splitlines())
    assert answer.rc == 0 and shown["rankbench"] == rankbench.__version__ == metadata.version("rankbench")
    assert {name: shown[name] for name in ("torch", "peft", "transformers")} == {
        name: metadata.version(name) for name in ("torch", "peft", "transformers")
    }


def test_a_wrong_request_from_python_is_refused_as_on_the_command_line() -> None:
    with pytest.raises(RequestError, match=r"task=foo: no such choice"):
        rankbench.run("task=foo")
    with pytest.raises(RequestError, match=r"takes settings as texts, .* not \['task=sst2'\]"):
        rankbench.run(["task=sst2"])  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [None, 3, b"runs", [None], {"runs": 1}], ids=repr)
@pytest.mark.parametrize("name", ["load", "load_runs", "choose_rank", "table"])
def test_what_is_no_path_is_refused(name: str, place: Any) -> None:
    words = ["curve"] if name == "table" else []
    with pytest.raises(RequestError, match="is no path; give one as a text"):
        getattr(rankbench, name)(*words, place)


@pytest.mark.parametrize(
    "asked", [{"rank": 2.0}, {"rank": True}, {"rank": "2"}, {"depth": 1.0}, {"depth": True}], ids=str
)
def test_a_rank_that_is_no_whole_number_is_refused(finished: Path, tmp_path: Path, asked: dict[str, Any]) -> None:
    export.export(finished, tmp_path / "shipped", 2)
    for call in (
        lambda: rankbench.load(finished, **asked),
        lambda: rankbench.load(tmp_path / "shipped", **asked),
        lambda: export.export(finished, tmp_path / "out", **asked),
    ):
        with pytest.raises(RequestError, match="is no whole number; give"):
            call()
    assert not (tmp_path / "out").exists()


def test_a_whole_number_of_numpys_is_one(finished: Path, tmp_path: Path) -> None:
    export.export(finished, tmp_path / "out", np.int64(2))  # type: ignore[arg-type]
    assert rankbench.load(tmp_path / "out", rank=np.int64(2)) is not None  # type: ignore[arg-type]
