"""A quantized decoder in 16 bits, as every default of adapter=qdylora is on a recent card: train, come back, answer."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from conftest import compose_run, write_jsonl
from transformers import AutoTokenizer, PreTrainedModel

import rankbench
from rankbench.errors import RunFailed
from rankbench.models import backbone, quantization
from rankbench.records.finished import finished
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import decode, layer_ranks

WORDS = ["model=tiny_llama", "task=instruction", "train.max_steps=3", "train.batch_size=4", "train.precision=bf16"]
WORDS += ["task.metrics=[loss,exact_match]", "task.max_new_tokens=3", "task.max_length=96"]
pytestmark = pytest.mark.full
RANKED = ["adapter.r=4", "evaluate.submodels=[2,4]"]


def run_of(root: Path, *words: str) -> Run:
    for split, rows in (("train", 12), ("validation", 20)):
        lines = [{"instruction": f"say {i}", "input": "", "output": "la" * (1 + i % 3)} for i in range(rows)]
        write_jsonl(root / "data" / f"{split}.jsonl", lines)
    return compose_run(*WORDS, f"task.data_dir={root / 'data'}", f"runs_dir={root / 'runs'}", *words)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed qdylora run over 4 bits, stepped and scored in bf16."""
    run = run_of(tmp_path_factory.mktemp("bits"), "adapter=qdylora", "task.packing=true", *RANKED)
    assert execute(run)["status"] == "done"
    return run.folder


def test_it_comes_back_and_answers_as_it_was_scored(done: Path) -> None:
    model = rankbench.load(done, rank=2)
    tokenizer = AutoTokenizer.from_pretrained(done / "adapter")
    inputs = tokenizer("say 1", return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_ranks_for_its_layers_are_chosen(done: Path) -> None:
    assert layer_ranks.choose(finished(done), 2).ranks


@pytest.mark.parametrize("words", [["adapter=sorted_lora", "quantization=nf4", "adapter.r=2"], ["adapter=early_exit"]])
def test_its_exits_decode_in_its_precision(words: list[str], tmp_path: Path) -> None:
    run = run_of(tmp_path, *words, "train.max_steps=1")
    assert execute(run)["status"] == "done"
    measured, said = decode.compare(finished(run.folder), examples=2, max_new_tokens=3)
    assert said["precision"] == "bf16" and all(way.tokens for way in measured)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("trains", [False, True])
def test_it_computes_in_the_dtype_that_was_asked_for(precision: str, compute: str, trains: bool) -> None:
    """Whatever dtype arrives first, and under autocast, which would make bf16 of a product in float32."""
    settings = compose_run("quantization=nf4", f"quantization.compute_dtype={compute}").quantization
    stored = quantization.storage(settings, precision, torch.device("cpu"))
    model = backbone.load(compose_run("model=tiny_llama").model, None, False, 0, stored).model
    layer = model.model.layers[0].mlp.up_proj
    dtype = quantization.DTYPES[compute]
    x = torch.randn(3, layer.in_features).requires_grad_(trains)
    for given in (x, x.bfloat16()):
        whole = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
        expected = torch.nn.functional.linear(given.to(dtype), whole).to(given.dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found = layer(given)
        error = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
        assert error < 2**-7
        rounded = torch.equal(found, found.bfloat16().to(found.dtype))
        assert rounded == (torch.bfloat16 in (dtype, given.dtype))


def models() -> list[Any]:
    return [thing for thing in gc.get_objects() if isinstance(thing, PreTrainedModel)]


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_leaves_no_model_behind_for_the_next_one(fails: bool, tmp_path: Path) -> None:
    """A sweep keeps what its jobs raised, and autocast leaves circles: neither may hold a card's memory."""
    gc.collect()
    before = len(models())
    run = run_of(tmp_path, "adapter=dylora", *RANKED, *(["train.learning_rate=1e38"] if fails else []))
    gc.disable()
    try:
        kept: Any = None
        try:
            kept = execute(run)
        except RunFailed as error:
            kept = error
        assert len(models()) == before and isinstance(kept, RunFailed) == fails
    finally:
        gc.enable()
