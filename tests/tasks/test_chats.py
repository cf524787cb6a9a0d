"""Conversations: the chat template makes the tokens, and the assistant's turns alone are learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chat_templates import (
    CHATML,
    DATED,
    ENDLESS,
    FORGETS,
    HEADLESS,
    LLAMA2,
    MARKED,
    SHORT_BLOCK,
    STRICT,
    THINKS,
    tokenizer,
)
from conftest import compose_run, refused, write_jsonl

from rankbench.errors import RequestError
from rankbench.settings.identity import identity
from rankbench.tasks import chat_template, data, token_cache
from rankbench.tasks.encoding import IGNORED, Encoded, collate, encode_prompts, encode_responses, packed
from rankbench.tasks.splits import Split
from rankbench.tasks.token_cache import Kept
from rankbench.tasks.unlabelled import check_names, unlabelled

Chat = list[dict[str, str]]


def turns(*texts: str, system: str | None = None, first: str = "user") -> Chat:
    """A conversation in which user and assistant take turns."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    begin = [] if system is None else [{"role": "system", "content": system}]
    return begin + [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def folder_of(place: Path, *rows: Any, column: str = "messages") -> Path:
    for split in ("train", "validation"):
        write_jsonl(place / f"{split}.jsonl", [{column: row} for row in rows])
    return place


def loaded(place: Path, *words: str) -> Split:
    return data.load(compose_run("model=tiny_llama", "task=chat", f"task.data_dir={place}", *words).task).train


def encoded(chat: Chat, template: str, place: Path, *words: str, **kind: bool) -> tuple[Encoded, Any]:
    made = tokenizer(template, **kind)
    return encode_responses(loaded(folder_of(place, chat), *words), made, 512), made


def learnt(found: Encoded, made: Any) -> tuple[str, list[str]]:
    """A row as text, and its scored stretches."""
    ids, labels = found.features["input_ids"][0], found.features["labels"][0]
    stretches: list[list[int]] = [[]]
    for token, label in zip(ids, labels, strict=True):
        assert label in (IGNORED, token)
        if label == IGNORED:
            stretches.append([])
        else:
            stretches[-1].append(token)
    return made.decode(ids), [made.decode(own) for own in stretches if own]


# Which tokens are learnt

TALKS: dict[str, Chat] = {
    "one": turns("hi", "hello there"),
    "several": turns("hi", "hello", "more", "yes, more", "end", "bye"),
    "system": turns("hi", "hello", "again", "hi", system="be brief"),
    "first": turns("welcome", "hi", "hello", first="assistant"),
    "blanks": turns("hi", "\n hello \n", "  \n", " bye\n\n"),
    "others": turns("grüß dich", "hé 👋", "你好", "再见"),
}


WAYS = {
    "plain": (CHATML, {}),
    "merges": (CHATML, {"merges": True}),
    "prefix": (CHATML, {"prefix": True}),
    "marked": (MARKED, {}),
    "marked-prefix": (MARKED, {"prefix": True}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("talk", TALKS)
def test_the_answers_and_their_end_marks_are_learnt_and_nothing_else(talk: str, way: str, tmp_path: Path) -> None:
    (template, kind), chat = WAYS[way], TALKS[talk]
    found, made = encoded(chat, template, tmp_path, **kind)
    text, scored = learnt(found, made)
    spoken = [f"{message['content']}[SEP]" for message in chat if message["role"] == "assistant"]
    space = " " if kind.get("prefix") else ""
    expected = "".join(f"[CLS]{space}{m['role']}\n{m['content']}[SEP]{space}\n" for m in chat)
    assert text == expected.removesuffix(f"{space}\n")
    assert scored == spoken


@pytest.mark.parametrize("talk", [talk for talk in TALKS if talk != "blanks"])
@pytest.mark.parametrize("kind", [{}, {"prefix": True}], ids=["bytes", "prefix"])
def test_a_template_with_and_one_without_generation_marks_learn_the_same(
    talk: str, kind: dict[str, bool], tmp_path: Path
) -> None:
    (one, _), (other, _) = (
        encoded(TALKS[talk], template, tmp_path / str(place), **kind) for place, template in enumerate((CHATML, MARKED))
    )
    assert one.features == other.features and one.prompts == other.prompts
    assert one.references == other.references == ((TALKS[talk][-1]["content"].strip(),),)


@pytest.mark.parametrize("kind", [{}, {"prefix": True}], ids=["bytes", "prefix"])
def test_a_template_that_writes_the_beginning_mark_has_it_once(kind: dict[str, bool], tmp_path: Path) -> None:
    found, made = encoded(turns("a", "b", "c", "d"), LLAMA2, tmp_path, **kind)
    made.bos_token = "[PAD]"
    text, scored = learnt(found, made)
    space = " " if kind.get("prefix") else ""
    assert text == f"[PAD]{space}[INST] a [/INST] b [SEP]{space}[INST] c [/INST] d [SEP]"
    assert scored == [" b [SEP]", " d [SEP]"] and found.features["input_ids"][0].count(made.bos_token_id) == 1


@pytest.mark.parametrize("template", [CHATML, MARKED, LLAMA2], ids=["plain", "marked", "llama2"])
@pytest.mark.parametrize("kind", [{}, {"merges": True}, {"prefix": True}], ids=["bytes", "merges", "prefix"])
def test_an_answer_is_generated_from_what_stock_code_renders(
    template: str, kind: dict[str, bool], tmp_path: Path
) -> None:
    chat = turns("hi", "hello", "more", "yes")
    found, made = encoded(chat, template, tmp_path, **kind)
    stock = made.apply_chat_template(chat[:-1], add_generation_prompt=True)["input_ids"]
    asked = unlabelled(compose_run("model=tiny_llama", "task=chat").task, ["messages"], [[chat], [chat[:-1]]], "rows")
    assert found.prompts == [stock] and encode_prompts(asked, made) == [stock, stock]
    assert found.features["input_ids"][0][: len(stock)] == stock


def test_a_token_over_the_border_is_parted_so_that_generation_sees_what_training_saw(tmp_path: Path) -> None:
    found, made = encoded(turns("hi", "\nhello", "a", "b"), CHATML, tmp_path, merges=True)
    ids, merged = found.features["input_ids"][0], made.convert_tokens_to_ids("\n\n")
    assert merged not in ids and merged in made.apply_chat_template(turns("hi", "\nhello"))["input_ids"]
    assert learnt(found, made)[1] == ["\nhello[SEP]", "b[SEP]"]


def test_what_follows_the_last_answer_is_left_out(tmp_path: Path) -> None:
    one, _ = encoded(turns("hi", "hello", "thanks"), CHATML, tmp_path / "a")
    other, _ = encoded(turns("hi", "hello"), CHATML, tmp_path / "b")
    assert one.features == other.features and one.prompts == other.prompts


def test_a_system_prompt_goes_before_what_begins_with_none(tmp_path: Path) -> None:
    split = loaded(folder_of(tmp_path, turns("a", "b"), turns("a", "b", system="own")), "task.system=be brief")
    assert [chat[0]["content"] for chat in split.chats] == ["be brief", "own"] and len(split.chats[1]) == 3


def test_rows_are_cut_at_max_length_and_refused_where_no_answer_begins_before_it(tmp_path: Path) -> None:
    chat = turns("hi", "hello", "more", "yes")
    whole, made = encoded(chat, CHATML, tmp_path)
    split, ids = loaded(tmp_path), whole.features["input_ids"][0]
    first = next(i for i, label in enumerate(whole.features["labels"][0]) if label != IGNORED)
    for length in (len(ids), len(ids) - 1, len(whole.prompts[0]) - 1, first + 1):
        cut = encode_responses(split, made, length)
        assert cut.features["input_ids"] == [ids[:length]] and cut.cut == (length < len(ids))
        assert cut.features["labels"] == [whole.features["labels"][0][:length]] and cut.prompts == whole.prompts
    with pytest.raises(RequestError, match=rf"train row 0 \(from 0\): a prompt of {first} tokens leaves no room"):
        encode_responses(split, made, first)


def test_packed_conversations_keep_every_target(tmp_path: Path) -> None:
    split = loaded(folder_of(tmp_path, *TALKS.values()))
    rows = encode_responses(split, tokenizer(CHATML), 512)
    together = packed(rows, 512)
    assert len(together) < len(rows) and together.targets.sum() == rows.targets.sum()
    for ids, labels, positions in zip(
        *(together.features[k] for k in ("input_ids", "labels", "position_ids")), strict=True
    ):
        assert all(label == IGNORED for label, place in zip(labels, positions, strict=True) if place == 0)
        assert all(label in (IGNORED, token) for label, token in zip(labels, ids, strict=True))
    batch = collate(rows, np.arange(len(rows)), 0)
    assert (batch["labels"] != IGNORED).sum() == rows.targets.sum()


# The template


@pytest.mark.parametrize(
    ("template", "chat", "said"),
    [
        (None, turns("a", "b"), "the model's tokenizer has no chat template.*chat_template.jinja"),
        (FORGETS, turns("a", "<think>x</think>b", "c", "d"), r"row 0 .*writes turn 1 \(from 0\) otherwise.*generation"),
        (THINKS, turns("a", "b"), r"row 0 .*with turn 1 .*writes another text before the answer.*generation"),
        (ENDLESS, turns("a", "b"), r"no end mark after the assistant's turn.*eos_token"),
        (HEADLESS, turns("a", "b"), "writes no header of the assistant.*add_generation_prompt"),
        (SHORT_BLOCK, turns("a", "b"), "leaves out a turn's end mark.*endgeneration"),
        (STRICT, turns("a", "b", system="s"), r"train row 0 .*refuses it \(no system here\)"),
        (
            MARKED.replace("[CLS]{{ m", "{{ m['no']['way'] }}{{ m"),
            turns("a", "b"),
            "refuses a question with its answer",
        ),
        (STRICT, turns("b", "a", "c", first="assistant"), r"train row 0 .*refuses it .*element 0"),
    ],
)
def test_a_template_that_cannot_serve_is_refused(template: str | None, chat: Chat, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        encode_responses(loaded(folder_of(tmp_path, chat)), tokenizer(template), 512)


def test_a_template_that_forgets_learns_a_conversation_where_it_forgets_nothing(tmp_path: Path) -> None:
    found, made = encoded(turns("a", "b", "c", "<think>x</think>d"), FORGETS, tmp_path)
    assert learnt(found, made)[1] == ["b[SEP]", "<think>x</think>d[SEP]"]


def test_one_of_several_templates_is_the_default_one(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    made.chat_template = {"default": CHATML, "tool_use": ENDLESS}
    split = loaded(folder_of(tmp_path, turns("a", "b")))
    assert learnt(encode_responses(split, made, 512), made)[1] == ["b[SEP]"]
    made.chat_template = {"other": CHATML}
    with pytest.raises(RequestError, match="has no chat template"):
        encode_responses(split, made, 512)


def test_a_turn_ends_with_the_templates_own_mark() -> None:
    made = tokenizer(CHATML.replace("[SEP]", "<|turn|>"))
    made.add_tokens(["<|turn|>"], special_tokens=True)
    assert chat_template.turn_end(made) == made.convert_tokens_to_ids("<|turn|>") != made.eos_token_id
    run = compose_run("model=tiny_llama", "task=chat", "task.data_dir=.")
    assert chat_template.ends(run.task, made) == {chat_template.turn_end(made)}
    assert chat_template.ends(compose_run("model=tiny_llama", "task=instruction").task, made) == frozenset()


def test_a_template_with_the_date_is_told_of() -> None:
    assert chat_template.dated(tokenizer(DATED)) and not chat_template.dated(tokenizer(CHATML))


def test_kept_tokens_are_those_of_the_template_and_the_system_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "LEAST", 1)
    place, kept = folder_of(tmp_path / "data", turns("hi", "hello")), Kept(tmp_path / "tokens")
    asked = [
        (CHATML, "task.system=null"),
        (CHATML, "task.system=be brief"),
        (CHATML.replace("[CLS]", "[CLS]the "), "task.system=null"),
    ]
    for template, system in asked * 2:
        split, made = loaded(place, system), tokenizer(template)
        assert encode_responses(split, made, 300, kept).features == encode_responses(split, made, 300).features
    assert len(list((tmp_path / "tokens").glob("*.npz"))) == 6  # of each the texts whole, and in parts


# The data


def test_conversations_may_be_sharegpts_parts_of_text_or_json_in_a_cell(tmp_path: Path) -> None:
    chat = turns("hi", "hello", system="s")
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    share = [{"from": names[m["role"]], "value": m["content"]} for m in chat]
    parts = [m | {"content": [{"type": "text", "text": part} for part in m["content"]]} for m in chat]
    empty = [m | {"tool_calls": None, "name": "x", "weight": 1} for m in chat]
    split = loaded(folder_of(tmp_path, chat, share, parts, empty, json.dumps(chat)))
    assert list(split.chats) == [chat] * 5
    pd.DataFrame({"messages": [chat, share]}).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "train.jsonl").unlink()
    assert list(loaded(tmp_path).chats) == [chat] * 2
    task = compose_run("model=tiny_llama", "task=chat", "task.data_dir=.").task
    frame = pd.read_parquet(tmp_path / "train.parquet")
    assert unlabelled(task, ["messages"], frame.to_numpy().tolist(), "x").chats == (chat[:-1],) * 2


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (None, "'messages' is empty"),
        ([], "'messages' is empty"),
        ("hello", "'messages' is a text, not a list of messages"),
        (7, "'messages' is 7, not a list"),
        (["hi"], r"message 0 \(from 0\) is 'hi', not an object"),
        ([{"role": "narrator", "content": "x"}], "has the role 'narrator'; known are system, user, assistant"),
        ([{"content": "x"}], "has the role None"),
        ([{"from": ["gpt"], "value": "x"}], "has the role"),
        ([{"role": "developer", "content": "x"}], "'developer'; call it system"),
        ([{"role": "tool", "content": "x"}], "'tool'; calls of tools are not learnt"),
        ([{"from": "function_call", "value": "x"}], "calls of tools are not learnt"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}], "has tool_calls, which is not learnt"),
        ([{"role": "assistant", "content": "x", "reasoning_content": "y"}], "has reasoning_content"),
        ([{"role": "user", "content": None}], "its content is empty"),
        ([{"role": "user", "content": 5}], "its content is 5, not text"),
        ([{"from": "human", "content": "x"}], "its value is empty"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "a part of type 'image_url', not text"),
        ([*turns("a", "b"), {"role": "assistant", "content": "x", "weight": 0}], "has weight 0"),
        (turns("a"), "no turn is the assistant's"),
        (turns("a", " \n"), "an assistant's turn is empty"),
        (turns("a", "", "b", "c"), "an assistant's turn is empty"),
    ],
)
def test_a_row_that_is_no_conversation_is_named(cell: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"train.jsonl row 1 \(from 0\).*{said}"):
        loaded(folder_of(tmp_path, turns("a", "b"), cell))


def test_a_column_of_another_name_is_named(tmp_path: Path) -> None:
    chat = turns("a", "b")
    with pytest.raises(RequestError, match=r"no column 'messages'.*set task.messages_column=conversations"):
        loaded(folder_of(tmp_path, chat, column="conversations"))
    assert loaded(tmp_path, "task.messages_column=conversations").chats == (chat,)
    task = compose_run("model=tiny_llama", "task=chat", "task.data_dir=.").task
    with pytest.raises(RequestError, match="no column 'messages'"):
        check_names(task, ["text"], "rows.jsonl")


def test_held_out_conversations_stay_together(tmp_path: Path) -> None:
    rows = [{"messages": turns(f"say {i % 20}", f"{i % 20}")} for i in range(60)]
    write_jsonl(tmp_path / "all.jsonl", rows)
    words = (f"task.data_dir={tmp_path / 'all.jsonl'}", "task.validation_fraction=0.3")
    found = data.load(compose_run("model=tiny_llama", "task=chat", *words).task)
    held, kept = set(found.validation[0].texts[0]), set(found.train.texts[0])
    assert held and kept and not held & kept and len(found.train) + len(found.validation[0]) == 60


# Instructions as chats


@pytest.fixture
def instructions(tmp_path: Path) -> Callable[..., Split]:
    rows = [{"instruction": "say", "input": "x", "output": "yes"}, {"instruction": "do", "input": "", "output": ""}]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows)

    def load(*words: str) -> Split:
        words = ("model=tiny_llama", "task=instruction", f"task.data_dir={tmp_path}", *words)
        return data.load(compose_run(*words).task).train

    return load


def test_instructions_become_turns(instructions: Callable[..., Split]) -> None:
    templates = "task.prompts=['{instruction}: {input}','{instruction}']"
    split, plain = instructions(templates, "task.template=chat"), instructions(templates)
    assert split.chats == (turns("say: x", "yes"), turns("do", "")) and plain.chats == ()
    assert split.texts == plain.texts and split.references == plain.references
    found, made = encode_responses(split, tokenizer(CHATML), 99), tokenizer(CHATML)
    assert learnt(found, made) == ("[CLS]user\nsay: x[SEP]\n[CLS]assistant\nyes[SEP]", ["yes[SEP]"])
    assert made.decode(found.features["input_ids"][1]) == "[CLS]user\ndo[SEP]\n[CLS]assistant\n[SEP]"
    system = instructions(templates, "task.template=chat", "task.system=s")
    assert system.chats[0] == turns("say: x", "yes", system="s")


def test_a_chat_is_another_run_and_what_was_there_before_is_the_same() -> None:
    def of(*words: str) -> Any:
        return identity(compose_run("model=tiny_llama", *words), {"model": "m", "task": "t"})["task"]

    plain = of("task=instruction")
    assert not {"template", "system", "messages_column"} & plain.keys()
    assert of("task=instruction", "task.template=plain", "task.system=null") == plain
    assert of("task=instruction", "task.template=chat") == plain | {"template": "chat"}
    assert of("task=chat", "task.system=s") == of("task=chat") | {"system": "s"} != plain


def test_a_template_in_a_file_of_its_own_makes_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    folder_of(tmp_path / "data", turns("a", "b"))
    words = ("model=tiny_llama", f"model.path={tmp_path}", f"task.data_dir={tmp_path / 'data'}")

    def of(*more: str) -> Any:
        return identity(compose_run(*words, *more))

    before = of("task=chat"), of("task=instruction")
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    after = of("task=chat"), of("task=instruction")
    assert before[0] != after[0] and before[1] == after[1]
    (tmp_path / "chat_template.jinja").write_text(MARKED)
    assert of("task=chat") != after[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=chat", "task.prompts=['{a}']", "task.response='{b}'"], "holds whole conversations, and task.prompts"),
        (["task=chat", "task.response='{b}'"], "holds whole conversations, and task.response"),
        (["task=chat", "task.template=plain"], "give task.template=chat"),
        (["task=chat", "task.messages_column=null"], "task.template=chat is for a language model"),
        (["task=chat", "task.messages_column=' '"], "task.messages_column names no column"),
        (["task=classification", "task.template=chat"], "this is a classification task"),
        (["task=instruction", "task.system=hi"], "task.system is the system prompt of a chat"),
        (["task=chat", "task.system=' '"], "task.system is empty"),
        (["task=chat", "task.template=chatml"], "task.template"),
        (["task=chat", "task.metrics=[accuracy]"], "accuracy does not score a causal_lm task"),
        (["task=chat", "task.max_new_tokens=0"], "task.max_new_tokens=0 must be at least 1"),
    ],
)
def test_settings_that_contradict_are_refused(words: list[str], said: str) -> None:
    assert said in refused("model=tiny_llama", *words)
