"""Quantized backbones: every family of models, heads kept out, and 4-bit buffers that nothing ever changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_tiny
from tiny import a_batch, a_run, attached, encoded, logits, randomise, stock_slice
from torch import nn

from rankbench import methods
from rankbench.errors import RequestError
from rankbench.methods.lora import DyLora
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone, quantization
from rankbench.models.quantization import Storage, storage, stored
from rankbench.runs.life import execute
from rankbench.scoring.evaluation import evaluate
from rankbench.settings.quantization import Compute, Quantization
from rankbench.tasks.encoding import collate

bnb = pytest.importorskip("bitsandbytes")

MODELS = ["tiny_bert", "tiny_gpt2", "tiny_llama", "tiny_falcon"]
KINDS = ["nf4", "fp4", "int8"]
CPU = torch.device("cpu")


def a_model(model: str, name: str, num_labels: int | None = 2, **settings: Any) -> nn.Module:
    kept = storage(Quantization(name=name, **settings), "fp32", CPU)
    return backbone.load(a_run(f"model={model}").model, num_labels, False, 0, kept).model


def a_folder(model: str, folder: Path, **shape: int) -> Path:
    """A float model in the hub's format."""
    changes = [f"model.random.{key}={value}" for key, value in shape.items()]
    body = backbone.load(a_run(f"model={model}", *changes).model, 2, False, 0)
    body.model.save_pretrained(folder)
    body.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_every_linear_layer_of_the_base_is_quantized_and_the_head_is_not(model: str, kind: str) -> None:
    plain, made = a_model(model, "none"), a_model(model, kind)
    wanted = {name for name, _ in quantization.layers(plain, quantization.kept_out(plain))}
    types = bnb.nn.Linear8bitLt if kind == "int8" else bnb.nn.Linear4bit
    assert {name for name, module in made.named_modules() if isinstance(module, types)} == wanted
    assert not list(quantization.layers(made, quantization.kept_out(made)))
    assert len(wanted) >= 8 and not any(name.startswith(("classifier", "score")) for name in wanted)
    head = [module for name, module in made.named_modules() if name in ("classifier", "score")]
    assert [type(module) for module in head] == [nn.Linear]
    assert head[0].weight.dtype is torch.float32


def test_robertas_two_layer_head_stays_whole() -> None:
    run = a_run("model=tiny_bert", "model.random.model_type=roberta")
    made = backbone.load(run.model, 2, False, 0, storage(Quantization(name="nf4"), "fp32", CPU)).model
    head = [name for name, module in made.named_modules() if type(module) is nn.Linear]
    assert head == ["classifier.dense", "classifier.out_proj"]
    assert sum(isinstance(module, bnb.nn.Linear4bit) for module in made.modules()) == 12


@pytest.mark.parametrize("model", MODELS[1:])
def test_the_output_embeddings_of_a_language_model_stay_whole(model: str) -> None:
    made = a_model(model, "nf4", None)
    assert type(made.get_output_embeddings()) is nn.Linear
    plain = a_model(model, "none", None)
    tied = plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_a_folder_is_quantized_to_nearly_the_float_model(model: str, kind: str, block: int, tmp_path: Path) -> None:
    folder = a_folder(model, tmp_path / "model")
    settings = a_run(f"model={model}", f"model.path={folder}").model
    kept = storage(Quantization(name=kind, block_size=block), "fp32", CPU)
    plain = backbone.load(settings, 2, False, 0).model.eval()
    made = backbone.load(settings, 2, False, 0, kept).model.eval()
    batch = a_batch()
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        hidden = [m.base_model(**inputs).last_hidden_state for m in (plain, made)]
    error = (hidden[0] - hidden[1]).norm() / hidden[0].norm()
    assert 0 < error < (0.1 if kind == "int8" else 0.4)


@pytest.mark.parametrize("model", MODELS)
def test_the_streamed_and_the_in_place_way_store_the_same_bits(model: str, tmp_path: Path) -> None:
    folder = a_folder(model, tmp_path / "model")
    settings = a_run(f"model={model}", f"model.path={folder}").model
    kept = storage(Quantization(name="nf4"), "fp32", CPU)
    streamed = backbone.load(settings, 2, False, 0, kept).model
    in_place = backbone.load(settings, 2, False, 0).model
    quantization.quantize(in_place, kept)
    one, other = stored(streamed), stored(in_place)
    assert one.keys() == other.keys() and len(one) >= 48
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_settings_reach_the_layers() -> None:
    for settings, nested, block in (({}, True, 64), ({"double_quant": False, "block_size": 128}, False, 128)):
        states = [
            m.weight.quant_state for m in a_model("tiny_bert", "nf4", **settings).modules() if hasattr(m, "quant_state")
        ]
        assert states and all((s.nested, s.blocksize, s.quant_type) == (nested, block, "nf4") for s in states)
    wide = Storage(Quantization(name="fp4", compute_dtype=Compute.fp16), torch.float32, CPU)
    made = backbone.load(a_run("model=tiny_llama").model, 2, False, 0, wide).model
    assert {m.compute_dtype for m in made.modules() if isinstance(m, bnb.nn.Linear4bit)} == {torch.float16}


def test_the_compute_type_reaches_the_layers_of_a_folder_too(tmp_path: Path) -> None:
    settings = a_run("model=tiny_llama", f"model.path={a_folder('tiny_llama', tmp_path / 'model')}").model
    wide = Storage(Quantization(name="nf4", compute_dtype=Compute.fp16), torch.float32, CPU)
    made = backbone.load(settings, 2, False, 0, wide).model
    assert {m.compute_dtype for m in made.modules() if isinstance(m, bnb.nn.Linear4bit)} == {torch.float16}


@pytest.mark.parametrize("content", [b"", b"GGUF" + bytes(96), b"no model at all" * 20])
def test_a_damaged_gguf_file_is_named(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "small.gguf").write_bytes(content)
    run = a_run("model=tiny_llama", "model.random=null", f"model.path={tmp_path / 'small.gguf'}", "task=instruction")
    for ask in (lambda: backbone.config_of(run.model, None), lambda: backbone.load(run.model, None, False, 0)):
        with pytest.raises(RequestError, match=r"small.gguf cannot be loaded: .*; correct the file or fetch it again"):
            ask()


def test_nf4_takes_the_bits_that_qlora_states() -> None:
    assert quantization.bits(Quantization(name="nf4")) == pytest.approx(4.127, abs=5e-4)
    assert quantization.bits(Quantization(name="nf4", double_quant=False)) == pytest.approx(4.5)
    assert quantization.bits(Quantization(name="int8")) == 8


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_sixteen_bit_backbone_is_prepared_for_training(model: str, precision: str) -> None:
    """As prepare_model_for_kbit_training: all frozen, norms float32; biases as the products want them."""
    kept = storage(Quantization(name="nf4"), precision, CPU)
    made = backbone.load(a_run(f"model={model}").model, 2, False, 0, kept).model
    assert not any(p.requires_grad for p in made.parameters())
    layers = [m for m in made.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert {m.compute_dtype for m in layers} == {kept.dtype}
    assert {m.bias.dtype for m in layers if m.bias is not None} <= {kept.dtype}
    norms = [m for m in made.modules() if "Norm" in type(m).__name__]
    assert norms and {p.dtype for m in norms for p in m.parameters()} == {torch.float32}
    assert made.get_input_embeddings().weight.dtype is kept.dtype


@pytest.mark.parametrize("task", ["task=tweets", "task=instruction"])
def test_adapters_and_trained_heads_are_float32_whatever_the_compute_type(task: str) -> None:
    run = a_run("model=tiny_llama", "adapter=qdylora", "adapter.r=4", task)
    kept = storage(run.quantization, "bf16", CPU)
    labels = None if run.task.kind == "causal_lm" else 2
    tuning = methods.attach(run, backbone.load(run.model, labels, False, 0, kept).model)
    assert {p.dtype for p in tuning.trained().values()} == {torch.float32}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_every_rank_equals_a_stock_peft_adapter_on_the_same_backbone(model: str, kind: str) -> None:
    overrides = (f"model={model}", "adapter=qdylora", f"quantization={kind}", "adapter.r=4", "adapter.lora_alpha=8")
    tuning = attached(*overrides)
    batch = a_batch()
    assert not torch.allclose(logits(tuning, batch, 1), logits(tuning, batch, 4), atol=1e-3)
    for b in (1, 3, 4):
        stock = stock_slice(tuning, a_run(*overrides), b, alpha=8)
        with torch.no_grad():
            assert torch.allclose(logits(tuning, batch, b), stock(**batch).logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_training_and_any_sweep_over_ranks_leave_the_quantized_buffers_bit_equal(model: str, kind: str) -> None:
    """Conformance test 15, in both modes: in eval mode bitsandbytes would repack 4-bit weights on a CPU."""
    run = a_run(f"model={model}", "adapter=qdylora", f"quantization={kind}", "adapter.r=4")
    kept = storage(run.quantization, "fp32", CPU)
    tuning = methods.attach(run, backbone.load(run.model, 2, False, 0, kept).model)
    randomise(tuning.model)
    before = copy.deepcopy(stored(tuning.model))
    assert len(before) >= 16
    split = encoded(24)
    optimizer = torch.optim.AdamW(tuning.optimized(), lr=1e-2, weight_decay=0.1)
    tuning.model.train()
    first = copy.deepcopy(next(iter(tuning.trained().values())).data)
    for step in range(3):
        tuning.activate(Submodel(rank=1 + step))
        tuning.model(**collate(split, split.index[:8], 0)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(first, next(iter(tuning.trained().values())).data)
    for ranks, budget in (((1, 2, 3, 4), 10**9), ((4, 2, 1, 3), 0)):
        members = [Submodel(rank=b) for b in ranks]
        evaluate(tuning.model, tuning, [split], members, ["accuracy"], batch_size=8, pad_id=0, stack_tokens=budget)
    after = stored(tuning.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_gradient_checkpointing_gives_the_same_gradients_over_a_quantized_backbone() -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        tuning = attached("model=tiny_llama", "adapter=qdylora", "adapter.r=4")
        tuning.model.train()
        if checkpointing:
            tuning.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        tuning.activate(Submodel(rank=2))
        tuning.model(**a_batch()).loss.backward()
        return [p.grad for p in tuning.trained().values() if p.grad is not None]

    plain, checkpointed = gradients(False), gradients(True)
    assert len(plain) == len(checkpointed) > 10
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, checkpointed, strict=True))


@pytest.mark.parametrize("adapter", ["qdylora", "lora", "dylora"])
def test_a_quantized_run_ends_in_a_record_and_resumes(adapter: str, tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "data")
    words = ["model=tiny_bert", "task=classification", f"task.data_dir={data}", f"runs_dir={tmp_path / 'runs'}"]
    words += [f"adapter={adapter}", "quantization=nf4", "adapter.r=4", "train.max_steps=4", "train.batch_size=8"]
    run = a_run(*words)
    found = execute(run)
    assert found["status"] == "done" and found["config"]["quantization"]["name"] == "nf4"
    assert len(found["submodels"]) == 4
    assert found["submodels"][0]["parameters"]["total"] > 20_000  # packed weights are counted, not bytes
    assert execute(run) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapter=full", "quantization=nf4"], "ends with a whole model.*quantization=none"),
        (["adapter=qdylora", "quantization=none"], "quantized backbone; use quantization=nf4"),
        (["quantization=nf4", "quantization.block_size=48"], "use 32, 64, 128"),
        (["quantization=nf4", "train.precision=fp32", "quantization.compute_dtype=bf16"], "leave one of the two out"),
        (["quantization=int8", "hardware=v100"], "int8 needs compute capability 7.5.*use quantization=nf4"),
        (["quantization=nf4", "hardware=v100", "quantization.compute_dtype=bf16"], "no bf16"),
    ],
)
def test_a_contradiction_is_refused_with_the_mend(words: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        a_run(*words)


def test_qdylora_is_dylora_over_nf4_on_every_linear_layer() -> None:
    run = a_run("model=tiny_llama", "adapter=qdylora")
    assert (run.quantization.name, run.adapter.target_modules, run.adapter.r) == ("nf4", "all-linear", 64)
    assert run.train.optimizer.value == "paged_adamw" and run.sampler.name == "uniform"
    tuning = attached("model=tiny_llama", "adapter=qdylora", "adapter.r=4")
    assert isinstance(tuning, DyLora) and len(tuning.layers) == 14
    assert a_run("model=tiny_llama", "adapter=qdylora", "quantization=fp4").quantization.name == "fp4"
