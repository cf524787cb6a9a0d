"""A folder of YAML of one's own: its files come before the packaged ones, which is said, wherever the flag stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CONF, Answer

from rankbench.errors import RequestError
from rankbench.settings.compose import composed

Call = Callable[..., Answer]
OURS = """
name: ours
target_modules: [query]
random: {model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Callable[..., str]:
    """mine("model/ours.yaml", text): a file in a folder of one's own, whose path is the answer."""

    def write(file: str, text: str, folder: str = "mine") -> str:
        place = tmp_path / folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return str(tmp_path / folder)

    return write


@pytest.mark.parametrize("flag", ["--config-dir={}", "-cd {}", "--config-d {}"])
def test_the_flag_may_stand_anywhere(mine: Callable[..., str], tiny: list[str], flag: str) -> None:
    words = flag.format(mine("model/ours.yaml", OURS)).split(" ")
    for place in (0, 2, len(tiny)):
        assert composed([*tiny[:place], *words, *tiny[place:], "model=ours"]).model.name == "ours"


def test_a_file_with_a_packaged_name_wins_and_is_named(
    mine: Callable[..., str], tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = mine("model/tiny_bert.yaml", OURS)
    assert composed([*tiny, "--config-dir", folder]).model.name == "ours"
    assert f"{folder}/model/tiny_bert.yaml is read in place of the packaged model=tiny_bert" in caplog.text
    assert composed(tiny).model.name == "tiny_bert"


def test_a_sweep_file_with_a_packaged_name_is_named(
    mine: Callable[..., str], tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    composed([*tiny, "--config-dir", mine("sweeps/lora_search.yaml", "# @package _global_\nseed: 3\n")])
    assert "in place of the packaged sweeps=lora_search" in caplog.text


def test_a_copy_of_a_packaged_file_is_no_news(
    mine: Callable[..., str], tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    mine("config.yaml", (CONF / "config.yaml").read_text())
    folder = mine("model/tiny_bert.yaml", (CONF / "model" / "tiny_bert.yaml").read_text())
    assert composed([*tiny, "--config-dir", folder]).model.name == "tiny_bert" and caplog.text == ""


def test_the_first_of_two_folders_counts(
    mine: Callable[..., str], tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = mine("model/ours.yaml", OURS)
    second = mine("model/ours.yaml", OURS.replace("ours", "theirs"), folder="second")
    mine("task/other.yaml", (CONF / "task" / "classification.yaml").read_text(), folder="second")
    run = composed([*tiny, "-cd", first, "-cd", second, "model=ours", "task=other"])
    assert run.model.name == "ours" and f"is read in place of {second}/model/ours.yaml" in caplog.text


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.yaml", "seed: 1\n", "rankbench alone has this name"),
        ("schema.yaml", "seed: 1\n", "rankbench alone has this name"),
        ("settings/adapter/lora.yaml", "r: 1\n", "rankbench alone has this name"),
        ("model/tiny_bert.yaml", "defaults: [tiny_bert]\nlayers: 1\n", "builds on itself"),
    ],
)
def test_what_a_folder_cannot_hold_is_refused(
    mine: Callable[..., str], tiny: list[str], call_main: Call, tmp_path: Path, file: str, text: str, said: str
) -> None:
    folder = mine(file, text)
    for verb in ([], ["plan"], ["-m"]):
        answer = call_main(*verb, *tiny, "--config-dir", folder)
        assert answer.rc == 2 and said in answer.err and "Traceback" not in answer.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("call", [[], ["plan"], ["doctor"], ["-m", "seed=1,2"]], ids=["run", "plan", "doctor", "sweep"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: x\n  a: [1,\n", "ours.yaml, line 2: no YAML (mapping values are not allowed here)"),
        (b"name: x\n\tb: 1\n", "ours.yaml, line 2: no YAML (found character"),
        (b"name: [a\n", "no YAML (expected ',' or ']'"),
        (b"name: \xff\n", "ours.yaml: no text in UTF-8"),
    ],
    ids=["nested", "tab", "open", "latin-1"],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, tiny: list[str], call_main: Call, call: list[str], content: bytes, said: str
) -> None:
    file = tmp_path / "mine" / "model" / "ours.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    done = call_main(*call, f"--config-dir={tmp_path / 'mine'}", *tiny[1:], "model=ours")
    (line,) = done.said
    assert done.rc == 2 and said in line


@pytest.mark.parametrize("call", [["seed=1"], ["plan"], ["doctor"], ["-m", "seed=1,2"]], ids=lambda call: call[0])
def test_a_folder_that_was_removed_under_the_call_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_main: Call, call: list[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = call_main(*call)
    assert done.rc == 2 and done.said == [
        "rankbench: the folder that you are in is not there any more; go to one that is"
    ]


def test_a_folder_that_is_not_there_is_refused(tiny: list[str]) -> None:
    with pytest.raises(RequestError, match="--config-dir nowhere is no folder"):
        composed([*tiny, "--config-dir", "nowhere"])


@pytest.mark.parametrize("flag", ["-m", "--cfg=job", "--frobnicate"])
@pytest.mark.parametrize("verb", ["plan", "doctor"])
def test_other_flags_are_refused_where_one_run_is_looked_at(
    call_main: Call, tiny: list[str], verb: str, flag: str
) -> None:
    answer = call_main(verb, *tiny, flag)
    assert answer.rc == 2 and len(answer.said) == 1 and answer.err.startswith("rankbench: ")


@pytest.mark.full
def test_plan_and_doctor_take_the_folder(mine: Callable[..., str], tiny: list[str], call_main: Call) -> None:
    folder = mine("model/ours.yaml", OURS)
    assert "ours" in call_main("plan", "--config-dir", folder, *tiny, "model=ours").out
    assert "random weights" in call_main("doctor", *tiny, "model=ours", "-cd", folder).out


@pytest.mark.full
@pytest.mark.parametrize("many", [["-m"], []], ids=str)
def test_the_flag_before_the_settings_runs_and_the_record_says_it(
    mine: Callable[..., str], tiny: list[str], call_main: Call, tmp_path: Path, many: list[str]
) -> None:
    folder = mine("cluster/ours.yaml", "# @package _global_\ndefaults: [local]\ncluster: {minutes: 9}\n")
    mine("model/ours.yaml", OURS)
    answer = call_main(*many, "--config-dir", folder, "cluster=ours", *tiny, "train.max_steps=1", "model=ours")
    assert answer.rc == 0, answer.err
    (record,) = (tmp_path / "runs").glob("*/record.json")
    command = json.loads(record.read_text())["environment"]["command"]
    assert command.startswith(f"python -m rankbench --config-dir {folder} ") and "model=ours" in command


@pytest.mark.full
@pytest.mark.parametrize("key", ["random", "shape"])
@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("{hidden_size: 64}", "has no model_type"),
        ("{model_type: [1]}", "has no model_type"),
        ("{model_type: foo}", "model_type=foo: transformers knows no such"),
        ("{model_type: bert, hidden_size: 65, num_attention_heads: 4}", "not a multiple"),
        ("{model_type: bert, hidden_size: big}", "hidden_size"),
        ("{model_type: llama, num_hidden_layers: -2}", "num_hidden_layers"),
        ("{model_type: llama, hidden_size: -64, num_attention_heads: 4}", "describes no model"),
        ("{model_type: resnet}", "num_hidden_layers"),
    ],
)
def test_an_incomplete_or_wrong_architecture_is_refused(
    mine: Callable[..., str], tiny: list[str], call_main: Call, key: str, shape: str, said: str
) -> None:
    place = "hub: me/ours\nrevision: abc\n" if key == "shape" else ""
    text = f"name: ours\n{place}target_modules: [query]\n{key}: {shape}\n"
    folder = mine("model/ours.yaml", text)
    answer = call_main("plan", *tiny, "model=ours", "-cd", folder)
    assert answer.rc == 2 and len(answer.said) == 1 and f"model.{key}" in answer.err and said in answer.err, answer.err
