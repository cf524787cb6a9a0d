"""One rule for names: others are refused before anything runs, with one that would do, short enough for W&B."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import CONF, compose_run, refused

from rankbench.errors import RequestError
from rankbench.settings import names, outside
from rankbench.settings.log import Log
from rankbench.settings.methods import METHODS, Method
from rankbench.sweeps.sweep import _name

BAD = ["glue/sst2", "../up", "x:y", "a b", ".hidden", "-x", "$5", "{x", "a|b", "a\\b", "a\nb", "Ba$$in", "", "a,b"]


def quoted(key: str, value: str) -> str:
    """An override whose value Hydra takes as it is."""
    inside = value.replace("'", "\\'")
    return f"{key}='{inside}'"


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("key", ["task.name", "model.name"])
def test_a_name_that_is_none_is_refused_with_one_that_would_do(key: str, name: str) -> None:
    said = refused("model=tiny_bert", "task=sst2", quoted(key, name))
    assert said.startswith(f"{key}=") and names.RULE in said
    (better,) = re.findall(rf"give {key}=(\S+)$", said)
    assert compose_run("model=tiny_bert", "task=sst2", f"{key}={better}").run_id


@pytest.mark.parametrize("name", ["a/b", "..", "x y"])
@pytest.mark.parametrize("key", ["task.train_split", "task.validation_splits"])
def test_a_split_whose_name_is_none_is_refused_with_its_file(key: str, name: str) -> None:
    value = f"'{name}'" if key == "task.train_split" else f"['{name}']"
    said = refused("model=tiny_bert", "task=sst2", f"{key}={value}")
    assert said.startswith(f"{key}=") and "call the split's file" in said


@pytest.mark.parametrize("name", ["sst2", "Llama-3.1-8B_v2", "_x", "模型", "my.task"])
def test_names_as_people_give_them_are_taken(name: str) -> None:
    run = compose_run("model=tiny_bert", "task=sst2", quoted("task.name", name), quoted("model.name", name))
    assert run.run_id.startswith(f"{name}-{name}-dylora-")


@pytest.mark.parametrize("folder", ["-x", ".hidden", "a b/c$d|e", "...", "x" * 200, "模" * 80, "ends_in_"])
def test_a_name_made_from_a_folder_follows_the_rule(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    run = compose_run("model=minilm", "task=sst2", quoted("model.path", str(place)))
    assert names.good(run.model.name) and len(run.model.name.encode()) <= 64


def test_every_name_of_ours_follows_the_rule() -> None:
    ours = [*METHODS, *(file.stem for group in ("task", "model") for file in (CONF / group).glob("*.yaml"))]
    assert len(ours) > 20 and all(map(names.good, ours))


def test_wandb_takes_what_the_longest_names_make() -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.sdk.artifacts._validators import validate_artifact_name

    left = names.LONGEST - len("dylora")
    words = ("model=tiny_bert", "task=sst2", f"task.name={'t' * (left // 2)}")
    run = compose_run(*words, f"model.name={'m' * (left - left // 2)}", "seed=2147483647")
    wandb.Settings(run_id=run.run_id, run_group=run.log.group)
    validate_artifact_name(f"run-{run.run_id}-submodels")
    assert len(f"{run.run_id} seed {run.seed}") <= 128
    assert "shorten task.name= or model.name=" in refused(*words, f"model.name={'m' * (left - left // 2 + 1)}")
    for group in ("g" * names.LONGEST, "a:b/c, d"):
        stem = _name(group, [])
        wandb.Settings(run_id=stem)
        validate_artifact_name(f"run-{stem}-runs")


@pytest.mark.parametrize("key", ["project", "group"])
@pytest.mark.parametrize("value", ["x" * 129, "a\nb"])
def test_what_wandb_does_not_take_is_refused(key: str, value: str) -> None:
    with pytest.raises(RequestError, match=rf"log\.{key}=.*give an?\w* (shorter )?log\.{key}="):
        Log("wandb", **{key: value}).check()


@pytest.mark.parametrize("project", ["a/b", "a:b", "50%", "a#b", "why?", "a\\b", ""])
def test_a_project_that_wandb_refuses_is_refused_before_the_run(project: str) -> None:
    wandb = pytest.importorskip("wandb")
    if project:
        with pytest.raises(wandb.errors.UsageError):
            wandb.Settings(project=project)
    with pytest.raises(RequestError, match=r"log\.project="):
        Log("wandb", project=project).check()


def test_a_method_of_another_package_whose_name_is_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    points = [
        metadata.EntryPoint(name, "rankbench.settings.methods.base:Method", "rankbench.methods")
        for name in ("mine", "my method", "a/b")
    ]
    monkeypatch.setattr(outside, "_points", lambda: metadata.EntryPoints(points))
    with pytest.warns(UserWarning, match="is left out: a name is of letters") as warned:
        assert list(outside.installed("rankbench.methods", Method, [])) == ["mine"]
    assert len(warned) == 2
