"""What a language model is shipped as generates as it was scored, however its base was set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import compose_run, sample, write_jsonl
from test_export import base_folder, train

from rankbench.shipping import card
from rankbench.shipping.export import export
from rankbench.shipping.loading import load

SAMPLING = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "eos_token_id": [2, 5],
    "bos_token_id": 1,
}
CONTRADICTING = {"do_sample": False, "temperature": 0.7, "top_p": 0.8, "eos_token_id": [2, 5]}
LM = ("model=tiny_llama", "task=instruction")
WORDS = ("task=instruction", "task.metrics=[exact_match,loss]", "task.max_new_tokens=6", "train.max_steps=1")


def trained(root: Path, settings: dict[str, Any], *words: str) -> Path:
    """A run over a base of these settings."""
    base = base_folder(root / "base", "tiny_llama")
    (base / "generation_config.json").write_text(json.dumps(settings))
    rows = [{"instruction": f"repeat {word}", "input": "", "output": word} for word in ("sun", "moon", "sky", "sea")]
    for split in ("train", "validation"):
        write_jsonl(root / "lm" / f"{split}.jsonl", rows)
    return train(root, "tiny_llama", *WORDS, f"task.data_dir={root / 'lm'}", *words, base=base).folder


def check(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = json.loads((folder / "generation_config.json").read_text())
    assert said["eos_token_id"] == [2, 5] and said["pad_token_id"] == 0 and said["max_new_tokens"] == 6
    assert not {"temperature", "top_p", "top_k", "repetition_penalty", "no_repeat_ngram_size"} & said.keys()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("repeat sun", return_tensors="pt")
    first, again = (model.generate(**ids) for _ in range(2))
    assert torch.equal(first, again)
    assert "It generates as it was scored: greedily, at most 6 tokens." in (folder / "README.md").read_text()


@pytest.mark.parametrize("settings", sample([SAMPLING, CONTRADICTING], CONTRADICTING))
@pytest.mark.parametrize("adapter", sample(["dylora", "full", "flop", "early_exit"], "dylora", "full"))
def test_a_whole_model_is_shipped_with_what_it_was_scored_with(
    tmp_path: Path, settings: dict[str, Any], adapter: str
) -> None:
    words = {"flop": ["adapter.r=4"], "early_exit": ["adapter.exits=[1,2]"]}.get(adapter, [])
    words = [f"adapter={adapter}", *words]
    run = trained(tmp_path, settings, *words)
    export(run, tmp_path / "out", merge=adapter == "dylora", depth=1 if adapter == "early_exit" else None)
    check(tmp_path / "out")


def test_a_whole_model_of_an_earlier_run_is_too(tmp_path: Path) -> None:
    """It kept the settings of its base in its own folder."""
    run = trained(tmp_path, SAMPLING, "adapter=full")
    shutil.copyfile(tmp_path / "base" / "generation_config.json", run / "adapter" / "generation_config.json")
    export(run, tmp_path / "out")
    check(tmp_path / "out")


def test_a_loaded_run_generates_greedily_and_an_adapters_card_says_how(tmp_path: Path) -> None:
    run = trained(tmp_path, SAMPLING)
    settings = load(run).generation_config
    assert not settings.do_sample and settings.repetition_penalty in (None, 1.0) and settings.eos_token_id == [2, 5]
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`do_sample=False, repetition_penalty=1.0, max_new_tokens=6`" in card
    assert not (tmp_path / "out" / "generation_config.json").exists()


@pytest.mark.parametrize("mark", ["[SEP]", "%", "\n"])
def test_a_response_with_an_end_mark_in_it_is_told_of_before_training(tmp_path: Path, mark: str) -> None:
    """The tokenizer's own mark, and one that the base's settings name; a line break is neither."""
    base = base_folder(tmp_path / "base", "tiny_llama")
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(base)("%", add_special_tokens=False)["input_ids"]
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, *other]}))
    row = {"instruction": "say", "input": "", "output": "fine"}
    write_jsonl(tmp_path / "lm" / "train.jsonl", [row, row | {"output": f"fine{mark} thanks"}, row])
    write_jsonl(tmp_path / "lm" / "validation.jsonl", [row | {"output": f"fine{mark}"}, row | {"input": mark}])
    done = train(tmp_path, "tiny_llama", *WORDS, f"task.data_dir={tmp_path / 'lm'}", base=base)
    lines = (done.folder / "run.log").read_text().splitlines()
    told = [line for line in lines if "end mark" in line]
    if mark == "\n":
        assert told == []
        return
    assert f"train: 1 of 3 responses hold an end mark ({mark}); generation stops there" in told[0]
    assert "validation: 1 of 2 responses hold" in told[1] and len(told) == 2
    assert lines.index(told[1]) < next(i for i, line in enumerate(lines) if "train 3 examples" in line)


BEAM = ("generation=beam", "generation.num_beams=3", "generation.length_penalty=0.5", "generation.min_new_tokens=2")
DRAWN = ("generation=sample", "generation.temperature=0.5")


@pytest.mark.parametrize("words", sample([BEAM, DRAWN], BEAM), ids=" ".join)
def test_a_run_that_searches_or_draws_is_predicted_and_shipped_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = trained(tmp_path, SAMPLING, *words)
    record = json.loads((run / "record.json").read_text())
    assert {sub["generated"]["decoding"] for sub in record["submodels"]} == {str(compose_run(*LM, *words).generation)}
    kept = pd.read_parquet(run / "predictions.parquet").query("rank == 2").sort_values("index")["prediction"].tolist()
    rows = pd.read_json(tmp_path / "lm" / "validation.jsonl", lines=True).to_dict("records")
    assert load(run, rank=2).predict(rows) == load(run, rank=2).predict(rows[:1]) + kept[1:] == kept
    export(run, tmp_path / "out", 2, merge=True)
    from transformers import AutoModelForCausalLM

    settings = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    said = (tmp_path / "out" / "README.md").read_text()
    if words == DRAWN:
        assert settings.do_sample and settings.temperature == 0.5 and settings.top_k == 0
        assert "It generates as it was scored: by `sample temperature=0.5`, at most 6 tokens." in said
        return
    assert (settings.num_beams, settings.length_penalty, settings.min_new_tokens) == (3, 0.5, 2)
    assert "as it was scored: by `beam num_beams=3 length_penalty=0.5 min_new_tokens=2`, at most 6 tokens." in said


@pytest.mark.parametrize("form", ["adapter", "whole model"])
def test_what_transformers_cannot_say_of_it_the_card_says(form: str) -> None:
    words = [
        "generation.no_repeat_ngram_size=3",
        "generation.no_repeat_ngram_of=generated",
        "generation.stop_texts=[.]",
    ]
    found = SimpleNamespace(run=compose_run(*LM, *words))
    said = card._decoding(found, SimpleNamespace(form=form))
    assert "(no_repeat_ngram_of and stop_texts are not transformers': `rankbench.load` has them)" in said
    assert form != "adapter" or "`do_sample=False, repetition_penalty=1.0, max_new_tokens=64`" in said
