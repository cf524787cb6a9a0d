"""What people type is read as they mean it: plain texts need no quotes for Hydra's sake."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Answer, write_tiny
from hydra.core.override_parser.overrides_parser import OverridesParser

from rankbench.settings.compose import composed
from rankbench.settings.words import typed

PLAIN = [
    *(
        "négatif",
        "d/données.csv",
        "d/a=b.csv",
        "d/my file (1).csv",
        "d/a,b.csv",
        "it's",
        'say "x"',
        "~/d",
        "a#b",
        "d/日本",
    ),
    *("a{b}.csv", "d/a b.csv", "C:\\x", "50%", "a(1),b=é", "x [1].csv", "a;b", "who?", "a&b", "!a", "a*", "d/"),
]


@pytest.mark.parametrize("value", PLAIN)
@pytest.mark.parametrize(
    "key", ["task.data_dir", "model.path", "task.positive_label", "runs_dir", "adapter.start_from"]
)
def test_a_plain_text_is_that_text(key: str, value: str) -> None:
    (word,) = typed([f"{key}={value}"])
    assert OverridesParser.create().parse_override(word).value() == value
    assert typed([word]) == [word], "what was typed is left alone"


@pytest.mark.parametrize("value", ["null", "1", "1.5", "true", "[a,b]", "'a b'", '"a,b"', "${seed}", "", "a,b"])
def test_what_hydra_reads_is_left_to_it(value: str) -> None:
    assert typed([f"task.positive_label={value}"], True)[0] == f"task.positive_label={value}"
    assert typed([f"adapter={value}", f"train.max_steps={value}"]) == [f"adapter={value}", f"train.max_steps={value}"]


@pytest.mark.parametrize("value", ["true", "False", "1e3", "1_000", "1.50", "0012", "inf", "nan", "7", "x"])
@pytest.mark.parametrize("key", ["task.name", "runs_dir", "task.label_column", "task.text_columns"])
def test_a_text_that_looks_like_a_number_stays_as_it_is_written(key: str, value: str) -> None:
    for several in (False, True):
        (word,) = typed([f"{key}={value}"], several)
        read = OverridesParser.create().parse_override(word).value()
        assert ",".join(map(str, read if isinstance(read, list) else [read])) == value
    if key != "task.text_columns":
        (word,) = typed([f"{key}={value},b"], True)
        assert [str(v) for v in OverridesParser.create().parse_override(word).sweep_iterator()][-1].strip("'") == "b"
        assert f"{value}" in word


def test_commas_part_the_values_of_a_sweep() -> None:
    assert typed(["task.data_dir=d/é.csv,d/b.csv"], True)[0] == "task.data_dir='d/é.csv',d/b.csv"


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("task.label_names=[négatif,positif]", ["négatif", "positif"]),
        ("task.text_columns=résumé", ["résumé"]),
        ("task.text_columns=my text (1)", ["my text (1)"]),
        ("task.text_columns=[texte (a),b]", ["texte (a)", "b"]),
        ("task.text_columns=review", ["review"]),
        ("task.label_names=['é,à',b]", None),
        ("task.text_columns=a,b", None),
    ],
)
def test_lists_of_texts_need_no_quotes_either(word: str, read: list[str] | None) -> None:
    (found,) = typed([word])
    assert found == word if read is None else OverridesParser.create().parse_override(found).value() == read


def test_a_run_of_such_names_is_asked_for_as_it_is(tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "d" / "mes données (1), a=b")
    run = composed(["model=tiny_bert", "task=classification", f"task.data_dir={data}", f"runs_dir={tmp_path / 'é'}"])
    assert run.task.data_dir == str(data) and run.runs_dir == str(tmp_path / "é")


@pytest.mark.parametrize("word", ["adapter.target_modules=é", "train.max_steps=(1", "task.data_dir='a", "model=é"])
def test_what_cannot_be_read_is_answered_with_what_can(call_main: Callable[..., Answer], word: str) -> None:
    answer = call_main(word)
    assert answer.rc == 2 and len(answer.said) == 1
    (line,) = shlex.split(answer.err.split("quote it twice: ")[1])
    assert OverridesParser.create().parse_override(line).key_or_group == word.split("=")[0]
