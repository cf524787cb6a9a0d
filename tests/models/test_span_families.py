"""Families with a head that extracts answers, from a folder: trained, scored at every rank, shipped to stock PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import compose_run, sample
from made_questions import words, write
from peft import PeftModel
from test_families import folder
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import rankbench
from rankbench.errors import RequestError
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import export

FAMILIES = (
    *("bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "modernbert"),
    *("llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "falcon", "bloom"),
)
RENAMED = ("llama", "qwen2", "qwen3")  # of which stock code has to be told how their files call the body
NONE = ("phi", "gemma2", "gemma3_text", "olmo2", "phi3")


def asked(root: Path, base: Path, *further: str) -> Run:
    given = words(write(root / "data"), root / "runs")[1:]
    return compose_run(*given, "model=auto", f"model.path={base}", *further)


@pytest.mark.parametrize("family", sample(FAMILIES, "llama", "modernbert"))
def test_a_folder_is_trained_scored_and_shipped(family: str, tmp_path: Path) -> None:
    base = folder(tmp_path / "base", family)
    run = asked(tmp_path, base)
    record = execute(run)
    assert [sub["rank"] for sub in record["submodels"]] == [1, 2, 3]
    export.export(run.folder, tmp_path / "rank2", 2)
    options: dict[str, Any] = {"key_mapping": {r"^model\.": "transformer."}} if family in RENAMED else {}
    card = (tmp_path / "rank2" / "README.md").read_text()
    assert ("key_mapping" in card) == bool(options)
    stock = AutoModelForQuestionAnswering.from_pretrained(base, **options)
    stock = PeftModel.from_pretrained(stock, tmp_path / "rank2").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "rank2")("Where?", "Ann lives in Oslo.", return_tensors="pt")
    logits = []
    for model in (stock, rankbench.load(run.folder, rank=2), rankbench.load(run.folder, rank=3)):
        with torch.no_grad():
            out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        logits.append(torch.stack([out.start_logits, out.end_logits]))
    assert torch.allclose(logits[0], logits[1], atol=1e-4)
    assert not torch.allclose(logits[1], logits[2], atol=1e-3)
    trained = pd.read_parquet(run.folder / "predictions.parquet")
    assert len(trained) == 3 * record["submodels"][0]["n"]


WHOLE = [(family, "lora") for family in FAMILIES]
WHOLE += [(family, method) for family in ("llama", "qwen3", "bert") for method in ("full", "head", "flop", "sorted_ft")]


@pytest.mark.parametrize("case", sample(WHOLE, ("llama", "lora"), ("llama", "full")), ids="-".join)
def test_a_whole_model_is_saved_under_the_names_that_its_class_looks_for(case: tuple[str, str], tmp_path: Path) -> None:
    family, adapter = case
    base = folder(tmp_path / "base", family)
    run = asked(tmp_path, base, f"adapter={adapter}", "adapter.target_modules=all-linear", "evaluate.baselines=false")
    execute(run)
    export.main([str(run.folder), "--to", str(tmp_path / "shipped"), *(["--merge"] if adapter == "lora" else [])])
    stock, told = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "shipped", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    batch = AutoTokenizer.from_pretrained(tmp_path / "shipped")("Where?", "Ann lives in Oslo.", return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours, theirs = rankbench.load(run.folder)(**inputs), stock.eval()(**inputs)
    assert torch.allclose(ours.start_logits, theirs.start_logits, atol=1e-4)
    assert torch.allclose(ours.end_logits, theirs.end_logits, atol=1e-4)


@pytest.mark.parametrize("family", sample(("bert", "modernbert", "llama"), "bert"))
def test_the_head_trains_whole_and_holds_no_adapter(family: str, tmp_path: Path) -> None:
    from rankbench import methods
    from rankbench.models import backbone

    base = folder(tmp_path / "base", family)
    for adapter in ("lora", "head"):
        run = asked(tmp_path, base, f"adapter={adapter}", "adapter.target_modules=all-linear")
        tuning = methods.attach(run, backbone.load(run.model, 2, False, 0, extracts=True).model)
        outside = [name for name in tuning.trained() if "lora_" not in name]
        parts = {"bert": 2, "llama": 2, "modernbert": 4}[family]
        assert len(outside) == parts, outside
        assert not any("lora_" in name for name in tuning.trained() if "qa_outputs" in name or ".classifier" in name)


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    from rankbench.models import backbone
    from rankbench.settings.model import Model

    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(RequestError, match=r"model\.gguf is a GGUF file, .*task=instruction"):
        backbone.load(Model(name="m", path=str(file)), 2, False, 0, extracts=True)


@pytest.mark.parametrize("family", sample(NONE, "phi"))
def test_a_family_without_such_a_head_is_refused_by_name(family: str, tmp_path: Path) -> None:
    base = folder(tmp_path / "base", family)
    with pytest.raises(RequestError, match=rf"no head that extracts answers for a {family} model; choose"):
        execute(asked(tmp_path, base))
