"""`model=auto` over a folder of every family that PEFT adapts: trained, scored at every rank, shipped to stock PEFT."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import BAD, GOOD, compose_run, sample, write_jsonl, write_tiny
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rankbench.errors import RequestError
from rankbench.models import backbone
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import export
from rankbench.shipping.loading import load
from rankbench.training import loop

SHAPE: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
OWN: dict[str, dict[str, Any]] = {  # what a family calls otherwise, or has beside
    "electra": {"embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128},
    "bloom": {"n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "albert": {"embedding_size": 32},
    "longformer": {"attention_window": [8, 8]},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 2},
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma"), GROUPED),
}
KIN = (
    "xlm-roberta",
    "albert",
    "deberta",
    "longformer",
    "big_bird",
    "phi3",
    "gemma",
    "mixtral",
    "gpt_neo",
    "olmo2",
    "gptj",
)
ENCODERS = ("bert", "roberta", "deberta-v2", "electra", "distilbert", "mpnet", "modernbert")
DECODERS = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi"),
    *("gpt2", "gpt_neox", "opt", "falcon", "bloom"),
)


def folder(place: Path, family: str, kind: Any = None) -> Path:
    """A tiny random model as its makers leave it on the hub: an encoder without the head of any task."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **SHAPE | OWN.get(family, {}))
    kind = kind or (AutoModelForMaskedLM if family in ENCODERS else AutoModelForCausalLM)
    kind.from_config(config).save_pretrained(place)
    backbone.byte_tokenizer().save_pretrained(place)
    return place


def asked(root: Path, base: Path, task: str, *words: str) -> Run:
    """A run of a few steps, at a learning rate that sets its ranks apart."""
    if task == "classification":
        data = write_tiny(root / "data")
    else:
        data = root / "responses"
        rows = [{"instruction": f"say {word}", "input": "", "output": word} for word in (*GOOD, *BAD)]
        for split in ("train", "validation"):
            write_jsonl(data / f"{split}.jsonl", rows)
    short = ("adapter.r=4", "train.max_steps=4", "train.batch_size=4", "train.learning_rate=0.02", "task.max_length=90")
    where = (f"task={task}", f"task.data_dir={data}", f"runs_dir={root / 'runs'}", "task.max_eval_examples=8")
    return compose_run("model=auto", f"model.path={base}", *where, *short, *words)


def logits(model: Any, base: Path, texts: list[str]) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(base)
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def stock(base: Path, adapter: Path | None, labels: int | None) -> Any:
    """The backbone as transformers loads it, and an exported rank as PEFT does."""
    kind = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    model = kind.from_pretrained(base, **({} if labels is None else {"num_labels": labels}))
    model.config.pad_token_id = 0
    return model if adapter is None else PeftModel.from_pretrained(model, adapter)


@pytest.mark.parametrize(
    "case",
    sample(
        [*((one, "classification") for one in ENCODERS + DECODERS), *((one, "instruction") for one in DECODERS)],
        *(("distilbert", "classification"), ("qwen3", "instruction")),
    ),
    ids="-".join,
)
def test_a_folder_is_trained_scored_and_shipped(case: tuple[str, str], tmp_path: Path) -> None:
    family, task = case
    base = folder(tmp_path / "my model", family)
    run = asked(tmp_path, base, task)
    record = execute(run)
    assert [s["rank"] for s in record["submodels"]] == [1, 2, 3, 4]
    assert record["config"]["model"]["found"].startswith(f"{family}, a")
    assert "-my_model-" in run.run_id and run.model.found in (run.folder / "run.log").read_text()
    labels = 2 if task == "classification" else None
    texts = ["a lovely film, number 64", "a dull song"]
    shipped = {}
    for rank in (2, 4):
        export.export(run.folder, tmp_path / f"rank{rank}", rank)
        shipped[rank] = logits(stock(base, tmp_path / f"rank{rank}", labels), base, texts)
        ours = logits(load(run.folder, rank=rank), base, texts)
        assert torch.allclose(shipped[rank], ours, atol=1e-4), rank
    assert not torch.allclose(shipped[2], shipped[4], atol=1e-3)
    if labels:
        scored(run, base, tmp_path / "rank2")
    else:
        assert not torch.allclose(shipped[2], logits(stock(base, None, labels), base, texts), atol=1e-3)


@pytest.mark.parametrize("family", sample(KIN, "longformer"))
def test_their_kin_are_scored_at_every_rank(family: str, tmp_path: Path) -> None:
    """Longformer's layers see tokens first and rows second, so its ranks do not stack in one pass."""
    base = folder(tmp_path / "base", family, AutoModelForSequenceClassification)
    run = asked(tmp_path, base, "classification")
    assert [s["rank"] for s in execute(run)["submodels"]] == [1, 2, 3, 4]
    export.export(run.folder, tmp_path / "rank2", 2)
    scored(run, base, tmp_path / "rank2")


def test_ranks_by_row_are_refused_where_layers_do_not_see_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = folder(tmp_path / "base", "longformer", AutoModelForSequenceClassification)
    with pytest.raises(RequestError, match=r"longformer.*sampler\.per_row=false"):
        execute(asked(tmp_path, base, "classification", "sampler.per_row=true"))
    with monkeypatch.context() as patch:  # it would have them differ in the last quarter alone
        patch.setattr(loop, "collate", lambda *_: pytest.fail("a step was begun"))
        with pytest.raises(RequestError, match=r"longformer.*sampler\.per_row=false"):
            execute(asked(tmp_path, base, "classification", "adapter=dylora_late"))


def scored(run: Run, base: Path, adapter: Path) -> None:
    """The probabilities that the run scored rank 2 by are those of stock PEFT."""
    table = pd.read_parquet(run.folder / "predictions.parquet")
    rows = table[table["rank"] == 2].sort_values("index")
    lines = (Path(str(run.task.data_dir)) / "validation.jsonl").read_text().splitlines()
    texts = [json.loads(lines[place])["text"] for place in rows["index"]]
    found = logits(stock(base, adapter, 2), base, texts).softmax(-1)
    assert torch.allclose(found, torch.tensor(rows[["score_0", "score_1"]].to_numpy(), dtype=torch.float32), atol=1e-3)


@pytest.mark.parametrize("family", sample(ENCODERS, "distilbert"))
def test_a_head_of_several_layers_trains_whole_and_holds_no_adapter(family: str, tmp_path: Path) -> None:
    """Under all-linear too; what the files lack of it would else be random for good, and another's to draw."""
    from rankbench import methods

    base = folder(tmp_path / "base", family)
    run = asked(tmp_path, base, "classification", "adapter.target_modules=all-linear")
    body = backbone.load(run.model, 2, False, run.seed)
    tuning = methods.attach(run, body.model)
    stored = load_file(base / "model.safetensors")
    inner = ("base_model.model.", "modules_to_save.default.")
    trained = {functools.reduce(lambda n, part: n.replace(part, ""), inner, name) for name in tuning.trained()}
    inside = stock(base, None, 2)
    with_tied = {name for name, _ in inside.named_parameters()}
    lacking = with_tied - {*stored} - {f"{inside.base_model_prefix}.{name}" for name in stored}
    assert lacking and lacking <= trained
    assert not any("lora_" in name and name.startswith(("classifier", "pre_classifier")) for name in trained)


@pytest.mark.parametrize(
    ("family", "labels", "lost"),
    [
        ("bert", 2, "bert.encoder.layer.1.attention.self.query.weight"),
        ("llama", 2, "model.layers.1.self_attn.q_proj.weight"),
        ("llama", None, "lm_head.weight"),
        ("llama", None, "model.embed_tokens.weight"),
    ],
)
def test_weights_that_are_lost_are_not_made_up(family: str, labels: int | None, lost: str, tmp_path: Path) -> None:
    base = folder(tmp_path / "base", family)
    file = base / "model.safetensors"
    weights = load_file(file)
    save_file({name: weight for name, weight in weights.items() if name != lost}, file, {"format": "pt"})
    run = asked(tmp_path, base, "classification" if labels else "instruction")
    with pytest.raises(RequestError, match=rf"lacks weights .*{lost}.*they would be random"):
        backbone.load(run.model, labels, False, 0)
    save_file(weights | {lost: weights[lost][:-1].clone()}, file, {"format": "pt"})
    with pytest.raises(RequestError, match=rf"{lost}|{lost.rpartition('.')[0]}"):
        backbone.load(run.model, labels, False, 0)


def test_a_forecast_that_cannot_be_made_is_said_and_the_run_goes_on(tmp_path: Path) -> None:
    """ALBERT's layers share their weights, so there are none to count."""
    from rankbench.forecast import plan

    base = folder(tmp_path / "base", "albert", AutoModelForSequenceClassification)
    with pytest.raises(RequestError, match=r"base cannot be taken apart .*train\.max_steps=2"):
        plan.lines(asked(tmp_path, base, "classification"))


def test_what_a_folder_lacks_is_refused_by_name(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", "llama")
    kept = [(file, file.read_bytes()) for file in base.glob("tokenizer*")]
    for file, _ in kept:
        file.unlink()
    with pytest.raises(RequestError, match=r"holds no tokenizer .*copy it from the model's source"):
        execute(asked(tmp_path, base, "classification"))
    assert not list((tmp_path / "runs").glob("classification-*"))
    for file, content in kept:
        file.write_bytes(content)
    config = json.loads((base / "config.json").read_text())
    code = {"model_type": "ours", "auto_map": {"AutoConfig": "code.Ours", "AutoModelForCausalLM": "code.Model"}}
    (base / "config.json").write_text(json.dumps(config | code))
    (base / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(RequestError, match=r"code of its own.*model\.trust_remote_code=true"):
        execute(asked(tmp_path, base, "instruction"))
