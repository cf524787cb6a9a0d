"""Any rank of a finished run leaves rankbench: stock PEFT and transformers load it and give the run's own outputs."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from conftest import REPOSITORY, compose_run, sample, tiny_overrides, write_jsonl, write_tiny
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny import MODELS, a_batch

from rankbench import methods
from rankbench.errors import RequestError
from rankbench.methods import cuts
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone, quantization
from rankbench.records.finished import finished as read_back
from rankbench.records.finished import of_settings
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import adapter_files, export
from rankbench.shipping.loading import load

STOCK = """
import json, sys, warnings
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

warnings.filterwarnings("error", message="Found missing adapter keys")
asked = json.loads(sys.argv[1])
batch = load_file(asked["batch"])
found = {}
for folder, whole in asked["folders"]:
    if asked["labels"] is None:
        kind, head = AutoModelForCausalLM, {}
    else:
        kind = AutoModelForSequenceClassification
        head = {"num_labels": asked["labels"], "ignore_mismatched_sizes": True}
    if whole:
        model = kind.from_pretrained(folder)
    else:
        model = kind.from_pretrained(asked["base"], **head)
        model.config.pad_token_id = AutoTokenizer.from_pretrained(folder).pad_token_id
        model = PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        found[folder] = model.eval()(**batch).logits
save_file(found, asked["out"])
assert "rankbench" not in sys.modules
"""
PREDICT = """
import json, sys
for module in model.modules():  # on a CPU bitsandbytes repacks weights, and cannot where a row is less than a block
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
with torch.no_grad():
    texts = [json.loads(line)["text"] for line in open(sys.argv[1])]
    logits = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
print(json.dumps(logits.tolist()))
assert "rankbench" not in sys.modules
"""


def base_folder(folder: Path, model: str) -> Path:
    """A random backbone as the hub has it: a decoder as a language model without padding, BERT with five labels."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    shape = dict(compose_run(f"model={model}").model.random or {})
    tokenizer = backbone.byte_tokenizer()
    torch.manual_seed(3)
    decoder = model != "tiny_bert"
    config = AutoConfig.for_model(
        shape.pop("model_type"), vocab_size=len(tokenizer), initializer_range=0.2, num_labels=5, **shape
    )
    kind = AutoModelForCausalLM if decoder else AutoModelForSequenceClassification
    kind.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gguf_file(file: Path) -> Path:
    """A random Llama of the same size in one GGUF file, its tokenizer over bytes and one merge."""
    gguf = pytest.importorskip("gguf")
    vocabulary = backbone.byte_tokenizer().get_vocab()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "Ġa"]
    file.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(str(file), "llama")
    width, feed, layers, heads, key_heads = 32, 64, 2, 4, 2
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["Ġ a"])
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    keys = width * key_heads // heads
    shapes = {"token_embd": (len(tokens), width), "output": (len(tokens), width), "output_norm": (width,)}
    for i in range(layers):
        shapes |= {f"blk.{i}.attn_{name}": (width, width) for name in ("q", "output")}
        shapes |= {f"blk.{i}.attn_{name}": (keys, width) for name in ("k", "v")}
        shapes |= {f"blk.{i}.ffn_{name}": (feed, width) for name in ("gate", "up")}
        shapes |= {f"blk.{i}.ffn_down": (width, feed), f"blk.{i}.attn_norm": (width,), f"blk.{i}.ffn_norm": (width,)}
    generator = torch.Generator().manual_seed(3)
    for name, shape in shapes.items():
        value = 0.2 * torch.randn(shape, generator=generator) if len(shape) == 2 else torch.ones(shape)
        writer.add_tensor(f"{name}.weight", value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@dataclass(frozen=True)
class Done:
    """A finished run over a backbone in a folder."""

    run: Run
    base: Path
    folder: Path  # the run's own property follows what lies in `base`
    labels: int | None = 2


def train(root: Path, model: str, *words: str, base: Path | None = None) -> Done:
    """A short run over a backbone in a folder, at a learning rate that sets its ranks apart."""
    base = base or base_folder(root / "base", model)
    run = compose_run(
        *tiny_overrides(write_tiny(root / "data"), root / "runs"),
        *(f"model={model}", f"model.path={base}", "train.max_steps=40", "train.learning_rate=0.02"),
        *words,
    )
    assert execute(run)["status"] == "done"
    return Done(run, base, run.folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """trained("tiny_bert"): one finished DyLoRA classification, shared: read it, do not change it."""
    found: dict[str, Done] = {}

    def get(model: str) -> Done:
        if model not in found:
            found[model] = train(tmp_path_factory.mktemp(model), model)
        return found[model]

    return get


@pytest.fixture
def bert(trained: Callable[[str], Done]) -> Done:
    """The shared run over BERT."""
    return trained("tiny_bert")


def own_logits(done: Done, batch: dict[str, torch.Tensor], rank: int, plain: bool = False) -> torch.Tensor:
    """The run's logits at a rank, by the code that trained it."""
    run = done.run
    storage = quantization.PLAIN if plain else quantization.storage(run.quantization, "fp32", torch.device("cpu"))
    model = backbone.load(run.model, done.labels, run.task.regression, run.seed, storage).model
    tuning = methods.attach(run, model)
    stored = load_file(done.folder / "adapter" / "adapter_model.safetensors")
    for name, parameter in tuning.trained().items():
        parameter.data = stored[name.replace(".modules_to_save.default", "").replace(".default", "")]
    tuning.activate(Submodel(rank=rank))
    with torch.no_grad():
        return tuning.model.eval()(**batch).logits


def inputs() -> dict[str, torch.Tensor]:
    """A padded batch without labels."""
    return {key: value for key, value in a_batch().items() if key != "labels"}


def stock_logits(tmp_path: Path, done: Done, folders: dict[Path, bool]) -> dict[Path, torch.Tensor]:
    """What stock PEFT and transformers make of exported folders (whole model or not), without rankbench."""
    save_file(inputs(), tmp_path / "batch.safetensors")
    asked = {
        "batch": str(tmp_path / "batch.safetensors"),
        "base": str(done.base),
        "labels": done.labels,
        "folders": [(str(folder), whole) for folder, whole in folders.items()],
        "out": str(tmp_path / "logits.safetensors"),
    }
    call = subprocess.run(
        [sys.executable, "-c", STOCK, json.dumps(asked)], capture_output=True, text=True, cwd=tmp_path
    )
    assert call.returncode == 0, call.stderr
    return {Path(name): value for name, value in load_file(asked["out"]).items()}


def card_logits(folder: Path, texts: Path) -> torch.Tensor:
    """What the code on the card gives, run as it stands beside the folder, for a file of texts in one padded batch."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    words = [sys.executable, "-c", f"import torch\n{code}{PREDICT}", str(texts)]
    call = subprocess.run(words, capture_output=True, text=True, cwd=folder.parent)
    assert call.returncode == 0, call.stderr
    return torch.tensor(json.loads(call.stdout.splitlines()[-1]))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-5)


# The classes in the data's own words


WORDS = {"train": ["good", "bad", "so-so"], "validation": ["so-so", "good", "bad"]}


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run of three classes over a base that says NEGATIVE and POSITIVE."""
    root = tmp_path_factory.mktemp("worded")
    base = base_folder(root / "base", "tiny_bert")
    config = json.loads((base / "config.json").read_text())
    config |= {"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
    (base / "config.json").write_text(json.dumps(config))
    for name, labels in WORDS.items():
        rows = [{"text": f"{labels[i % 3]} {name} {i}", "label": labels[i % 3]} for i in range(30)]
        write_jsonl(root / "words" / f"{name}.jsonl", rows)
    return train(root, "tiny_bert", f"task.data_dir={root / 'words'}", base=base)


def in_words(model: Any, folder: Path, texts: list[str]) -> list[str]:
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [said["label"] for said in pipeline("text-classification", model=model, tokenizer=tokenizer)(texts)]


def test_the_probabilities_of_every_class_are_kept(worded: Done, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, pipeline

    export.export(worded.folder, tmp_path / "out", 2, merge=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    rows = (worded.folder.parents[1] / "words" / "validation.jsonl").read_text().splitlines()
    answer = pipeline("text-classification", model=str(tmp_path / "out"), tokenizer=tokenizer, top_k=None)
    said = [{one["label"]: one["score"] for one in row} for row in answer([json.loads(row)["text"] for row in rows])]
    frame = pd.read_parquet(worded.folder / "predictions.parquet")
    kept = frame[frame["rank"] == 2].sort_values("index")
    for i, name in enumerate(("bad", "good", "so-so")):
        assert kept[f"score_{i}"].tolist() == pytest.approx([row[name] for row in said], abs=1e-5)


@pytest.mark.parametrize("merge", [True, False])
def test_an_export_answers_in_the_datas_own_words(
    worded: Done, tmp_path: Path, merge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.export(worded.folder, tmp_path / "out", merge=merge)
    frame = pd.read_parquet(worded.folder / "predictions.parquet")
    frame = frame[frame["rank"] == 4].sort_values("index")
    names = ["bad", "good", "so-so"]
    expected = [names[place] for place in frame["prediction"]]
    rows = (worded.folder.parents[1] / "words" / "validation.jsonl").read_text().splitlines()
    texts = [json.loads(row)["text"] for row in rows]
    assert len(set(expected)) > 1, "a model that says one word proves little"
    if merge:
        assert in_words(str(tmp_path / "out"), tmp_path / "out", texts) == expected
        return
    card = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    with pytest.raises(Exception, match="Could not load"):  # not from the folder alone, and the card says so
        in_words(str(tmp_path / "out"), tmp_path / "out", texts)
    assert "Give `pipeline` this `model`" in card
    assert "num_labels=3" in code and json.dumps(names) in code
    found: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(code, found)
    assert in_words(found["model"], tmp_path / "out", texts) == expected


@pytest.mark.parametrize("merge", [True, False])
def test_the_line_that_loads_an_export_answers_in_the_datas_own_words(
    worded: Done, tmp_path: Path, merge: bool
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    line = export.export(worded.folder, tmp_path / "out", merge=merge)[-1].removeprefix("load it: ")
    known: dict[str, Any] = {"torch": torch, "PeftModel": PeftModel}
    model = eval(line, known | {"AutoModelForSequenceClassification": AutoModelForSequenceClassification})
    frame = pd.read_parquet(worded.folder / "predictions.parquet")
    file = Path(str(worded.run.task.data_dir)) / "validation.jsonl"
    rows = [json.loads(row) for row in file.read_text().splitlines()]
    names = sorted(WORDS["train"])
    expected = [names[i] for i in frame[frame["rank"] == 4].sort_values("index")["prediction"]]
    assert in_words(model.eval(), tmp_path / "out", [row["text"] for row in rows]) == expected
    assert model.config.label2id == {name: place for place, name in enumerate(names)}


def test_a_loaded_run_and_a_whole_model_know_the_words(worded: Done, tmp_path: Path) -> None:
    assert load(worded.folder).config.id2label == {0: "bad", 1: "good", 2: "so-so"}
    whole = train(
        tmp_path,
        "tiny_bert",
        f"task.data_dir={worded.folder.parents[1] / 'words'}",
        "adapter=full",
        "train.max_steps=1",
    )
    for older in (False, True):
        if older:  # a run of a rankbench that did not write them
            config = json.loads((whole.folder / "adapter" / "config.json").read_text())
            config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
            (whole.folder / "adapter" / "config.json").write_text(json.dumps(config))
        export.export(whole.folder, tmp_path / f"out-{older}")
        assert json.loads((tmp_path / f"out-{older}" / "config.json").read_text())["id2label"]["2"] == "so-so"


def test_the_config_of_an_adapter_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """PEFT holds the target modules as a set, whose order differs from process to process."""
    targets = ["value", "key", "query", "intermediate.dense", "output.dense"]
    done = train(tmp_path, "tiny_bert", f"adapter.target_modules=[{','.join(targets)}]", "train.max_steps=1")
    assert json.loads((done.folder / "adapter" / "adapter_config.json").read_text())["target_modules"] == sorted(
        targets
    )
    export.export(done.folder, tmp_path / "out", 2)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"] == sorted(targets)


# What stock libraries make of it


@pytest.mark.parametrize("model", sample(MODELS, "tiny_gpt2"))
def test_stock_libraries_give_the_runs_own_logits_at_every_exported_rank(
    trained: Callable[[str], Done], tmp_path: Path, model: str
) -> None:
    done = trained(model)
    folders: dict[Path, tuple[int, bool]] = {}
    for rank in (1, 2, 4):
        export.export(done.folder, tmp_path / f"plain-{rank}", rank)
        folders[tmp_path / f"plain-{rank}"] = rank, False
    for rank in (2, 4):
        export.export(done.folder, tmp_path / f"merged-{rank}", rank, merge=True)
        folders[tmp_path / f"merged-{rank}"] = rank, True
    export.export(done.folder, tmp_path / "svd", svd=True)
    export.export(done.folder, tmp_path / "svd-merged", svd=True, merge=True)
    folders |= {tmp_path / "svd": (4, False), tmp_path / "svd-merged": (4, True)}
    found = stock_logits(tmp_path, done, {folder: whole for folder, (_, whole) in folders.items()})
    own = {rank: own_logits(done, inputs(), rank) for rank in (1, 2, 4)}
    assert (own[1] - own[2]).abs().max() > 1e-2 and (own[2] - own[4]).abs().max() > 1e-2
    for folder, (rank, _) in folders.items():
        assert close(found[folder], own[rank]), folder.name


@pytest.mark.parametrize(("model", "merge"), [("tiny_gpt2", False), ("tiny_llama", True)])
@pytest.mark.slow
def test_the_code_on_the_card_predicts_what_the_run_predicted(
    trained: Callable[[str], Done], tmp_path: Path, model: str, merge: bool
) -> None:
    done = trained(model)
    export.export(done.folder, tmp_path / "out", 2, merge=merge)
    logits = card_logits(tmp_path / "out", done.base.parent / "data" / "validation.jsonl")
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    predicted = frame[frame["rank"] == 2].sort_values("index")["prediction"].tolist()
    assert logits.argmax(-1).tolist() == predicted
    assert len(set(predicted)) == 2


@pytest.mark.parametrize("scale", ["alpha_over_b", "alpha_over_r", "alpha_over_sqrt_b"])
@pytest.mark.parametrize("svd", sample([False, True], True))
def test_every_scale_reaches_stock_peft(tmp_path: Path, scale: str, svd: bool) -> None:
    from peft import PeftModel

    done = train(tmp_path, "tiny_bert", f"adapter.scale={scale}", "adapter.lora_alpha=6", "train.max_steps=4")
    rank = 4 if svd else 3
    export.export(done.folder, tmp_path / "out", rank, svd=svd)
    model = backbone.load(done.run.model, 2, False, seed=99).model
    model = PeftModel.from_pretrained(model, tmp_path / "out").eval()
    with torch.no_grad():
        assert close(model(**inputs()).logits, own_logits(done, inputs(), rank))


@pytest.mark.parametrize("scale", ["alpha_over_r", "alpha_over_sqrt_b"])
def test_a_plain_lora_is_exported_at_its_own_rank(tmp_path: Path, scale: str) -> None:
    from peft import PeftModel

    done = train(tmp_path, "tiny_bert", "adapter=lora", f"adapter.scale={scale}", "train.max_steps=4")
    export.export(done.folder, tmp_path / "out")
    model = backbone.load(done.run.model, 2, False, seed=99).model
    with torch.no_grad():
        logits = PeftModel.from_pretrained(model, tmp_path / "out").eval()(**inputs()).logits
    assert close(logits, own_logits(done, inputs(), 4))
    with pytest.raises(RequestError, match=r"rank 2 is none that this run trained \(4\).*--svd"):
        export.export(done.folder, tmp_path / "other", 2)
    export.export(done.folder, tmp_path / "other", 2, svd=True)
    assert "SVD cut of rank 4, not trained at rank 2" in (tmp_path / "other" / "README.md").read_text()


def test_every_linear_layer_and_a_larger_head_are_exported_whole(tmp_path: Path) -> None:
    from peft import PeftModel

    words = ("adapter.target_modules=all-linear", "task.label_names=[a,b,c]", "train.max_steps=4")
    done = train(tmp_path, "tiny_bert", *words)
    done = replace(done, labels=3)
    export.export(done.folder, tmp_path / "out", 2)
    model = backbone.load(done.run.model, 3, False, seed=99).model
    with torch.no_grad():
        logits = PeftModel.from_pretrained(model, tmp_path / "out").eval()(**inputs()).logits
    assert close(logits, own_logits(done, inputs(), 2))
    assert "num_labels=3" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.slow
def test_a_language_model_is_exported_without_a_head(tmp_path: Path, model: str) -> None:
    rows = [{"instruction": f"repeat {word}", "input": "", "output": word * 2} for word in ("sun", "moon", "sky") * 8]
    write_jsonl(tmp_path / "lm" / "train.jsonl", rows)
    write_jsonl(tmp_path / "lm" / "validation.jsonl", rows[:6])
    words = ("task=instruction", f"task.data_dir={tmp_path / 'lm'}", "evaluate.submodels=[2,4]")
    done = train(tmp_path, model, *words)
    done = replace(done, labels=None)
    for rank in (2, 4):
        export.export(done.folder, tmp_path / f"plain-{rank}", rank)
    said = export.export(done.folder, tmp_path / "merged", 2, merge=True)
    folders = {tmp_path / "plain-2": False, tmp_path / "plain-4": False, tmp_path / "merged": True}
    found = stock_logits(tmp_path, done, folders)
    own = {rank: own_logits(done, inputs(), rank) for rank in (2, 4)}
    assert (own[2] - own[4]).abs().max() > 1e-2
    assert close(found[tmp_path / "plain-2"], own[2]) and close(found[tmp_path / "plain-4"], own[4])
    assert close(found[tmp_path / "merged"], own[2])
    assert "AutoModelForCausalLM" in said[-1]
    card = (tmp_path / "plain-2" / "README.md").read_text()
    assert "num_labels" not in card and "### Instruction" in card
    loaded = load(done.folder, 2)
    with torch.no_grad():
        assert close(loaded(**inputs()).logits, own[2])
        assert loaded.generate(**inputs(), max_new_tokens=3).shape == (4, 15)


def test_a_regression_has_one_output(tmp_path: Path) -> None:
    from peft import PeftModel

    words = ("task.regression=true", "task.metrics=[pearson,spearman]", "train.max_steps=4")
    done = replace(train(tmp_path, "tiny_bert", *words), labels=1)
    export.export(done.folder, tmp_path / "out", 2)
    model = backbone.load(done.run.model, 1, True, seed=99).model
    with torch.no_grad():
        logits = PeftModel.from_pretrained(model, tmp_path / "out").eval()(**inputs()).logits
    assert logits.shape == (4, 1) and close(logits, own_logits(done, inputs(), 2))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "num_labels=1" in card and "pearson x 100" in card and "one output, the predicted value" in card


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.slow
def test_a_gguf_backbone_is_loaded_by_its_file_and_merges_to_safetensors(tmp_path: Path, quantization: str) -> None:
    base = gguf_file(tmp_path / "base" / "tiny.gguf")
    words = (f"quantization={quantization}", "train.precision=fp32")
    done = train(tmp_path, "tiny_llama", *words, base=base)
    export.export(done.folder, tmp_path / "merged", 2, merge=True)
    export.export(done.folder, tmp_path / "plain", 2)
    texts = tmp_path / "data" / "validation.jsonl"
    tokenizer, model = backbone.load(done.run.model, 2, False, 0).tokenizer, load(done.folder, 2)
    with torch.no_grad():
        assert close(model(**inputs()).logits, own_logits(done, inputs(), 2))
        lines = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
        own = model(**tokenizer(lines, return_tensors="pt", padding=True)).logits
    merged = card_logits(tmp_path / "merged", texts)
    assert (tmp_path / "merged" / "model.safetensors").exists() and not list((tmp_path / "merged").glob("*.gguf"))
    card = (tmp_path / "plain" / "README.md").read_text()
    if quantization == "none":
        assert close(merged, own) and close(card_logits(tmp_path / "plain", texts), own)
        assert 'gguf_file="tiny.gguf"' in card
    else:
        assert not close(merged, own) and "rankbench.load(" in card


# What the files say


def test_the_adapter_names_its_rank_its_base_and_nothing_random(bert: Done, tmp_path: Path) -> None:
    export.export(bert.folder, tmp_path / "out", 3)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 16, False)
    assert config["base_model_name_or_path"] == str(bert.base)
    assert config["target_modules"] == ["query", "value"]
    export.export(bert.folder, tmp_path / "again", 3)
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(files)
    for name in set(files) - {"README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert (tmp_path / "out" / name).stat().st_mode & 0o077 == (
            tmp_path / "out" / "README.md"
        ).stat().st_mode & 0o077


def test_a_hub_model_is_named_by_its_id_and_revision(bert: Done, tmp_path: Path, no_network: list[str]) -> None:
    folder = shutil.copytree(bert.folder, tmp_path / "run")
    record = json.loads((folder / "record.json").read_text())
    record["config"]["model"] |= {"path": None, "hub": "someone/bert", "revision": "a" * 40}
    record["backbone"] = {"source": "hub", "location": "someone/bert", "revision": "a" * 40, "fingerprint": "x"}
    (folder / "record.json").write_text(json.dumps(record))
    backbone.byte_tokenizer().save_pretrained(folder / "adapter")
    said = export.export(folder, tmp_path / "out", 2)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/bert", "a" * 40)
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "someone/bert"
    assert f'revision="{"a" * 40}"' in card and "someone/bert" in said[-1]
    assert no_network == []


def test_the_card_holds_the_records_numbers_and_how_the_run_was_made(bert: Done, tmp_path: Path) -> None:
    export.export(bert.folder, tmp_path / "out", 2)
    card = (tmp_path / "out" / "README.md").read_text()
    record = json.loads((bert.folder / "record.json").read_text())
    assert "the first 2 rows of A and columns of B" in card
    export.export(bert.folder, tmp_path / "one", 1)
    assert "A's first row and B's first column" in (tmp_path / "one" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "peft"
    assert "base_model" not in front, "the hub refuses what is none of its own"
    assert f"`{bert.base}`" in card
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    for sub in record["submodels"]:
        rank = f"**{sub['rank']}** (this one)" if sub["rank"] == 2 else str(sub["rank"])
        assert [rank, f"{100 * sub['metrics']['accuracy']:.2f}", f"{sub['parameters']['trainable']:,}"] in rows
    assert ["rank", "accuracy x 100", "trained parameters"] in rows
    for said in (
        record["environment"]["command"],
        record["data"]["splits"]["train"]["sha256"],
        record["environment"]["precision_reason"],
        "learning rate 0.02",
        "with s = 8, the scale that this rank was trained with",
        "The licence of the base model applies",
    ):
        assert said in card, said


def test_the_card_of_an_svd_cut_claims_no_metric(bert: Done, tmp_path: Path) -> None:
    export.export(bert.folder, tmp_path / "out", 2, svd=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "SVD cut of rank 4, not trained at rank 2" in card
    assert "metrics of the prefixes, not of this cut" in card
    assert "(this one)" not in card and "this rank was trained with" not in card


def test_a_rank_that_was_not_measured_is_said_to_be_so(tmp_path: Path) -> None:
    done = train(tmp_path, "tiny_bert", "evaluate.submodels=[4]", "train.max_steps=1")
    export.export(done.folder, tmp_path / "out", 2)
    assert "Rank 2 was trained, but not measured." in (tmp_path / "out" / "README.md").read_text()


def test_the_tokenizer_is_the_runs_own_or_else_the_backbones(bert: Done, tmp_path: Path) -> None:
    folder = shutil.copytree(bert.folder, tmp_path / "run")
    file = folder / "adapter" / "tokenizer.json"
    if not file.exists():
        backbone.byte_tokenizer().save_pretrained(folder / "adapter")
    file.write_text(file.read_text().replace("[SEP]", "[END]"))
    export.export(folder, tmp_path / "own", 2)
    assert "[END]" in (tmp_path / "own" / "tokenizer.json").read_text()
    for file in folder.glob("adapter/*token*"):
        file.unlink()
    export.export(folder, tmp_path / "fetched", 2)
    text = (tmp_path / "fetched" / "tokenizer.json").read_text()
    assert "[SEP]" in text and "[END]" not in text


@pytest.mark.parametrize(("asked", "cut"), [(16, 16), (1000, 256)])
def test_an_export_reads_what_was_measured(tmp_path: Path, asked: int, cut: int) -> None:
    """Long texts are cut where the run cut them: at task.max_length, or at the model's last position."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = [f"{'good' if i % 2 else 'bad'} {'words ' * 60}{i}" for i in range(12)]
    for split in ("train", "validation"):
        rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
        write_jsonl(tmp_path / "long" / f"{split}.jsonl", rows)
    done = train(tmp_path, "tiny_bert", f"task.data_dir={tmp_path / 'long'}", f"task.max_length={asked}")
    export.export(done.folder, tmp_path / "plain", 2)
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").model_max_length == cut
    assert f"texts cut at {cut} tokens" in (tmp_path / "plain" / "README.md").read_text()
    export.export(done.folder, tmp_path / "merged", 2, merge=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        said = model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits.argmax(-1)
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    assert said.tolist() == frame[frame["rank"] == 2].sort_values("index")["prediction"].tolist()
    of_run = done.folder / "adapter" / "tokenizer_config.json"
    of_run.write_text(of_run.read_text().replace(f'"model_max_length": {cut}', f'"model_max_length": {10**30}'))
    export.export(done.folder, tmp_path / "older", 2)
    assert AutoTokenizer.from_pretrained(tmp_path / "older").model_max_length == asked


def test_a_line_says_what_was_written_how_large_and_how_to_load_it(bert: Done, tmp_path: Path) -> None:
    first, size, load = export.export(bert.folder, tmp_path / "out", 2)
    sub = json.loads((bert.folder / "record.json").read_text())["submodels"][1]
    assert f"{sub['parameters']['trainable']:,} parameters" in size and "MB" in size
    assert "rank 2 of 4" in first and str(tmp_path / "out") in load and "PeftModel.from_pretrained" in load


# Other kinds of run


def test_a_plain_export_reads_no_weights_of_the_backbone(
    bert: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "load", lambda *_, **__: pytest.fail("the backbone was loaded"))
    export.export(bert.folder, tmp_path / "plain", 2)
    export.export(bert.folder, tmp_path / "svd", 2, svd=True)
    with pytest.raises(pytest.fail.Exception):
        export.export(bert.folder, tmp_path / "merged", 2, merge=True)


def test_random_weights_are_named_as_such_and_merge_to_the_runs_logits(finished: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    record = json.loads((finished / "record.json").read_text())
    done = Done(read_back(finished).run, Path(), finished)
    assert "stock" not in export.export(finished, tmp_path / "plain", 2)[0]
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "random weights" in card and "cannot be downloaded" in card and "base_model" not in card
    assert "not needed" not in card and "needs rankbench" in card and "import rankbench" in card
    assert "f1 x 100" in card and f"{100 * record['submodels'][1]['metrics']['f1']:.2f}" in card
    export.export(finished, tmp_path / "merged", 2, merge=True)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert close(model.eval()(**inputs()).logits, own_logits(done, inputs(), 2))
        assert close(load(finished, 2)(**inputs()).logits, own_logits(done, inputs(), 2))


def test_full_fine_tuning_is_copied_whole(make_run: Callable[..., Run], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = make_run("adapter=full", "train.max_steps=2")
    execute(run)
    said = export.export(run.folder, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    texts = [json.loads(line)["text"] for line in (tmp_path / "data" / "validation.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    frame = pd.read_parquet(run.folder / "predictions.parquet").sort_values("index")
    with torch.no_grad():
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        logits = model(**batch).logits
        assert logits.argmax(-1).tolist() == frame["prediction"].tolist()
        assert close(load(run.folder)(**batch).logits, logits)
    assert "full fine-tuning" in said[0] and "| whole |" in (tmp_path / "out" / "README.md").read_text()
    for words, option in (({"rank": 2}, "--rank"), ({"svd": True}, "--svd")):
        with pytest.raises(RequestError, match=rf"adapter=full.*no ranks; leave out {option}"):
            export.export(run.folder, tmp_path / "other", **words)
    with pytest.raises(RequestError, match="no ranks"):
        load(run.folder, 2)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("model", sample(MODELS, "tiny_llama"))
def test_a_quantized_run_comes_back_as_it_was_stored(tmp_path: Path, model: str) -> None:
    from transformers import AutoModelForSequenceClassification

    done = train(tmp_path, model, "quantization=nf4", "train.precision=fp32")
    own = own_logits(done, inputs(), 2)
    loaded = load(done.folder, 2)
    assert any("4bit" in type(module).__name__ for module in loaded.modules())
    with torch.no_grad():
        assert close(loaded(**inputs()).logits, own)
    export.export(done.folder, tmp_path / "merged", 2, merge=True)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "Trained over nf4, merged into the float base, so its outputs differ slightly from the run's." in card
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert all(parameter.dtype == torch.float32 for parameter in merged.parameters())
    with torch.no_grad():
        logits = merged(**inputs()).logits
    assert close(logits, own_logits(done, inputs(), 2, plain=True)) and not close(logits, own)


def test_random_weights_that_were_never_floats_are_not_merged(tmp_path: Path) -> None:
    words = tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")
    run = compose_run(*words, "quantization=nf4", "train.max_steps=1")
    execute(run)
    with pytest.raises(RequestError, match="straight into 4 or 8 bits"):
        export.export(run.folder, tmp_path / "out", merge=True)
    with torch.no_grad():
        own = own_logits(Done(run, Path(), run.folder), inputs(), 2)
        assert close(load(run.folder, 2)(**inputs()).logits, own)


def test_a_plain_export_does_without_the_backbones_weights(bert: Done, tmp_path: Path) -> None:
    base = shutil.copytree(bert.base, tmp_path / "base")
    folder = shutil.copytree(bert.folder, tmp_path / "run")
    backbone.byte_tokenizer().save_pretrained(folder / "adapter")
    config = json.loads((folder / "record.json").read_text())["config"]
    config["model"]["path"] = str(base)
    change_record(folder, config=config)
    (base / "model.safetensors").unlink()
    export.export(folder, tmp_path / "without_weights", 2)
    shutil.rmtree(base)
    export.export(folder, tmp_path / "without_anything", 2)
    named = json.loads((tmp_path / "without_anything" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(base)


@pytest.mark.slow
def test_the_card_of_a_quantized_run_gives_the_runs_predictions(tmp_path: Path) -> None:
    done = train(tmp_path, "tiny_llama", "quantization=nf4", "train.precision=fp32")
    export.export(done.folder, tmp_path / "out", 2)
    texts = done.base.parent / "data" / "validation.jsonl"
    logits = card_logits(tmp_path / "out", texts)
    tokenizer, model = backbone.byte_tokenizer(), load(done.folder, 2)
    with torch.no_grad():
        lines = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
        own = model(**tokenizer(lines, return_tensors="pt", padding=True)).logits
    assert close(logits, own)


def test_a_storage_that_stock_libraries_lack_is_not_promised(tmp_path: Path) -> None:
    done = train(tmp_path, "tiny_llama", "quantization=nf4", "quantization.block_size=128", "train.precision=fp32")
    export.export(done.folder, tmp_path / "out", 2)
    export.export(done.folder, tmp_path / "svd", 2, svd=True)
    for name in ("out", "svd"):
        card = (tmp_path / name / "README.md").read_text()
        assert "rankbench.load(" in card and "BitsAndBytesConfig" not in card
        assert "its base as the run had it needs rankbench" in card and "not needed" not in card
    assert ".unload()" in card


# rankbench.load


@pytest.mark.parametrize("rank", [1, 3, None])
def test_a_run_comes_back_as_an_ordinary_peft_model_in_eval_mode(bert: Done, rank: int | None) -> None:
    from peft import PeftModel

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = load(bert.folder, rank)
    assert torch.equal(torch.rand(1), expected), "loading moved the caller's random numbers"
    assert isinstance(model, PeftModel) and not model.training
    assert model.peft_config["default"].r == (rank or 4)
    with torch.no_grad():
        assert close(model(**inputs()).logits, own_logits(bert, inputs(), rank or 4))


def test_a_backbone_that_changed_is_refused(tmp_path: Path) -> None:
    done = train(tmp_path, "tiny_bert", "train.max_steps=1")
    weights = load_file(done.base / "model.safetensors")
    save_file(
        {name: tensor + 1e-3 for name, tensor in weights.items()}, done.base / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(RequestError, match=r"another model than the one that .* trained on"):
        load(done.folder)
    with pytest.raises(RequestError, match="another model"):
        export.export(done.folder, tmp_path / "out", merge=True)
    shutil.rmtree(done.base)
    with pytest.raises(RequestError, match="not where the run found it"):
        load(done.folder)
    assert not (tmp_path / "out").exists()


def test_a_classifier_with_weights_drawn_at_the_start_is_not_exported_wrong(tmp_path: Path) -> None:
    """A BERT saved without its pooler: the run drew one and trained it, so that the adapter brings it."""
    from transformers import AutoModelForSequenceClassification

    base = base_folder(tmp_path / "base", "tiny_bert")
    weights = {k: v for k, v in load_file(base / "model.safetensors").items() if "pooler" not in k}
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    done = train(tmp_path, "tiny_bert", base=base)
    export.export(done.folder, tmp_path / "plain", 2)
    (found,) = stock_logits(tmp_path, done, {tmp_path / "plain": False}).values()
    assert close(found, own_logits(done, inputs(), 2))
    export.export(done.folder, tmp_path / "merged", 2, merge=True)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert close(model(**inputs()).logits, own_logits(done, inputs(), 2))


def test_merging_into_a_shared_matrix_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "lm" / "train.jsonl", [{"instruction": "a", "input": "", "output": "b"}] * 8)
    write_jsonl(tmp_path / "lm" / "validation.jsonl", [{"instruction": "a", "input": "", "output": "b"}])
    words = ("task=instruction", f"task.data_dir={tmp_path / 'lm'}", "adapter.target_modules=[lm_head]")
    done = train(tmp_path, "tiny_gpt2", *words, "train.max_steps=1")
    with pytest.raises(RequestError, match=r"would change .*wte.*without --merge"):
        export.export(done.folder, tmp_path / "out", 2, merge=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", sorted((REPOSITORY / "benchmarks" / "results").rglob("record.json"))[::7])
def test_the_settings_of_every_earlier_record_are_understood(file: Path) -> None:
    record = json.loads(file.read_text())
    run = of_settings(file.parent, record)
    assert run.adapter.r == record["config"]["adapter"]["r"]
    task = record["config"]["task"]
    kind = "causal_lm" if task.get("prompts") else "regression" if task["name"] == "stsb" else "classification"
    assert (run.quantization.block_size, run.task.kind) == (64, kind)


# SVD


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("out", "width"), [(6, 40), (40, 6), (24, 24)])
def test_the_svd_cut_is_exact_at_the_full_rank_and_never_worse_than_a_prefix(seed: int, out: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    largest, scale = 6, 2.5
    a, b = torch.randn(largest, width, generator=generator), torch.randn(out, largest, generator=generator)
    whole = scale * b @ a
    for rank in range(1, largest + 1):
        low, high = cuts.closest(a, b, scale, rank)
        assert (low.shape, high.shape) == ((rank, width), (out, rank))
        error, rounding = (whole - high @ low).norm(), 1e-6 * whole.norm()
        assert error <= (whole - scale * b[:, :rank] @ a[:rank]).norm() + rounding
        best = torch.linalg.svdvals(whole.double())[rank:].norm()  # Eckart and Young
        assert error == pytest.approx(float(best), rel=1e-4, abs=float(rounding))
    assert torch.allclose(high @ low, whole, atol=1e-5 * float(whole.abs().max()))


def test_an_svd_cut_is_stored_at_the_scale_one(bert: Done) -> None:
    whole = adapter_files.read(bert.folder / "adapter")
    for rank in (1, 3, 4):
        cut = adapter_files.svd_cut(whole, rank)
        assert (cut.rank, cut.scale) == (rank, 1.0)
        assert all(a.is_contiguous() and b.is_contiguous() for a, b in cut.layers().values())
        assert cut.head.keys() == whole.head.keys()


def test_an_svd_cut_beyond_the_trained_rank_is_refused(bert: Done, tmp_path: Path) -> None:
    for rank in (0, 5):
        with pytest.raises(RequestError, match=f"--rank {rank} is outside 1 to 4"):
            export.export(bert.folder, tmp_path / "out", rank, svd=True)


@pytest.mark.slow
def test_the_global_svd_cut_is_shipped_as_it_was_measured(tmp_path: Path) -> None:
    """Plain and merged: the ranks of the record, and for every row the prediction that evaluate.cuts stored."""
    words = ("adapter=lora", "adapter.target_modules=all-linear", "evaluate.cuts=[svd_global]")
    done = train(tmp_path, "tiny_llama", *words)
    texts = tmp_path / "data" / "validation.jsonl"
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    record = json.loads((done.folder / "record.json").read_text())
    seen = []
    for rank in (1, 2):
        (row,) = (row for row in record["cuts"] if row["rank"] == rank)
        for merge in (False, True):
            place = tmp_path / f"{rank}-{merge}"
            export.export(done.folder, place, rank, svd_global=True, merge=merge)
            logits = card_logits(place, texts)
            own = frame[(frame["cut"] == "svd_global") & (frame["rank"] == rank)].sort_values("index")
            assert logits.argmax(-1).tolist() == own["prediction"].tolist()
            seen.append(logits)
        assert close(seen[-1], seen[-2])
        card = (tmp_path / f"{rank}-False" / "README.md").read_text()
        accuracy = f"{100 * row['metrics']['accuracy']:.2f}"
        assert f"This cut was measured there too: accuracy x 100 {accuracy}." in card and "(this one)" not in card
        config = json.loads((tmp_path / f"{rank}-False" / "adapter_config.json").read_text())
        assert sorted(config["rank_pattern"].values()) == sorted(r for r in row["ranks_by_layer"] if r)
        assert not config["alpha_pattern"] and config["lora_alpha"] == config["r"], "the factors carry the scale"
        stored = adapter_files.read(tmp_path / f"{rank}-False").layers().values()
        assert sum(a.numel() + b.numel() for a, b in stored) == row["parameters"]["adapter"]
    assert not close(seen[0], seen[2]) and len(set(config["rank_pattern"].values())) > 1


@pytest.mark.slow
def test_the_global_svd_cut_at_the_whole_rank_is_the_adapter_itself(bert: Done, tmp_path: Path) -> None:
    export.export(bert.folder, tmp_path / "out", svd_global=True)
    (found,) = stock_logits(tmp_path, bert, {tmp_path / "out": False}).values()
    assert close(found, own_logits(bert, inputs(), 4))
    export.export(bert.folder, tmp_path / "less", 2, svd_global=True)
    assert "(this one)" not in (tmp_path / "less" / "README.md").read_text()
    assert "not of this cut, which was not measured" in (tmp_path / "less" / "README.md").read_text()


def test_a_global_svd_cut_that_cannot_be_made_is_refused(
    bert: Done, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    for rank in (0, 5):
        with pytest.raises(RequestError, match=f"--rank {rank} is outside 1 to 4, the trained rank that --svd-global"):
            export.export(bert.folder, tmp_path / "out", rank, svd_global=True)
    with pytest.raises(RequestError, match="--svd and --svd-global are two ways"):
        export.export(bert.folder, tmp_path / "out", 2, svd=True, svd_global=True)
    run = make_run("adapter=full", "train.max_steps=1")
    execute(run)
    with pytest.raises(RequestError, match="no ranks; leave out --svd-global"):
        export.export(run.folder, tmp_path / "out", svd_global=True)
    assert not (tmp_path / "out").exists()


# Refusals


@pytest.mark.parametrize("rank", [0, -1, 5, 99])
def test_an_untrained_rank_is_refused_with_the_trained_ones(bert: Done, tmp_path: Path, rank: int) -> None:
    for call in (lambda: export.export(bert.folder, tmp_path / "out", rank), lambda: load(bert.folder, rank)):
        with pytest.raises(RequestError, match=rf"rank {rank} is none that this run trained \(1 to 4\).*--svd"):
            call()
    assert not (tmp_path / "out").exists()


def test_a_sampler_that_left_ranks_out_leaves_them_untrained(tmp_path: Path) -> None:
    done = train(tmp_path, "tiny_bert", "sampler.ranks=[1,2,4]", "train.max_steps=1")
    with pytest.raises(RequestError, match=r"rank 3 is none that this run trained \(1, 2, 4\)"):
        export.export(done.folder, tmp_path / "out", 3)
    export.export(done.folder, tmp_path / "out", 3, svd=True)


def change_record(folder: Path, **parts: Any) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | parts))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def without_config(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    del record["config"]
    (folder / "record.json").write_text(json.dumps(record))


def unknown_setting(folder: Path) -> None:
    config = copy.deepcopy(json.loads((folder / "record.json").read_text())["config"])
    config["adapter"]["flux"] = 3
    change_record(folder, config=config)


def half_a_layer(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, file)


def another_rank(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: t[:2] if "lora_A" in name else t for name, t in load_file(file).items()}, file)


def head_of_another_shape(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: t[:-1] if name.endswith("classifier.bias") else t for name, t in load_file(file).items()}, file)


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (shutil.rmtree, "is no folder; give the folder of a finished run"),
    "no_record": (lambda f: (f / "record.json").unlink(), "holds no record.json; the run is not finished"),
    "broken_record": (lambda f: (f / "record.json").write_text("{"), "is not a record"),
    "failed": (lambda f: change_record(f, status="failed"), r"is not done \(status failed\)"),
    "oom": (lambda f: change_record(f, status="oom"), r"is not done \(status oom\)"),
    "newer": (lambda f: change_record(f, schema=99), "newer rankbench"),
    "no_config": (without_config, "is not a whole run"),
    "no_submodels": (lambda f: change_record(f, submodels=None), "is not a whole run"),
    "unknown_setting": (unknown_setting, r"does not know the setting .*flux"),
    "no_adapter": (lambda f: shutil.rmtree(f / "adapter"), "lacks adapter/"),
    "no_note": (lambda f: (f / "adapter" / "rankbench.json").unlink(), "lacks adapter/ or the rankbench.json"),
    "broken_note": (lambda f: (f / "adapter" / "rankbench.json").write_text("["), "is not a whole run"),
    "no_weights": (lambda f: (f / "adapter" / "adapter_model.safetensors").unlink(), "fresh=true"),
    "cut_weights": (lambda f: cut_short(f / "adapter" / "adapter_model.safetensors"), "is damaged .*fresh=true"),
    "empty_weights": (
        lambda f: (f / "adapter" / "adapter_model.safetensors").write_bytes(b""),
        "is damaged .*fresh=true",
    ),
    "half_a_layer": (half_a_layer, "is damaged .*fresh=true"),
    "another_rank": (another_rank, "is damaged .*fresh=true"),
    "another_shape": (head_of_another_shape, "does not fit the backbone"),
    "broken_adapter_config": (lambda f: (f / "adapter" / "adapter_config.json").write_text("7"), "is damaged"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_run_that_cannot_be_exported_is_refused_with_the_mend(finished: Path, tmp_path: Path, case: str) -> None:
    spoil, message = SPOILED[case]
    folder = shutil.copytree(finished, tmp_path / "run")
    spoil(folder)
    with pytest.raises(RequestError, match=message):
        export.export(folder, tmp_path / "out", 2, merge=case == "another_shape")
    with pytest.raises(RequestError, match=message):
        load(folder, 2)
    assert {p.name for p in tmp_path.iterdir()} <= {"run"}


def test_a_folder_of_runs_is_answered_with_one_of_them(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=re.escape(f"give one of the runs in it, such as {finished.name}")):
        export.export(finished.parent, tmp_path / "out")


def test_a_damaged_whole_model_is_refused(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run("adapter=full", "train.max_steps=1")
    execute(run)
    cut_short(run.folder / "adapter" / "model.safetensors")
    for call in (lambda: export.export(run.folder, tmp_path / "out"), lambda: load(run.folder)):
        with pytest.raises(RequestError, match=r"damaged .*fresh=true"):
            call()
    assert not (tmp_path / "out").exists()


# The place


def test_a_folder_that_holds_files_is_left_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds files; choose another folder"):
        export.export(finished, tmp_path / "out")
    with pytest.raises(RequestError, match="is a file"):
        export.export(finished, tmp_path / "out" / "mine.txt")
    with pytest.raises(RequestError, match=r"mine\.txt"):
        export.export(finished, tmp_path / "out" / "mine.txt" / "below")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_an_empty_folder_is_filled_and_a_hidden_neighbour_is_left_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out").mkdir()
    (tmp_path / ".out" / "mine.txt").write_text("mine")
    export.export(finished, tmp_path / "out")
    assert (tmp_path / ".out" / "mine.txt").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"out", ".out"}


def test_the_svd_cut_starts_from_the_largest_trained_rank(tmp_path: Path) -> None:
    """Rows above it were never trained: the product would be scaled by a rank that it was not trained at."""
    words = [*tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs"), "sampler.ranks=[1,3]"]
    run = compose_run(*words, "train.learning_rate=3e-2")
    execute(run)
    with pytest.raises(RequestError, match=r"rank 4 is none that this run trained .*cut rank 3 down"):
        export.export(run.folder, tmp_path / "whole", 4)
    with pytest.raises(RequestError, match="outside 1 to 3, the trained rank"):
        export.export(run.folder, tmp_path / "four", 4, svd=True)
    export.export(run.folder, tmp_path / "svd", 3, svd=True)
    export.export(run.folder, tmp_path / "plain", 3)
    cut, plain = adapter_files.read(tmp_path / "svd"), adapter_files.read(tmp_path / "plain")
    for name, (a, b) in plain.layers().items():
        other_a, other_b = cut.layers()[name]
        assert torch.allclose(cut.scale * other_b @ other_a, plain.scale * b @ a, atol=1e-6)


def test_the_folder_one_stands_in_is_refused(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="the folder you are in"):
        export.export(finished, ".")


FAULTS = {
    "disk_full": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device.*make room"),
    "disk_full_in_safetensors": (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left"),
    "stopped": (KeyboardInterrupt(), None),
}


@pytest.mark.parametrize("form", ["adapter", "merged", "full", "card"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_nothing_behind(
    finished: Path,
    make_run: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    fault: str,
) -> None:
    from transformers import PreTrainedModel

    error, message = FAULTS[fault]
    folder = finished
    if form == "full":
        run = make_run("adapter=full", "train.max_steps=1")
        execute(run)
        folder = run.folder
    before = set(tmp_path.rglob("*"))

    def fail(*_: Any, **__: Any) -> None:
        (began,) = {p for p in tmp_path.rglob("*") if p.is_dir() and ".out" in p.name}
        (began / "half").write_text("half")
        raise error

    place, name = {
        "adapter": (adapter_files, "save_file"),
        "merged": (PreTrainedModel, "save_pretrained"),
        "full": (shutil, "copyfile"),
        "card": (export, "card"),
    }[form]
    monkeypatch.setattr(place, name, fail)
    with pytest.raises(RequestError if message else KeyboardInterrupt, match=message):
        export.export(folder, tmp_path / "new" / "deep" / "out", merge=form == "merged")
    assert set(tmp_path.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_refused(finished: Path) -> None:
    with pytest.raises(RequestError, match="--to /proc/rankbench/out cannot be written"):
        export.export(finished, "/proc/rankbench/out")


# The command line


def test_the_command_says_what_it_wrote(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.main([str(finished), "--rank", "2", "--to", str(tmp_path / "out")])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and said[0].startswith(str(tmp_path / "out")) and "rank 2 of 4" in said[0]
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_size > 0


@pytest.mark.parametrize("words", [[], ["RUN"], ["--to", "x"], ["RUN", "--to", "x", "--rank", "two"]])
def test_a_command_that_lacks_a_part_exits_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        export.main(words)
    assert stop.value.code == 2
    assert "rankbench export" in capsys.readouterr().err
