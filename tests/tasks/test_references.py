"""Several accepted texts for an input: each is learnt, and an input is scored once, against all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REAL_DATA, compose_run, refused, write_jsonl

from rankbench.errors import RequestError
from rankbench.models import backbone
from rankbench.settings import references
from rankbench.settings.task import Task
from rankbench.tasks import data, forms
from rankbench.tasks.data import Data
from rankbench.tasks.encoding import IGNORED, encode_prompts, encode_responses
from rankbench.tasks.unlabelled import unlabelled

TOKENIZER = backbone.byte_tokenizer()
PLACES = ("The Mill", "The Vaults", "Cocum", "Strada", "Zizzi", "Aromi", "Wildwood", "Giraffe")


def slots(i: int) -> str:
    return f"name[{PLACES[i % 8]}], eatType[pub], priceRange[£{i}]"


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Inputs with one, two or three accepted texts."""
    return [
        {"meaning_representation": slots(i), "references": [f"{PLACES[i % 8]} is pub {k}." for k in range(1 + i % 3)]}
        for i in range(start, start + n)
    ]


def one_each(given: list[dict[str, Any]], column: str = "human_reference") -> list[dict[str, Any]]:
    """The same with one text a row, as the hub has them."""
    return [
        {"meaning_representation": row["meaning_representation"], column: text}
        for row in given
        for text in row["references"]
    ]


def load(folder: Path, *words: str) -> Data:
    return data.load(compose_run("model=tiny_gpt2", "task=e2e", f"task.data_dir={folder}", *words).task)


def written(folder: Path, train: list[dict[str, Any]], scored: list[dict[str, Any]]) -> Path:
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "validation.jsonl", scored)
    return folder


# Forms of the input


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (
            "e2e",
            "name[Blue Spice], eatType[coffee shop], area[city centre]",
            "name : Blue Spice | Type : coffee shop | area : city centre",
        ),
        (
            "e2e",
            "name[X], priceRange[less than £20], customer rating[5 out of 5], familyFriendly[no], near[Y's, Z]",
            "name : X | price : less than £20 | customer rating : 5 out of 5 | family friendly : no | near : Y's, Z",
        ),
        ("e2e", "name : X | Type : pub", "name : X | Type : pub"),
        ("e2e", "name[]", "name : "),
        ("dart", "A B : BIRTH_PLACE : C D | A : eatType : E", "A B : birth_place : C D | A : eattype : E"),
        ("dart", "A : B : C : D | X", "A : B : C : D | X"),
    ],
)
def test_an_input_is_written_as_lora_wrote_it(form: str, text: str, expected: str) -> None:
    assert f"{forms.Cell(text):{form}}" == expected and f"{forms.Cell(text)}" == text


@pytest.mark.parametrize("text", ["a pub", "name[X", "name[X], pub", "name[X],", "[X]", "name[X]] : y"])
def test_a_text_that_is_no_meaning_representation_is_refused_by_row(text: str, tmp_path: Path) -> None:
    folder = written(tmp_path, [*rows(3), {"meaning_representation": text, "references": ["x"]}], rows(2, 8))
    with pytest.raises(RequestError, match=r"train.jsonl row 3 \(from 0\): 'meaning_representation' is no meaning"):
        load(folder)


def test_every_form_that_may_be_asked_for_is_there() -> None:
    assert set(references.FORMS) == set(forms.FORMS)


# Rows


def test_every_pair_is_learnt_and_every_input_scored_once(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, rows(6), [*rows(3, 8), *rows(2, 8)]))
    (scored,) = loaded.validation
    assert loaded.train.texts[0][:3] == ["name : The Mill | Type : pub | price : £0"] + 2 * [
        "name : The Vaults | Type : pub | price : £1"
    ]
    assert len(loaded.train) == 12 and loaded.train.index.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5]
    assert loaded.train.texts[1][:3] == [" The Mill is pub 0.", " The Vaults is pub 0.", " The Vaults is pub 1."]
    assert [len(own) for own in scored.references] == [6, 2, 2] and scored.index.tolist() == [0, 1, 2]
    splits = loaded.origin["splits"]
    assert (splits["train"]["rows"], splits["validation"]["rows"], splits["validation"]["references"]) == (12, 3, 10)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_hubs_rows_of_one_text_give_the_same(ending: str, tmp_path: Path) -> None:
    import pandas as pd

    lists = load(written(tmp_path / "lists", rows(6), rows(5, 8)))
    folder = tmp_path / "single"
    folder.mkdir()
    for name, given in (("train", one_each(rows(6))), ("validation", one_each(rows(5, 8)))):
        frame, file = pd.DataFrame(given), folder / f"{name}.{ending}"
        {
            "csv": lambda f=frame, to=file: f.to_csv(to, index=False),
            "parquet": lambda f=frame, to=file: f.to_parquet(to),
            "jsonl": lambda f=given, to=file: write_jsonl(to, f),
        }[ending]()
    single = load(folder)
    assert single.train.texts == lists.train.texts
    assert single.validation[0].references == lists.validation[0].references


def test_lists_may_stand_in_parquet_and_in_csv(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(rows(5))
    for ending in ("parquet", "csv"):
        (tmp_path / ending).mkdir()
    frame.to_parquet(tmp_path / "parquet" / "train.parquet")
    frame.to_parquet(tmp_path / "parquet" / "validation.parquet")
    frame["references"] = frame["references"].map(json.dumps)
    frame.to_csv(tmp_path / "csv" / "train.csv", index=False)
    frame.to_csv(tmp_path / "csv" / "validation.csv", index=False)
    one, other = load(tmp_path / "parquet"), load(tmp_path / "csv")
    assert one.train.texts == other.train.texts and one.validation[0].references == other.validation[0].references


def test_most_examples_are_of_pairs_to_learn_and_of_inputs_to_score(tmp_path: Path) -> None:
    loaded = load(
        written(tmp_path, rows(6), one_each(rows(6, 8))), "task.max_train_examples=7", "task.max_eval_examples=4"
    )
    whole = load(tmp_path).validation[0]
    (scored,) = loaded.validation
    assert (len(loaded.train), len(scored)) == (7, 4)
    assert all(scored.references[i] in whole.references for i in range(4)) and any(
        len(own) > 1 for own in scored.references
    )


@pytest.mark.parametrize("form", ["lists", "single"])
def test_what_is_held_out_shares_no_input_with_what_is_learnt(form: str, tmp_path: Path) -> None:
    given = rows(40) if form == "lists" else one_each(rows(40))[::-1]
    write_jsonl(tmp_path / "train.jsonl", given)
    loaded = load(tmp_path, "task.validation_fraction=0.3", "task.test_splits=[test]", "task.test_fraction=0.3")
    sides = [set(split.texts[0]) for split in (loaded.train, *loaded.validation, *loaded.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 40
    pairs = len(loaded.train) + sum(
        len(own) for split in (*loaded.validation, *loaded.test) for own in split.references
    )
    assert pairs == sum(len(row["references"]) for row in rows(40))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"references": []}, "'references' is empty"),
        ({"references": None}, "'references' is empty"),
        ({"references": ""}, "has an empty text"),
        ({"references": ["a", " "]}, "has an empty text"),
        ({"references": ["a", None]}, r"is \['a', None\], neither a text nor a list"),
        ({"references": 5}, "is 5, neither a text nor a list"),
        ({"references": {"text": "a"}}, "nor a list of texts"),
        ({"meaning_representation": None}, "meaning_representation is empty"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_row_without_accepted_texts_is_refused_by_row(
    split: str, bad: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parts = {"train": rows(3), "validation": rows(3, 8)}
    parts[split].append({"meaning_representation": slots(20), "references": ["x"]} | bad)
    with pytest.raises(RequestError, match=rf"{split}.jsonl row 3 \(from 0\).*{message}"):
        load(written(tmp_path, parts["train"], parts["validation"]))


def test_a_file_without_any_such_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no column 'references'.*set task.references_columns"):
        load(written(tmp_path, one_each(rows(3), "sentence"), rows(3)))


# Groups


def groups(n: int, *categories: str) -> list[dict[str, Any]]:
    return [
        {"meaning_representation": f"A{i} : p : B", "references": [f"a {i}", f"b {i}"], "category": category}
        for i, category in enumerate(categories * n)
    ]


def webnlg(folder: Path, *words: str) -> Data:
    return data.load(compose_run("model=tiny_gpt2", "task=webnlg", f"task.data_dir={folder}", *words).task)


def test_rows_to_score_have_the_group_of_their_category(tmp_path: Path) -> None:
    written(tmp_path, rows(3), groups(3, "Food", "Artist", "Politician"))
    (scored,) = webnlg(tmp_path).validation
    assert scored.groups == ("seen", "unseen", "unseen") * 3
    assert webnlg(tmp_path).origin["splits"]["validation"]["groups"] == {"seen": 3, "unseen": 6}
    assert webnlg(tmp_path, "task.max_eval_examples=2").validation[0].groups in (
        ("seen", "unseen"), ("unseen", "seen"), ("unseen", "unseen"), ("seen", "seen"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (groups(1, "Food", "Fruit"), r"row 1 \(from 0\): 'category' is 'Fruit', which is in no group"),
        (groups(1, "Food", "food"), r"'category' is 'food', which is in no group"),
        ([{**row, "category": None} for row in groups(1, "Food")], "'category' is None"),
        (rows(2), "has no column 'category'"),
        ([{**groups(1, "Food")[0], "category": c} for c in ("Food", "Artist")], "rows 0 and 1 .* have one prompt"),
    ],
)
def test_a_category_of_no_group_is_refused(scored: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        webnlg(written(tmp_path, rows(3), scored))


# Tokens


def test_the_end_of_text_token_stands_between_input_and_sentence(tmp_path: Path) -> None:
    split = load(written(tmp_path, rows(4), rows(3, 8))).train
    encoded = encode_responses(split, TOKENIZER, 256)
    end = TOKENIZER.eos_token_id

    def ids(text: str) -> list[int]:
        return TOKENIZER(text, add_special_tokens=False)["input_ids"]

    for row, (prompt, response) in enumerate(zip(*split.texts, strict=True)):
        assert encoded.prompts[row] == [*ids(prompt), end]
        assert encoded.features["input_ids"][row] == [*ids(prompt), end, *ids(response), end]
        assert encoded.features["labels"][row] == [IGNORED] * (len(ids(prompt)) + 1) + [*ids(response), end]
        assert response.startswith(" ") and "||" not in prompt + response
    assert encoded.targets.tolist() == [len(ids(response)) + 1 for response in split.texts[1]]


def test_rows_to_predict_have_the_prompts_of_those_that_were_learnt(tmp_path: Path) -> None:
    task = compose_run("model=tiny_gpt2", "task=e2e", f"task.data_dir={written(tmp_path, rows(4), rows(3))}").task
    asked = unlabelled(task, ["meaning_representation"], [[slots(i)] for i in range(3)], "new.csv")
    (scored,) = data.load(task).validation
    assert encode_prompts(asked, TOKENIZER) == encode_responses(scored, TOKENIZER, 256).prompts


def test_a_tokenizer_without_an_end_mark_is_refused(tmp_path: Path) -> None:
    endless = backbone.byte_tokenizer()
    endless.eos_token = None
    task = compose_run("model=tiny_gpt2", "task=e2e", f"task.data_dir={written(tmp_path, rows(4), rows(3))}").task
    with pytest.raises(RequestError, match="has no end mark; set eos_token"):
        encode_prompts(unlabelled(task, ["meaning_representation"], [[slots(0)]], "new.csv"), endless)


# Settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=classification", "task.separator=eos"], "task.separator=eos stands between"),
        (["task=chat", "task.separator=eos"], "task.separator=eos stands between"),
        (["task=e2e", "task.response=' {references}'"], r"must name {reference} alone"),
        (["task=e2e", "task.response=' {reference} {name}'"], r"must name {reference} alone"),
        (["task=e2e", "task.response=' {reference:e2e}'"], "may name columns only"),
        (["task=e2e", "task.prompts=['{meaning_representation:E2E}']"], "in a form (e2e, dart"),
        (["task=e2e", "task.aliases_column=more"], "no task.aliases_column"),
        (["task=classification", "task.references_columns=[references]"], "give both"),
        (["task=webnlg", "task.groups_column=null"], "go together"),
        (["task=classification", "task.groups_column=c", "task.groups={a: [x]}"], "this is a classification task"),
        (["task=e2e", "task.groups_column=category"], "go together"),
        (["task=e2e", "task.groups_column=c", "task.groups={a: [x], b: [x]}"], "x is in a and in b"),
        (["task=e2e", "task.groups_column=c", "task.groups={a: []}"], "a has no values"),
        (["task=e2e", "task.groups_column=c", "task.groups={validation: [x]}"], "rename the group"),
        (["task=e2e", "task.groups_column=c", "task.test_splits=[test]", "task.groups={test: [x]}"], "rename the"),
        (["task=e2e", "task.groups_column=c", "task.groups={normalized: [x]}"], "the name of the metric"),
        (["task=e2e", "task.groups_column=c", "task.groups={'a/b': [x]}"], "task.groups"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused("model=tiny_gpt2", *words, f"task.data_dir={tmp_path}")


def test_earlier_tasks_have_none_of_it() -> None:
    assert Task().references_columns == [] and Task().groups is None


@pytest.mark.parametrize(
    ("name", "train", "scored", "accepted"), [("e2e", 18_000, 547, 4_672), ("dart", None, 1_488, 3_797)]
)
def test_real_data_are_read_whole(name: str, train: int | None, scored: int, accepted: int) -> None:
    folder = REAL_DATA / "nlg" / name
    if not folder.exists():
        pytest.skip(f"no {name} beside the repository")
    words = [] if train else ["task.train_split=test"]
    task = compose_run("model=tiny_gpt2", f"task={name}", f"task.data_dir={folder}", *words).task
    loaded = data.load(task)
    (split,) = loaded.validation
    assert train is None or len(loaded.train) == train
    assert len(split) == scored and sum(map(len, split.references)) == accepted
    assert not np.any(["[" in prompt for prompt in split.texts[0]]) or name == "dart"
