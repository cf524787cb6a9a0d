"""`--push` of `export` and `layers` uploads what was written and nothing else, and says what became of it."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Answer, compose_run, tiny_overrides, write_tiny
from hub import TOKEN, Hub, standing_in
from huggingface_hub import constants
from test_export import base_folder

from rankbench.errors import RequestError
from rankbench.records.finished import finished as read_back
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import layer_ranks
from rankbench.shipping.export import export
from rankbench.shipping.hub import push, without_places
from rankbench.shipping.loading import load

NAME = "me/my-adapter"


def environment(hub: Hub) -> dict[str, str]:
    """That of a machine that has a token of the stand-in, and no other hub."""
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """`hub.push` as on such a machine; the client reads most of its environment once, when it is imported."""

    def call(folder: Path, hub: Hub, public: bool = False, **other: str) -> Answer:
        env = environment(hub) | other
        monkeypatch.setenv("HF_TOKEN", env["HF_TOKEN"])
        monkeypatch.setattr(constants, "ENDPOINT", env["HF_ENDPOINT"])
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", env["HF_HUB_OFFLINE"] == "1")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        try:
            return Answer(0, push(folder, NAME, public), "", 0.0, 0.0)
        except RequestError as error:
            return Answer(2, str(error), "", 0.0, 0.0)

    return call


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export might be: text, and weights that are no text."""
    made = tmp_path / "my adapter"
    made.mkdir()
    (made / "README.md").write_text("---\nlibrary_name: peft\n---\n\n# é\n", encoding="utf-8")
    (made / "adapter_config.json").write_text("{}\n")
    (made / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    return made


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run over a backbone that is a folder of this machine."""
    root = tmp_path_factory.mktemp("local") / "a place"
    words = tiny_overrides(write_tiny(root / "data"), root / "runs")
    words[0:1] = ["model=tiny_bert", f"model.path={base_folder(root / 'bert', 'tiny_bert')}"]
    run = compose_run(*words)
    execute(run, words)
    return run


@pytest.mark.parametrize("lfs", [False, True], ids=["regular", "lfs"])
def test_the_hub_gets_the_folder_byte_for_byte(folder: Path, lfs: bool, pushed: Callable[..., Answer]) -> None:
    with standing_in(Hub(lfs)) as hub:
        done = pushed(folder, hub)
    assert done.rc == 0, done.out
    assert hub.files[NAME] == content(folder)
    assert bool(hub.objects) == lfs
    assert hub.visibility[NAME] == "private"
    assert done.out == f"pushed to {hub.url}/{NAME} (private): 3 files, 0.0 MB, commit {'c' * 12}"


def test_who_sees_it_is_what_was_asked_for_or_nothing_is_uploaded(folder: Path, pushed: Callable[..., Answer]) -> None:
    with standing_in(Hub()) as hub:
        assert "(public)" in pushed(folder, hub, public=True).out
        assert hub.visibility[NAME] == "public"
        hub.files[NAME] = {"old.txt": b"", ".gitattributes": b""}
        done = pushed(folder, hub)
        assert done.rc == 2 and "is there already and public; --public uploads to it" in done.out
        assert set(hub.files[NAME]) == {"old.txt", ".gitattributes"}, "nothing was uploaded for everybody to see"
        done = pushed(folder, hub, public=True)
        assert done.rc == 0 and done.out.endswith("; old.txt were there before and stay")
        hub.visibility[NAME] = "private"
        assert "(private)" in pushed(folder, hub, public=True).out, "a repository keeps its visibility"


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        ("/repos/create", 401, "does not know this machine's token; `hf auth login`"),
        ("/repos/create", 403, "may not write to me/my-adapter"),
        ("/preupload", 403, "may not write to me/my-adapter"),
        ("/commit/", 409, "another change to me/my-adapter is under way"),
        ("/commit/", 400, "the hub refused it (HTTP 400"),
        ("/objects/batch", 403, "may not write to me/my-adapter"),
    ],
)
def test_a_hub_that_refuses_is_quoted_and_the_folder_stays(
    folder: Path, where: str, status: int, said: str, pushed: Callable[..., Answer]
) -> None:
    before = content(folder)
    with standing_in(Hub(lfs=True)) as hub:
        hub.refusals[where] = status
        done = pushed(folder, hub)
    stays(done, folder, said)
    assert not hub.files.get(NAME) and content(folder) == before
    assert f"HTTP {status}" in done.out


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"HF_TOKEN": ""}, "this machine has no token of the hub; `hf auth login` keeps one, or set HF_TOKEN"),
        ({"HF_TOKEN": "hf_of_somebody_else"}, "does not know this machine's token"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set; unset it"),
        ({"HF_ENDPOINT": "of a dead port"}, "cannot be reached; look at the network"),
    ],
    ids=["no token", "wrong token", "offline", "dead port"],
)
def test_a_machine_that_cannot_push_says_why(
    folder: Path, env: dict[str, str], said: str, pushed: Callable[..., Answer]
) -> None:
    with socket.socket() as closed, standing_in(Hub()) as hub:
        closed.bind(("127.0.0.1", 0))  # a port at which nobody listens
        dead = {"HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}"} if "HF_ENDPOINT" in env else {}
        done = pushed(folder, hub, **env | dead)
    stays(done, folder, said)
    assert not hub.files, "nothing is made on the hub"


def stays(done: Answer, folder: Path, said: str) -> None:
    """The refusal says why, where the export is, and what uploads it later."""
    assert done.rc == 2 and said in done.out, done.out
    later = done.out.split("to upload it later: ")[1]
    assert f"The export is whole in {folder}" in done.out
    assert shlex.split(later) == ["hf", "upload", NAME, str(folder), ".", "--private"]


VERBS = {"export": [], "layers": ["--budget=2"]}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["my-adapter", "a/b/c", "me/my adapter", "me/", "/x", "", "me/a--b", "me/x.git"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, verb: str, call_main: Callable[..., Answer]
) -> None:
    words = [str(tmp_path / "no run"), "--to", str(tmp_path / "out"), "--push", name]
    done = call_main(verb, *words, *VERBS[verb])
    (line,) = done.said
    assert done.rc == 2 and "is no name of a repository" in line and "give OWNER/NAME" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_who_sees_it_goes_with_push(tmp_path: Path, verb: str, call_main: Callable[..., Answer]) -> None:
    for flag in ("--public", "--private"):
        done = call_main(verb, str(tmp_path), "--to", str(tmp_path / "out"), flag, *VERBS[verb])
        assert done.rc == 2 and "give --push" in done.err


@pytest.mark.parametrize("flag", ["--push=me/mine", "--base=me/mine", "--merge"])
def test_what_is_said_of_a_folder_goes_with_to(tmp_path: Path, flag: str, call_main: Callable[..., Answer]) -> None:
    done = call_main("layers", str(tmp_path / "no run"), "--budget=2", flag)
    assert done.rc == 2 and "give --to DIR" in done.err


def portable(folder: Path, run: Run, base: str | None) -> None:
    """A folder that says nothing of where things lie on this machine, and names this base on the hub."""
    for name, held in content(folder).items():
        assert str(run.folder.parents[1]).encode() not in held and b"a place" not in held, name
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front.get("base_model") == base
    note = json.loads((folder / "rankbench.json").read_text())
    assert note["config"]["model"]["hub"] == base


@pytest.mark.slow
def test_a_pushed_adapter_names_no_place_of_this_machine(
    local: Run, tmp_path: Path, command_line: Callable[..., Answer]
) -> None:
    out, base = tmp_path / "out", "someone/bert@" + "a" * 40
    with standing_in(Hub()) as hub:
        words = ["export", str(local.folder), "--rank", "2", "--to", str(out), "--push", NAME, "--base", base]
        done = command_line(*words, env=environment(hub))
    assert done.rc == 0, done.err
    assert done.out.splitlines()[-1].startswith(f"pushed to {hub.url}/{NAME} (private): 6 files")
    assert hub.files[NAME] == content(out)
    portable(out, local, "someone/bert")
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/bert", "a" * 40)


def test_a_pushed_model_names_no_place_of_this_machine(local: Run, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="The export is whole in"):  # the tests are offline
        export(local.folder, tmp_path / "out", 2, merge=True, push=NAME)
    portable(tmp_path / "out", local, None)
    said = load(tmp_path / "out").predict(["a fine film"])
    assert said == load(local.folder, rank=2).predict(["a fine film"])


def test_ranks_for_each_layer_are_pushed(
    local: Run,
    tmp_path: Path,
    call_main: Callable[..., Answer],
    pushed: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, base = tmp_path / "out", "someone/bert@" + "a" * 40
    words = ["layers", str(local.folder), "--budget", "2", "--to", str(out), "--push", NAME]
    with monkeypatch.context() as patch:
        patch.setattr(layer_ranks, "choose", lambda *_: pytest.fail("searched"))
        done = call_main(*words)
        assert done.rc == 2 and "--base OWNER/NAME says it" in done.err and not out.exists()
    with standing_in(Hub()) as hub:
        pushed(tmp_path / "nothing", hub)  # from here on this machine knows the stand-in
        hub.files.clear()
        done = call_main(*words, "--base", base, "--public")
    assert done.rc == 0, done.err
    assert done.out.splitlines()[-1].startswith(f"pushed to {hub.url}/{NAME} (public): ")
    assert hub.files[NAME] == content(out)
    portable(out, local, "someone/bert")
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/bert", "a" * 40)


def test_an_adapter_whose_base_nobody_else_has_is_refused_before_it_is_written(
    local: Run, tmp_path: Path, finished: Path
) -> None:
    merged = "--merge pushes a whole model"
    for run, ways in ((local.folder, f"--base OWNER/NAME says it, or {merged}"), (finished, f"; {merged}")):
        with pytest.raises(Exception, match=re.escape(ways)):
            export(run, tmp_path / "out", 2, push=NAME)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("base", ["bert", "someone/bert--x", "some one/bert@main"])
def test_a_base_that_cannot_be_on_the_hub_is_refused(local: Run, tmp_path: Path, base: str) -> None:
    with pytest.raises(Exception, match=r"--base .* is no name of a repository"):
        export(local.folder, tmp_path / "out", 2, base=base)


def test_a_base_that_is_known_is_not_renamed(local: Run, tmp_path: Path) -> None:
    record = read_back(local.folder).record
    assert record["backbone"]["source"] == "path"
    said = export(local.folder, tmp_path / "out", 2, base="someone/bert")
    assert str(local.model.path) in said[-1], "here it is loaded from where it lies"
    config: dict[str, Any] = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/bert", "main")


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (
            "python -m rankbench task.data_dir=/somewhere/me/my_data seed=1",
            "python -m rankbench task.data_dir=my_data seed=1",
        ),
        ("x 'model.path=/somewhere/me/my model'", "x 'model.path=my model'"),
        ("x model.path=~/models/a", "x model.path=a"),
        ("x --config-dir /somewhere/me/conf", "x --config-dir conf"),
        (
            "x '+sweeps=a' model.hub=owner/name task.data_dir=glue/sst2",
            "x +sweeps=a model.hub=owner/name task.data_dir=glue/sst2",
        ),
        (
            "x 'task.prompts=[yes/no: {text} /think]' task.response=/no_think",
            "x 'task.prompts=[yes/no: {text} /think]' task.response=/no_think",
        ),
        ("x runs_dir=/somewhere/runs/", "x runs_dir=runs/"),
    ],
)
def test_a_command_keeps_all_but_where_folders_lie(command: str, wanted: str) -> None:
    assert without_places(command) == wanted
