"""`rankbench decode`: every way of decoding over a run's exits, measured on the run's own prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_export_depth import trained

from rankbench.errors import RequestError
from rankbench.records.finished import finished
from rankbench.shipping import decode


def test_every_way_is_measured_and_drafts_change_no_answer(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, "llama", "adapter=sorted_ft", "task.metrics=[exact_match,loss]")
    measured, said = decode.compare(finished(run.folder), 5, 8, [{2: 0.0}, {2: 2.0, 3: 0.0}, {3: 2.0}], 3)
    found = {way.way: way for way in measured}
    assert list(found) == [
        *("whole model", "cut at 2", "cut at 3", "sure 0 at 2", "sure 2=2 3=0", "sure 2 at 3"),
        *("draft at 2", "draft at 3"),
    ]
    assert said["prompts"] == 5 and said["new_tokens"] == 8
    whole = found["whole model"]
    assert whole.times_faster == 1 and whole.equal == 1 and whole.decided == {2: 0, 3: 0, 4: whole.tokens}
    assert found["sure 0 at 2"].decided == found["cut at 2"].decided == {2: found["cut at 2"].tokens, 3: 0, 4: 0}
    assert found["sure 2=2 3=0"].decided[3] == found["sure 2=2 3=0"].tokens == found["cut at 3"].tokens
    assert found["sure 2 at 3"].equal == 1 and found["sure 2 at 3"].decided == whole.decided
    for name in ("draft at 2", "draft at 3"):
        assert found[name].equal == 1 and found[name].tokens == whole.tokens
        assert found[name].accepted is not None and 0 <= found[name].accepted <= 1
        assert sum(found[name].decided.values()) == found[name].tokens
    assert all(0 <= way.metrics["exact_match"] <= 1 and way.seconds > 0 for way in measured)


def test_the_command_prints_and_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = trained(tmp_path, "gpt2", "adapter=early_exit")
    words = [str(run.folder), "--examples", "2", "--new-tokens", "4", "--confidence", "2=.5,3=.4"]
    decode.main([*words, "--to", str(tmp_path / "d.json")])
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "d.json").read_text())
    assert [way["way"] for way in figures["measured"]] == [
        *("whole model", "cut at 2", "cut at 3", "sure 2=0.5 3=0.4", "draft at 2", "draft at 3")
    ]
    assert "score" not in printed and "% at 2 3 4" in printed and "2 prompts, at most 4 new tokens" in printed
    with pytest.raises(RequestError, match="cannot be written"):
        decode.main([*words, "--to", str(tmp_path / "none" / "d.json")])


@pytest.fixture(scope="module")
def with_exits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of sorted fine-tuning, shared: read it, do not change it."""
    return trained(tmp_path_factory.mktemp("exits"), "llama", "adapter=sorted_ft")[0].folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--confidence", "2:.5"], "give DEPTH=P"),
        (["--confidence", "4=.5"], r"4 is no exit before the last; choose from \[2, 3\]"),
        (["--examples", "0"], "--examples 0 must be at least 1"),
        (["--new-tokens", "0"], "--new-tokens 0 must be at least 1"),
        (
            ["--new-tokens", "1000"],
            r"a prompt of \d+ tokens and --new-tokens 1000 are more than the 256 that",
        ),
        (["--data-dir", "nowhere"], "nowhere does not exist"),
    ],
)
def test_a_wrong_word_is_refused(words: list[str], message: str, with_exits: Path) -> None:
    with pytest.raises(RequestError, match=message):
        decode.main([str(with_exits), *words])


@pytest.mark.parametrize(
    ("kind", "adapter", "message"),
    [("llama", "dylora", "has no exits"), ("bert", "sorted_ft", "is of a classification task")],
)
def test_what_cannot_be_decoded_is_refused(kind: str, adapter: str, message: str, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, kind, f"adapter={adapter}")
    with pytest.raises(RequestError, match=message):
        decode.main([str(run.folder)])
