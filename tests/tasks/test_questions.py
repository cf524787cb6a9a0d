"""Questions with contexts: rows that are refused, windows, and where their answers are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REAL_DATA, compose_run, refused, write_jsonl
from made_questions import question, words, write

from rankbench.errors import RequestError
from rankbench.models import backbone
from rankbench.tasks import data, questions, spans
from rankbench.tasks.data import Data
from rankbench.tasks.encoding import Encoded, collate
from rankbench.tasks.splits import Split
from rankbench.tasks.token_cache import Kept

SMALL = ("task.max_length=96", "task.doc_stride=24", "task.max_query_length=30")


def load(folder: Path, *further: str, v2: bool = False) -> Data:
    return data.load(compose_run(*words(folder, folder, v2), *further).task)


def read(rows: list[dict[str, Any]], *further: str, v2: bool = False, **how: Any) -> tuple[Split, Encoded]:
    """The rows as a split, and in windows."""
    import pandas as pd

    from rankbench.tasks.questions import questions

    task = compose_run("model=tiny_bert", f"task={'squad_v2' if v2 else 'squad'}", *SMALL, *further).task
    split = questions("train", pd.DataFrame(rows), task, "train.jsonl")
    return split, spans.encode(split, task, backbone.byte_tokenizer(), task.max_length, **how)


def row(context: str, text: str | None, asked: str = "what?") -> dict[str, Any]:
    """A question whose answer stands once in the context; None for none."""
    answers = (
        {"text": [], "answer_start": []} if text is None else {"text": [text], "answer_start": [context.index(text)]}
    )
    return {"question": asked, "context": context, "answers": answers}


def learnt(encoded: Encoded) -> list[str]:
    """What each window learns to answer; "" for none."""
    windows = encoded.windows
    assert windows is not None
    pairs = enumerate(windows.rows.labels.tolist())
    return [windows.text(window, *places) if places != [0, 0] else "" for window, places in pairs]


# Rows


def test_a_place_may_be_a_float_that_is_whole() -> None:
    answers = {"text": ["Oslo"], "answer_start": [13.0]}
    assert questions._answers(answers, "row 0") == [("Oslo", 13)]
    with pytest.raises(RequestError, match=r"13\.5, which is no whole number"):
        questions._answers(answers | {"answer_start": [13.5]}, "row 0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": {"text": ["Oslo"], "answer_start": [3]}}, r"row 1 .*answer_start 3 .*'Oslo'.*it stands at 49"),
        ({"answers": {"text": ["Oslo"], "answer_start": [-60]}}, "row 1 .*it stands at 49"),
        ({"answers": {"text": ["Paris"], "answer_start": [3]}}, "row 1 .*does not hold the answer.*correct the row"),
        ({"answers": {"text": [], "answer_start": []}}, r"row 1 .*has no answer .*take task=squad_v2"),
        ({"answers": None}, r"row 1 .*'answers' is empty, not \{text"),
        ({"answers": "Oslo"}, r"row 1 .*'answers' is 'Oslo', not \{text"),
        ({"answers": {"text": ["Oslo"], "answer_start": [49, 49]}}, "row 1 .*give one for each"),
        ({"answers": {"text": ["Oslo"], "answer_start": ["49"]}}, "row 1 .*'49', which is no whole number"),
        ({"answers": {"text": [" "], "answer_start": [5]}}, "row 1 .*has an empty text"),
        ({"answers": {"text": [5], "answer_start": [5]}}, "row 1 .*has 5, which is no text"),
        ({"answers": {"text": ["Oslo"]}}, "row 1 .*has no answer_start"),
        ({"question": "  "}, "row 1 .*'question' is empty"),
        ({"context": None}, "row 1 .*'context' is empty"),
        ({"context": 5}, "row 1 .*'context' is 5, not text"),
    ],
)
def test_a_row_that_would_teach_the_wrong_thing_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    write(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", [question(0), question(1) | change, question(2)])
    row = question(1)
    assert row["context"].index("Oslo") == 49
    with pytest.raises(RequestError, match=said):
        load(tmp_path)


def test_a_column_that_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(RequestError, match=r"no column 'passage' .*set task\.context_column"):
        load(tmp_path, "task.context_column=passage")
    other = [
        {"asked": r["question"], "context": r["context"], "answers": r["answers"]} for r in map(question, range(4))
    ]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", other)
    assert len(load(tmp_path, "task.question_column=asked").train) == 4


def test_a_file_of_version_2_given_to_squad_names_squad_v2(tmp_path: Path) -> None:
    write(tmp_path, v2=True)
    with pytest.raises(RequestError, match=r"row 0 .*task=squad has one for each question; take task=squad_v2"):
        load(tmp_path)
    found = load(tmp_path, v2=True)
    assert found.validation[0].groups[:3] == ("HasAns", "HasAns", "NoAns") and not found.train.groups
    assert found.validation[0].references[2] == () and found.train.labels[0].tolist() == [-1, -1]


@pytest.mark.parametrize("form", ["csv", "parquet", "json", "objects", "official"])
def test_every_form_of_file_holds_answers(form: str, tmp_path: Path) -> None:
    import pandas as pd

    write(tmp_path)
    expected = load(tmp_path)
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        (tmp_path / f"{split}.jsonl").unlink()
        if form == "csv":
            rows = [r | {"answers": json.dumps(r["answers"])} for r in rows]
            pd.DataFrame(rows).to_csv(tmp_path / f"{split}.csv", index=False)
        elif form == "parquet":
            pd.DataFrame(rows).to_parquet(tmp_path / f"{split}.parquet")
        else:
            if form != "json":  # as the official files have them
                keys = ("text", "answer_start")
                split_up = [
                    [dict(zip(keys, p, strict=True)) for p in zip(*r["answers"].values(), strict=True)] for r in rows
                ]
                rows = [r | {"answers": own} for r, own in zip(rows, split_up, strict=True)]
            if form == "official":
                qas = [
                    {"context": r["context"], "qas": [{k: r[k] for k in ("id", "question", "answers")}]} for r in rows
                ]
                halves = [{"title": "a", "paragraphs": qas[:5]}, {"title": "b", "paragraphs": qas[5:]}]
                rows = {"version": "1.1", "data": halves}
            (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    found = load(tmp_path)
    for own, its in ((found.train, expected.train), (found.validation[0], expected.validation[0])):
        assert own.texts == its.texts and own.references == its.references and (own.labels == its.labels).all()


def test_examples_are_questions_and_those_of_one_context_stay_together(tmp_path: Path) -> None:
    write(tmp_path, rows=12)
    found = load(tmp_path, "task.max_train_examples=5", "task.max_eval_examples=4")
    assert (len(found.train), len(found.validation[0])) == (5, 4)
    twins = [question(i) | {"question": asked} for i in range(30) for asked in ("Where?", "In which town?")]
    write_jsonl(tmp_path / "all.jsonl", twins)
    found = load(tmp_path, f"task.data_dir={tmp_path / 'all.jsonl'}", "task.validation_fraction=0.3")
    held = set(found.validation[0].texts[1])
    assert held and not held & set(found.train.texts[1]) and len(found.validation[0]) == 2 * len(held)


# Settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["task.max_length=150"], r"task\.max_length=150 has no room .*raise it above 196"),
        (["task.doc_stride=-1"], r"task\.doc_stride=-1 must not be negative"),
        (["task.n_best_size=0"], r"task\.n_best_size=0 must be at least 1"),
        (["task.regression=true"], r"task\.question_column=question .*task\.regression"),
        (["task.metrics=[squad_v2_f1]"], r"squad_v2_f1, which is of SQuAD 2\.0.*take task=squad_v2"),
        (["task.version_2_with_negative=true"], r"squad_f1, squad_exact_match, which is of SQuAD 1\.1"),
        (["task.metrics=[accuracy]"], "accuracy does not score a question_answering task"),
        (["train.label_smoothing=0.1"], "an answer has two places"),
        (["generation=beam"], "a question_answering task has none"),
        (["task.class_weights=balanced"], "this is a question_answering task"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: list[str], said: str) -> None:
    import re

    answer = refused("model=tiny_bert", "task=squad", *given)
    assert re.search(said, answer), answer


def test_spans_are_for_questions() -> None:
    assert "give task.question_column=question" in refused(
        "model=tiny_bert", "task=sst2", "task.version_2_with_negative=true"
    )


# Windows


def test_windows_share_the_stride_and_put_the_question_first() -> None:
    context = " ".join(f"word{i:03d}" for i in range(60))
    _, encoded = read([row(context, "word031")])
    windows = encoded.windows
    assert windows is not None and encoded.inputs is windows.rows and len(encoded) == 1
    marks, size = 3 + len("what?"), 96
    room = size - marks
    assert len(windows.of) == 1 + -(-(len(context) - room) // (room - 24))
    for number, (ids, places) in enumerate(zip(windows.rows.features["input_ids"], windows.places, strict=True)):
        assert len(ids) <= size and not places[: marks - 1].any()
        begin = number * (room - 24)
        assert places[marks - 1, 1] == begin + 1 and backbone.byte_tokenizer().decode(ids[1:6]) == "what?"
    assert windows.rows.examples.tolist() == [1] + [0] * (len(windows.of) - 1)


def test_a_window_that_does_not_hold_all_of_an_answer_learns_its_first_token() -> None:
    context = " ".join(f"word{i:03d}" for i in range(60))
    _, encoded = read([row(context, "word011 word012 word013")])
    said = learnt(encoded)
    assert set(said) == {"", "word011 word012 word013"} and len(said) > 3
    begin, end = context.index("word011"), context.index("word014") - 1
    for text, places in zip(said, encoded.windows.places, strict=True):  # type: ignore[union-attr]
        held = places[places[:, 1] > places[:, 0]]
        assert bool(text) == (held[0, 0] <= begin and held[-1, 1] >= end)
    _, long = read([row(context, context[40:300])])  # in no window whole
    assert set(learnt(long)) == {""}


@pytest.mark.parametrize(
    ("context", "text", "expected"),
    [
        ("It is  Oslo  here", "  Oslo  ", "Oslo"),
        ("a cafe\u0301 here", "cafe\u0301", "cafe\u0301"),
        ("er aß 🍕👍🏽 gern", "🍕👍🏽", "🍕👍🏽"),
        ("東京は日本の首都です", "日本", "日本"),
        ("\u2009thin\u3000wide\u00a0hard ", "wide\u00a0hard", "wide\u00a0hard"),
        ("Müller-Lüdenscheidt", "Lüdenscheidt", "Lüdenscheidt"),
    ],
)
def test_an_answer_is_a_slice_of_the_context_whatever_its_signs(context: str, text: str, expected: str) -> None:
    _, encoded = read([row(context, text)])
    assert learnt(encoded) == [expected] and expected in context


def test_marks_that_combine_stay_with_their_letter() -> None:
    """BERT drops accents, so its last token ends before one."""
    tokenizer = backbone.byte_tokenizer()
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    task = compose_run("model=tiny_bert", "task=squad", *SMALL).task
    context = "un cafe\u0301\u0302, deux"
    split = Split("t", (["?"], [context]), np.array([[3, 9]]), np.arange(1), (("cafe\u0301\u0302",),))
    encoded = spans.encode(split, task, tokenizer, 96)
    assert learnt(encoded) == ["cafe\u0301\u0302"]


def test_a_question_longer_than_its_limit_is_cut_and_counted() -> None:
    asked = "why " * 30
    _, encoded = read([row("a b c", "b", asked), row("a b c", "b")])
    ids = encoded.inputs.features["input_ids"][0]
    assert encoded.cut == 1 and backbone.byte_tokenizer().decode(ids[1:31]) == asked[:30]
    with pytest.raises(RequestError, match=r"row 0 .*a question of 30 tokens leaves 17 of 50 .*lower task\.doc_stride"):
        task = compose_run("model=tiny_bert", "task=squad", *SMALL).task
        split = Split("t", ([asked], ["a b c"]), np.array([[2, 3]]), np.arange(1), (("b",),))
        spans.encode(split, task, backbone.byte_tokenizer(), 50)


@pytest.mark.parametrize("most", [3, 4, 30, 31])
def test_a_question_is_cut_before_a_character_of_several_tokens(most: int) -> None:
    task = compose_run("model=tiny_bert", "task=squad", *SMALL[:-1], f"task.max_query_length={most}").task
    split = Split("t", (["\U0001f600" * 40], ["a b c"]), np.array([[2, 3]]), np.arange(1), (("b",),))
    encoded = spans.encode(split, task, backbone.byte_tokenizer(), most + 24 + 3 + 1)
    ids = encoded.inputs.features["input_ids"][0]
    assert encoded.cut == 1 and backbone.byte_tokenizer().decode(ids[1:]).count("\U0001f600") == most // 4


def test_a_context_of_more_than_a_thousand_tokens_is_read_whole() -> None:
    context = " ".join(f"w{i}" for i in range(400))
    _, encoded = read([row(context, "w399"), row("short one", "short")])
    windows = encoded.windows
    assert windows is not None and len(context) > 1000
    seen = np.zeros(len(context), bool)
    for places, of in zip(windows.places, windows.of, strict=True):
        for begin, end in places[places[:, 1] > places[:, 0]] if of == 0 else ():
            seen[begin:end] = True
    assert (seen == [c != " " for c in context]).all()
    said = learnt(encoded)
    assert said[-2:] == ["w399", "short"] and not any(said[:-2])
    again = encoded.take(np.array([1, 0]))
    assert again.windows is not None and learnt(again) == ["short", *said[:-1]]
    assert again.inputs.examples.sum() == 2 and again.windows.contexts == ["short one", context]


def test_each_place_of_a_context_is_central_in_one_window() -> None:
    """BERT's rule, by its own loop: the least of what stands before and behind, and a little for a longer window."""
    context = " ".join(f"word{i:03d}" for i in range(50))
    _, encoded = read([row(context, "word001")])
    windows = encoded.windows
    assert windows is not None
    inside = [[tuple(p) for p in places if p[1] > 0] for places in windows.places]
    room = 96 - 3 - len("what?")
    starts = [number * (room - 24) for number in range(len(inside))]
    for number, (central, places) in enumerate(zip(windows.central, windows.places, strict=True)):
        own = np.flatnonzero([i > 0 and i < len(places) - 1 and i > 6 for i in range(len(places))])
        for j, token in enumerate(own):
            at = starts[number] + j
            best, score = None, None
            for other, start in enumerate(starts):
                size = sum(1 for _ in windows.places[other]) - (3 + len("what?"))
                if not start <= at < start + size:
                    continue
                value = min(at - start, start + size - 1 - at) + 0.01 * size
                if score is None or value > score:
                    best, score = other, value
            assert bool(central[token]) == (best == number), (number, j)


def test_a_tokenizer_without_places_is_refused_by_name() -> None:
    class Slow:
        is_fast = False

    task = compose_run("model=tiny_bert", "task=squad").task
    split = Split("t", (["?"], ["a"]), np.zeros((1, 2), np.int64), np.arange(1), ((),))
    with pytest.raises(RequestError, match=r"tokenizer \(Slow\) does not say where .*tokenizer\.json"):
        spans.encode(split, task, Slow(), 96)


def test_windows_are_kept_on_disk_as_they_are_tokenised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankbench.tasks.token_cache.LEAST", 0)
    rows = [row(" ".join(f"word{i:03d}" for i in range(60)), "word031"), row("a b", "b")]
    _, plain = read(rows)
    for _ in range(2):
        _, kept = read(rows, ids=Kept(tmp_path))
        assert kept.windows is not None and plain.windows is not None and (kept.windows.of == plain.windows.of).all()
        for own, its in ((kept.windows.places, plain.windows.places), (kept.windows.central, plain.windows.central)):
            assert all((a == b).all() for a, b in zip(own, its, strict=True))
        batch, other = (collate(one.inputs, np.arange(2), 0) for one in (kept, plain))
        assert all((batch[key] == other[key]).all() for key in other) and "labels" not in batch
    assert len(list(tmp_path.glob("*.npz"))) == 1


@pytest.mark.skipif(not (REAL_DATA / "squad").is_dir(), reason="SQuAD's rows lie beside the repository")
@pytest.mark.parametrize("name", ["squad", "squad_v2"])
def test_windows_learn_the_answers_of_real_rows(name: str, tmp_path: Path) -> None:
    end = "_v2" if name == "squad_v2" else ""
    for split in ("train", "validation"):
        lines = (REAL_DATA / "squad" / f"{split}{end}.jsonl").read_text().splitlines()[:120]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    task = compose_run("model=tiny_bert", f"task={name}", f"task.data_dir={tmp_path}").task
    found = data.load(task).train
    encoded = spans.encode(found, task, backbone.byte_tokenizer(), 384)
    assert encoded.windows is not None
    for own, window in zip(learnt(encoded), encoded.windows.of, strict=True):
        assert not own or own == found.references[window][0].strip()
    held = {int(window) for own, window in zip(learnt(encoded), encoded.windows.of, strict=True) if own}
    assert {row for row, own in enumerate(found.references) if own} == held
