"""What `import rankbench` offers: these names, typed and described, and no others."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from conftest import Answer

import rankbench
from rankbench.errors import RequestError

NAMES = ["__version__", "choose_rank", "load", "load_runs", "run", "score", "table"]


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
