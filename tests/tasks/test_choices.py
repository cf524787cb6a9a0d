"""Questions of a few choices behind worked examples: the likeliest letter, at every rank, as stock code has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import compose_run, write_jsonl

import rankbench
from rankbench.errors import RequestError
from rankbench.models.backbone import byte_tokenizer
from rankbench.runs.life import execute
from rankbench.scoring.responses import Choices
from rankbench.settings.compose import composed
from rankbench.shipping.export import export
from rankbench.system.files import sha256
from rankbench.tasks import data
from rankbench.tasks.encoding import encode_prompts
from rankbench.tasks.forms import FORMS
from rankbench.tasks.unlabelled import check_names, unlabelled

SUBJECTS = ("abstract_algebra", "us_foreign_policy")


def question(number: int, subject: str = SUBJECTS[0], **other: Any) -> dict[str, Any]:
    choices = [f"{number + i}" for i in range(4)]
    return {"question": f"What is {number} and {number % 4}?", "subject": subject, "choices": choices} | {
        "answer": number % 4,
        **other,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    write_jsonl(place / "auxiliary_train.jsonl", [question(i, "") for i in range(24)])
    write_jsonl(place / "validation.jsonl", [question(i, SUBJECTS[i % 2]) for i in range(10, 15)])
    write_jsonl(place / "dev.jsonl", [question(i, SUBJECTS[i % 2]) for i in range(10)])
    return place


def words(folder: Path, *more: str) -> list[str]:
    own = ["model=tiny_gpt2", "task=mmlu", f"task.data_dir={folder}", f"runs_dir={folder.parent / 'runs'}"]
    return [*own, "task.max_length=512", "train.max_steps=2", *more]


def asked(row: dict[str, Any]) -> str:
    marks = zip("ABCD", row["choices"], strict=True)
    return "".join([row["question"], *(f"\n{mark}. {text}" for mark, text in marks), "\nAnswer:"])


def prompt(row: dict[str, Any], shots: list[dict[str, Any]]) -> str:
    """As MMLU's own evaluation writes it."""
    head = f"The following are multiple choice questions (with answers) about {row['subject'].replace('_', ' ')}.\n\n"
    return head + "".join(f"{asked(shot)} {'ABCD'[shot['answer']]}\n\n" for shot in shots) + asked(row)


def tokens(tokenizer: Any, text: str) -> list[int]:
    """Without the mark that ends a text."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_answer_is_the_likeliest_letter_at_every_rank(folder: Path) -> None:
    run = compose_run(*words(folder, "task.shots=2", "adapter=dylora", "adapter.r=2", "train.learning_rate=0.05"))
    record = execute(run)
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    dev = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    said = pd.read_parquet(run.folder / "predictions.parquet")
    letters = ["A", "B", "C", "D"]
    for member in record["submodels"]:
        model = rankbench.load(run.folder, rank=member["rank"])
        tokenizer = model.told.tokenizer
        marks = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in letters]
        own = said[said["rank"] == member["rank"]].sort_values("index")
        for row, (_, kept) in zip(rows, own.iterrows(), strict=True):
            shots = [shot for shot in dev if shot["subject"] == row["subject"]]
            ids = torch.tensor([tokens(tokenizer, prompt(row, shots[:2])) + marks[0][:-1]])
            with torch.no_grad():
                logits = model(ids).logits[0, -1]
            assert kept["prediction"] == letters[int(logits[[mark[-1] for mark in marks]].argmax())]
            assert kept["reference"] == letters[row["answer"]]
        share = float(np.mean([row["prediction"] == row["reference"] for _, row in own.iterrows()]))
        assert member["metrics"]["exact_match"] == pytest.approx(share)
        assert {"exact_match_stem", "exact_match_social_sciences"} <= set(member["metrics"])
        bare = [{key: value for key, value in row.items() if key != "answer"} for row in rows]
        assert model.predict(bare) == own["prediction"].tolist()


def test_examples_go_from_the_last_where_a_prompt_is_too_long(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = compose_run(*words(folder))
    loaded = data.load(run.task)
    tokenizer = byte_tokenizer()
    whole = encode_prompts(loaded.validation[0], tokenizer)
    most = max(map(len, whole)) - 1 + run.task.max_new_tokens
    fitted = encode_prompts(loaded.validation[0], tokenizer, most)
    assert "prompts have fewer examples than task.shots" in caplog.text
    row = json.loads((folder / "validation.jsonl").read_text().splitlines()[0])
    dev = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    shots = [shot for shot in dev if shot["subject"] == row["subject"]]
    some = {len(tokens(tokenizer, prompt(row, shots[:count]))): count for count in range(6)}
    assert some[len(whole[0])] == 5
    fits = max(count for length, count in some.items() if length + run.task.max_new_tokens <= most)
    assert fitted[0] == tokens(tokenizer, prompt(row, shots[:fits]))
    training = loaded.train.leads
    assert training is not None and {lead(5) for lead in training.rows} == {""}  # no subject, no header, no examples


@pytest.mark.parametrize(
    ("file", "row", "told"),
    [
        ("validation", question(1, answer=4), r"row 0 .*'answer' is '4', .* no place in .* \('choices' has 4,"),
        ("validation", question(1, choices=["2", "3"], answer=2), r"row 0 .*'answer' is '2', .* \('choices' has 2,"),
        ("validation", question(1, choices=["2", "3"], answer="C"), r"row 0 .*'answer' is 'C', .* \('choices' has 2,"),
        ("dev", question(1, choices=["2", "3"], answer=3), r"dev.jsonl row 0 .*'answer' is '3', .*'choices' has 2"),
        ("validation", question(1, choices=list("abcde"), answer=4), r"the response is ' E', none of task.choices"),
        ("validation", question(1, choices=["x"] * 27), r"'choices' has 27 texts, and there are 26 letters"),
        ("validation", question(1, answer="no"), r"row 0 .*'answer' is 'no', neither a place in a list, from 0, nor"),
        ("validation", question(1, choices="2, 3"), r"row 0 .*'choices' is no list of texts"),
        ("validation", question(1, "sociology"), r"no row of dev has 'sociology' in 'subject'"),
        ("dev", question(1), r"dev.jsonl has 1 rows whose 'subject' is 'abstract_algebra', fewer than task.shots=5"),
    ],
)
def test_wrong_rows_are_refused(folder: Path, file: str, row: dict[str, Any], told: str) -> None:
    write_jsonl(folder / f"{file}.jsonl", [row])
    with pytest.raises(RequestError, match=told):
        data.load(compose_run(*words(folder)).task)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["task.shots=-1"], "task.shots=-1 must not be negative"),
        (["task.shots_split=validation"], "is scored too, so a prompt would hold its own answer"),
        (["task.shots_split=auxiliary_train", "task.validation_fraction=0.3"], "rows to score are held out of"),
        (["task.choices=[' A']"], "give two texts or more"),
        (["task.choices=[' A','A']"], "give two texts or more"),
        (["generation=beam"], "task.choices leave one token to choose"),
        (["task.template=chat"], "give task.template=plain with them"),
        (["task.prompts=['{choices:digits}']"], "take \\['digits'\\] out"),
        (["task.header='{subject'"], "cannot be read"),
    ],
)
def test_wrong_settings_are_refused(folder: Path, more: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        compose_run(*words(folder, *more))


def test_examples_that_are_not_there_are_named(folder: Path) -> None:
    (folder / "dev.jsonl").unlink()
    with pytest.raises(RequestError, match=r"has no dev.jsonl.*give task.shots=0"):
        data.load(compose_run(*words(folder)).task)
    assert data.load(compose_run(*words(folder, "task.shots=0")).task).validation[0].leads is not None  # the header


def test_examples_that_change_are_read_again_and_recorded(folder: Path) -> None:
    task = compose_run(*words(folder)).task
    first = data.load(task)
    assert first.origin["shots"] == {"file": "dev.jsonl", "sha256": sha256(folder / "dev.jsonl")}
    write_jsonl(folder / "dev.jsonl", [question(i + 7, SUBJECTS[i % 2]) for i in range(10)])
    second = data.load(task)
    assert first.validation[0].leads != second.validation[0].leads
    assert first.origin["shots"] != second.origin["shots"]


def test_a_list_without_a_form_is_refused_by_its_row(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"'choices' is a list of texts, which the form"):
        data.load(compose_run(*words(folder, "task.prompts=['{choices}']", "task.header=''", "task.shots=0")).task)


def test_classes_answered_by_a_language_model(tmp_path: Path) -> None:
    """Choices of several tokens that begin alike, without examples."""
    rows = [{"text": f"film {i}", "mood": "rather good" if i % 2 else "rather bad"} for i in range(12)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "validation.jsonl", rows[:5])
    own = ["model=tiny_gpt2", "task=instruction", f"task.data_dir={tmp_path}", f"runs_dir={tmp_path / 'runs'}"]
    own += ["task.prompts=['{text} is']", "task.response=' {mood}'", "task.choices=[' rather good',' rather bad']"]
    run = compose_run(*own, "task.metrics=[exact_match]", "adapter.r=2", "train.max_steps=1")
    execute(run)
    said = set(pd.read_parquet(run.folder / "predictions.parquet")["prediction"])
    assert said and said <= {"rather good", "rather bad"}


def test_choices_that_no_token_tells_apart_are_refused() -> None:
    class Letters:
        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    assert Choices.of(["ab", "ac"], Letters()) == Choices((ord("a"),), {ord("b"): "ab", ord("c"): "ac"})
    for wrong in (["a", "ab"], ["ab", "ac", "acd"]):
        with pytest.raises(RequestError, match="tells apart"):
            Choices.of(wrong, Letters())


def test_a_typed_line_break_is_one(folder: Path) -> None:
    typed = [r'task.header="On {subject:words}:\n\n"', r"task.prompts=['Q: {question}\nA:']"]
    typed += [r'task.response="\n{answer:letter}"', r"task.choices=['\nA','\nB','\nC','\nD']"]
    runs = [composed(words(folder, *more)) for more in (typed, [word.replace("\\n", "\n") for word in typed])]
    assert runs[0].run_id == runs[1].run_id
    loaded = data.load(runs[0].task)
    row = json.loads((folder / "validation.jsonl").read_text().splitlines()[0])
    assert loaded.validation[0].texts[0][0].endswith(f"Q: {row['question']}\nA:")
    assert runs[0].task.header == "On {subject:words}:\n\n"


@pytest.mark.parametrize(
    ("form", "text", "written"),
    [
        ("lettered", '["x", "y\\nz"]', "A. x\nB. y\nz"),
        ("letter", "2", "C"),
        ("letter", "2.0", "C"),
        ("letter", " D ", "D"),
        ("words", "high_school_biology", "high school biology"),
    ],
)
def test_forms(form: str, text: str, written: str) -> None:
    assert FORMS[form](text) == written


def test_a_card_says_how_an_answer_is_chosen_and_what_stands_before_the_prompt(folder: Path) -> None:
    run = compose_run(*words(folder, "task.shots=2", "adapter=dylora", "adapter.r=2"))
    execute(run)
    export(run.folder, folder.parent / "out", 2)
    card = (folder.parent / "out" / "README.md").read_text()
    assert "Its answer is the likeliest of ` A`, ` B`, ` C`, ` D`, by the first token" in card
    assert "greedily" not in card and "generate with" not in card
    assert "The following are multiple choice questions (with answers) about {subject:words}." in card
    assert "stand the first 2 rows of `dev` whose `subject` is the row's" in card


def test_rows_to_predict_of_more_or_fewer_letters_are_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = compose_run(*words(folder)).task
    names, rows = ["question", "subject", "choices"], [["Why?", SUBJECTS[0], ["x"] * n] for n in (4, 2, 5)]
    assert len(unlabelled(task, names, rows, "mine.jsonl")) == 3
    assert "mine.jsonl: in 2 rows the list has not as many texts as task.choices (4)" in caplog.text
    assert "the first is mine.jsonl row 1" in caplog.text
    with pytest.raises(RequestError, match=r"mine.jsonl has no column 'subject'"):
        check_names(task, ["question", "choices"], "mine.jsonl")
