"""A tokenizer and a model that do not fit are refused when loaded, and no text is longer than the positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_run, sentences, tiny_overrides, write_jsonl, write_tiny
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rankbench.errors import RequestError
from rankbench.models import backbone, fit
from rankbench.runs.life import execute
from rankbench.settings.model import Model

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
POSITIONS = {
    "bert": (40, 40),
    "roberta": (40, 38),
    "xlm-roberta": (40, 38),
    "camembert": (40, 38),
    "xlm-roberta-xl": (40, 38),
    "data2vec-text": (40, 38),
    "roberta-prelayernorm": (40, 38),
    "mpnet": (40, 38),
    "longformer": (40, 38),
    "distilbert": (40, 40),
    "electra": (40, 40),
    "gpt2": (40, 40),
    "opt": (40, 40),
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_a_text_of_all_positions_is_read_and_one_token_more_is_not(kind: str) -> None:
    given, expected = POSITIONS[kind]
    settings = SMALL | {"vocab_size": 50, "max_position_embeddings": given, "n_positions": given, "pad_token_id": 1}
    settings |= {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "n_embd": 32, "n_head": 2, "n_layer": 1}
    settings |= {"attention_window": [4], "word_embed_proj_dim": 32, "ffn_dim": 32} | {"embedding_size": 32}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **settings)).eval()
    found = fit.positions(model)
    assert found == expected
    ids = torch.full((1, found), 5)
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        if kind not in ("longformer",):  # which pads itself to whole windows
            with pytest.raises((IndexError, RuntimeError)):
                model(
                    input_ids=torch.full((1, found + 1), 5), attention_mask=torch.ones(1, found + 1, dtype=torch.long)
                )


def saved(folder: Path, rows: int, causal: bool = True, **marks: Any) -> Path:
    """A tiny model with `rows` embeddings beside a byte tokenizer with these marks set or taken away."""
    kind = "llama" if causal else "bert"
    config = AutoConfig.for_model(kind, **SMALL, vocab_size=rows, max_position_embeddings=64, pad_token_id=0)
    (AutoModelForCausalLM if causal else AutoModelForSequenceClassification).from_config(config).save_pretrained(folder)
    tokenizer = backbone.byte_tokenizer()
    for name, value in marks.items():
        setattr(tokenizer, name, value) if value is None else tokenizer.add_special_tokens({name: value})
    tokenizer.save_pretrained(folder)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    for name in [name for name, value in marks.items() if value is None]:
        written.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    return folder


@pytest.mark.parametrize(
    ("rows", "causal", "marks", "said"),
    [
        (259, True, {"pad_token": "<new>"}, r"pad_token '<new>' .* is number 259, .* for 0 to 258; .*resize"),
        (259, False, {"pad_token": "<new>"}, r"pad_token '<new>' .* is number 259, .* for 0 to 258; .*resize"),
        (200, True, {}, r"token .* embeddings for 0 to 199"),
        (259, True, {"pad_token": None, "eos_token": None}, r"neither pad_token nor eos_token"),
        (259, True, {"eos_token": None}, r"no eos_token, so no response could end"),
    ],
)
def test_marks_that_do_not_fit_are_refused_when_loading(
    rows: int, causal: bool, marks: dict[str, Any], said: str, tmp_path: Path
) -> None:
    place = saved(tmp_path, rows, causal, **marks)
    if rows == 200:
        tokenizer = AutoTokenizer.from_pretrained(place)
        model = AutoModelForCausalLM.from_pretrained(place)
        split = type("Split", (), {"name": "train", "index": [7], "features": {"input_ids": [[3, 4, 210]]}})
        with pytest.raises(RequestError, match=r"train row 7 .*" + said):
            fit.check_ids([split], model, tokenizer)
        return
    with pytest.raises(RequestError, match=said):
        backbone.load(Model(name="own", path=str(place)), None if causal else 2, False, 0)


def test_a_mark_without_a_row_that_is_never_used_is_no_reason_to_refuse(tmp_path: Path) -> None:
    place = saved(tmp_path, 259, additional_special_tokens=["<image>"])
    assert backbone.load(Model(name="own", path=str(place)), None, False, 0).tokenizer.pad_token_id == 0


def test_texts_are_cut_to_what_a_kin_of_roberta_reads(tmp_path: Path) -> None:
    """It has 40 positions, of which it can use 38."""
    config = AutoConfig.for_model("mpnet", **SMALL, vocab_size=259, max_position_embeddings=40, pad_token_id=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    backbone.byte_tokenizer().save_pretrained(tmp_path / "model")
    data = write_tiny(tmp_path / "data")
    write_jsonl(data / "train.jsonl", [row | {"text": row["text"] * 4} for row in sentences(24)])
    words = ["adapter.target_modules=[q,v]", f"model.path={tmp_path / 'model'}", "task.max_length=128"]
    assert execute(compose_run(*tiny_overrides(data, tmp_path / "runs"), *words))["status"] == "done"


def test_an_adapter_in_the_models_folder_is_refused(tmp_path: Path) -> None:
    place = saved(tmp_path, 259)
    (place / "adapter_config.json").write_text("{}")
    with pytest.raises(RequestError, match=r"holds a PEFT adapter .* merge it into the weights, or move it elsewhere"):
        backbone.load(Model(name="own", path=str(place)), None, False, 0)


def test_code_of_the_models_own_is_refused_with_the_setting_that_allows_it(tmp_path: Path) -> None:
    place = saved(tmp_path, 259)
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "ours", "auto_map": {"AutoConfig": "code.Ours", "AutoModelForCausalLM": "code.Model"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "code.py").write_text("raise SystemExit('it ran')")
    for load in (lambda model: backbone.load(model, None, False, 0), lambda model: backbone.config_of(model, None)):
        with pytest.raises(RequestError, match=r"code of its own.*model\.trust_remote_code=true"):
            load(Model(name="own", path=str(place)))
