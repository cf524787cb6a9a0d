"""The forecast before the first download: its bytes are the real ones, and what it advises holds."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import compose_run, sample, sentences, tiny_overrides
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from rankbench import methods
from rankbench.errors import RequestError
from rankbench.forecast import plan, rehearsal, step_memory
from rankbench.methods import objective
from rankbench.models import backbone, integer, quantization
from rankbench.models.device import V100_MEMORY
from rankbench.settings.run import Run
from rankbench.training import loop

GB, GIB = 10**9, 2**30
HEADLINE = ["model=falcon_40b", "adapter=qdylora", "task=alpaca", "hardware=v100", "train.batch_size=1"]
WIDER = {
    "tiny_bert": ["hidden_size=320", "intermediate_size=640", "num_hidden_layers=3"],
    "tiny_gpt2": ["n_embd=320", "n_layer=3"],
    "tiny_llama": ["hidden_size=320", "intermediate_size=640", "num_hidden_layers=3"],
    "tiny_falcon": ["hidden_size=320", "num_hidden_layers=3"],
}
CAUSAL = ("tiny_gpt2", "tiny_llama", "tiny_falcon")
ROWS, LENGTH = 3, 64


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forecasts are compared with a CPU's bytes, wherever the tests run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def wider(model: str, *overrides: str) -> Run:
    """A run of a tiny model made wide enough that constants do not hide what grows; rows of 64 tokens."""
    task = "task=alpaca" if model in CAUSAL else "task=sst2"
    shape = [f"model.random.{setting}" for setting in WIDER[model]]
    return compose_run(f"model={model}", task, f"task.max_length={LENGTH}", *shape, *overrides)


def loaded(run: Run) -> torch.nn.Module:
    """The real model of a run, on the CPU."""
    stored = quantization.storage(
        run.quantization, step_memory.precision(run.train.precision, run.hardware)[0], torch.device("cpu")
    )
    labels = None if run.task.kind == "causal_lm" else 2
    return backbone.load(run.model, labels, False, run.seed, stored).model


def tensors_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Everything that a model keeps: parameters, buffers, and bitsandbytes' scales, nested ones too."""

    def inside(value: object) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        return [t for v in vars(value).values() for t in inside(v)] if type(value).__name__ == "QuantState" else []

    found = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        found += inside(getattr(parameter, "quant_state", None))
        found += [t for name in ("CB", "SCB") for t in inside(getattr(parameter, name, None))]
    for module in model.modules():
        found += [t for name in ("CB", "SCB") for t in inside(getattr(getattr(module, "state", None), name, None))]
    return found


def storages(tensors: list[torch.Tensor]) -> dict[int, int]:
    """Bytes of each storage by its number, shared ones once."""
    return {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}


def batch(run: Run) -> dict[str, torch.Tensor]:
    """Rows of 64 tokens, the last one padded by eight."""
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[-1, -8:] = 0
    inputs = {"input_ids": torch.full((ROWS, LENGTH), 7), "attention_mask": mask}
    return inputs | ({"use_cache": False} if run.task.kind == "causal_lm" else {})


def blocks_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    layers = model.config.num_hidden_layers
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == layers)


QUANTIZATIONS = [
    ["quantization=none"],
    ["quantization=int8"],
    *(
        [f"quantization={name}", f"quantization.double_quant={double}", f"quantization.block_size={size}"]
        for name in ("nf4", "fp4")
        for double in ("true", "false")
        for size in (64, 256)
    ),
]


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=lambda words: "-".join(w.split("=")[1] for w in words))
@pytest.mark.parametrize("model", sample(["tiny_bert", "tiny_gpt2", "tiny_llama"], "tiny_gpt2"))
def test_the_weights_are_those_allocated(model, quantization):
    run = wider(model, *quantization)
    real = sum(storages(tensors_of(loaded(run))).values())
    four_bits = quantization[0].endswith("4")  # each layer has its own tables of what the codes mean, a kilobyte
    assert step_memory.forecast(run).weights == pytest.approx(real, rel=0.012 if four_bits else 1e-6)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2", "tiny_falcon"])
def test_the_weights_of_a_16_bit_run_keep_norms_and_heads_in_float32(model):
    run = wider(model, "quantization=int8", "train.precision=bf16", "+model.random.vocab_size=3000")
    assert step_memory.forecast(run).weights == sum(storages(tensors_of(loaded(run))).values())


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        (["adapter=lora"], "adamw"),
        (["adapter=dylora"], "adamw"),
        (["adapter=full"], "adamw"),
        (["adapter.update=frozen_strict"], "adamw"),
        (["adapter=dylora"], "paged_adamw"),
        (["adapter=lora"], "sgd"),
    ],
    ids=str,
)
def test_adapter_gradients_and_optimizer_are_those_of_a_real_step(method, optimizer):
    run = wider("tiny_bert", f"train.optimizer={optimizer}", *method)
    model = loaded(run)
    own = storages(list(model.parameters()))
    tuning = methods.attach(run, model)
    added = {k: v for k, v in storages(list(tuning.trained().values())).items() if k not in own}
    tuning.model(**batch(run), labels=torch.zeros(ROWS, dtype=torch.long)).loss.backward()
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in tuning.trained().values())
    stepper = loop.make_optimizer(run.train, tuning.optimized())
    for group in stepper.param_groups:
        for tensor in group["params"]:  # of frozen_strict every rank at once, as after many steps
            tensor.grad = torch.ones_like(tensor)
    stepper.step()
    kept = sum(t.numel() * t.element_size() for s in stepper.state.values() for t in s.values() if torch.is_tensor(t))
    found = step_memory.forecast(run)
    assert found.adapter == sum(added.values())
    assert found.gradients == gradients
    assert found.optimizer == pytest.approx(kept, rel=0.05)


METHODS = [
    ["adapter=lora"],
    ["adapter=dylora", "adapter.target_modules=all-linear"],
    ["adapter=full"],
    ["adapter=dylora", "quantization=nf4"],
]


@pytest.mark.parametrize("method", METHODS, ids="-".join)
@pytest.mark.parametrize("model", sample(WIDER, "tiny_bert", "tiny_llama"))
def test_activations_are_what_autograd_saves(model, method):
    run = wider(model, *method)
    tuning = methods.attach(run, loaded(run))
    tuning.model.train()
    own = set(storages(tensors_of(tuning.model)))
    real = rehearsal.saved(lambda: tuning.model(**batch(run)), tuning.model, blocks_of(tuning.model), own)
    assert step_memory.forecast(run, rows=ROWS).activations == pytest.approx(real.inside + real.outside, rel=0.05)


@pytest.mark.parametrize("bits", ["int8", "int12"])
@pytest.mark.parametrize("method", [["adapter=dylora"], ["adapter=full"]], ids="-".join)
@pytest.mark.parametrize("model", sample(["tiny_bert", "tiny_gpt2"], "tiny_bert"))
def test_integers_are_counted_beside_frozen_weights_and_among_activations(model, method, bits):
    run = wider(model, *method, f"arithmetic={bits}")
    body = loaded(run)
    integer.put(body, run.arithmetic, run.seed)
    tuning = methods.attach(run, body)
    tuning.model.train()
    tuning.model(**batch(run))
    kept = [getattr(module, "_kept", None) for module in tuning.model.modules()]
    frozen = [one[1][0] for one in kept if one and isinstance(one[1], tuple)]
    own = set(storages([*tensors_of(tuning.model), *frozen]))
    real = rehearsal.saved(lambda: tuning.model(**batch(run)), tuning.model, blocks_of(tuning.model), own)
    found = step_memory.forecast(run, rows=ROWS)
    assert found.weights == step_memory.forecast(wider(model, *method)).weights + sum(q.nbytes for q in frozen)
    assert bool(frozen) is (method == ["adapter=dylora"])
    assert found.activations == pytest.approx(real.inside + real.outside, rel=0.05)


class Alive(TorchDispatchMode):
    """Follows every storage that an operation makes: `bytes()` of those alive, and the `peak` of that."""

    def __init__(self, owned: set[int]) -> None:
        super().__init__()
        self.owned, self.made, self.peak = owned, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.bytes()  # a dead storage's number may come again
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.owned:
                    self.made.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, self.bytes())
        return result

    def bytes(self) -> int:
        self.made = {k: v for k, v in self.made.items() if not v[0].expired()}
        return sum(size for _, size in self.made.values())


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("model", list(WIDER))
@pytest.mark.slow
def test_checkpointing_keeps_what_is_alive_after_the_forward_and_one_layer(model, quantization):
    run = wider(model, f"quantization={quantization}", "adapter=dylora", "adapter.target_modules=all-linear")
    tuning = methods.attach(run, loaded(run))
    tuning.model.train()
    own = set(storages(tensors_of(tuning.model)))
    layer = rehearsal.saved(lambda: tuning.model(**batch(run)), tuning.model, blocks_of(tuning.model), own).last
    loop._checkpoint_activations(tuning)
    with Alive(own) as alive:
        logits = tuning.model(**batch(run)).logits
        kept = alive.bytes() - logits.untyped_storage().nbytes()
    assert step_memory.forecast(run, rows=ROWS).activations_checkpointed == pytest.approx(kept + layer, rel=0.1)


def test_an_int8_layer_keeps_its_input_whether_checkpointed_or_not():
    four, eight = (step_memory.forecast(wider("tiny_llama", f"quantization={name}")) for name in ("nf4", "int8"))
    assert eight.activations_checkpointed > 1.5 * four.activations_checkpointed


@pytest.mark.parametrize("model", list(WIDER))
@pytest.mark.parametrize("method", ["adapter=dylora", "adapter=full", "quantization=nf4"])
@pytest.mark.slow
def test_two_layers_tell_what_all_layers_need(model, method):
    run = wider(model, method)
    config = backbone.config_of(run.model, step_memory._labels(run))
    assert step_memory.anatomy(run) == step_memory._dissect(run, config, 3)


def test_layers_that_differ_are_taken_one_by_one():
    every = wider("tiny_bert")
    one = wider("tiny_bert", "adapter.target_modules=[layer.2.attention.self.query]")
    assert step_memory.anatomy(one).low_rank * 6 == step_memory.anatomy(every).low_rank


@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize(("quantization", "vocabulary"), [("none", 260), ("none", 8000), ("nf4", 300)])
@pytest.mark.parametrize("model", list(WIDER))
@pytest.mark.slow
def test_the_peak_is_that_of_real_steps(model, quantization, vocabulary, checkpointing):
    words = [f"quantization={quantization}", f"train.gradient_checkpointing={checkpointing}"]
    run = wider(model, *words, "adapter.target_modules=all-linear", f"+model.random.vocab_size={vocabulary}")
    tuning = methods.attach(run, loaded(run))
    tuning.model.train()
    own = storages(tensors_of(tuning.model))
    if run.train.gradient_checkpointing:
        loop._checkpoint_activations(tuning)
    optimizer = loop.make_optimizer(run.train, tuning.optimized())
    inputs = {key: value for key, value in batch(run).items() if key != "use_cache"}
    inputs["labels"] = torch.full((ROWS, LENGTH - 1), 7) if model in CAUSAL else torch.zeros(ROWS, dtype=torch.long)
    with Alive(set(own)) as alive:
        for _ in range(2):  # the second finds the optimizer's moments
            objective.loss(tuning.model, inputs).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = step_memory.forecast(run, rows=ROWS)
    assert found.peak == pytest.approx(sum(own.values()) + alive.peak, rel=0.07)
    assert found.peak - found.weights - found.adapter == pytest.approx(alive.peak, rel=0.1)


def test_per_row_is_what_a_row_adds():
    run = wider("tiny_llama", "quantization=nf4")
    four, five = step_memory.forecast(run, rows=4), step_memory.forecast(run, rows=5)
    assert five.peak - four.peak == four.per_row
    assert step_memory.forecast(run) == step_memory.forecast(run, rows=run.train.batch_size)


def test_falcon_40b_has_its_published_size():
    run = compose_run(*HEADLINE, "train.precision=fp16")
    body, found = step_memory.anatomy(run), step_memory.forecast(run)
    assert body.quantized + body.rest == 41_835_970_560  # the checkpoint's index: 83,671,941,120 bytes in 16 bits
    assert body.quantized / GB == pytest.approx(40.77, abs=0.005)
    assert body.low_rank == 444_334_080
    assert body.quantized * quantization.bits(run.quantization) / 8 / GB == pytest.approx(21.0, abs=0.05)
    assert found.weights / GB == pytest.approx(21.0 + 2.1, abs=0.1)
    assert (found.adapter + found.gradients + found.optimizer) / GB == pytest.approx(7.1, abs=0.05)


def test_llama_7b_has_its_published_size():
    body = step_memory.anatomy(compose_run("model=llama2_7b", "adapter=qdylora", "task=alpaca"))
    assert body.quantized + body.rest == 6_738_415_616
    assert body.quantized == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert body.low_rank == 159_907_840  # QLoRA's r=64 on every linear layer


MILLIONS = {
    ("roberta_base", "sst2"): 124.6,
    ("roberta_large", "sst2"): 355.4,
    ("gpt2_medium", "alpaca"): 354.8,
    ("llama2_13b", "alpaca"): 13015.9,
    ("falcon_7b", "alpaca"): 7217.2,
}


@pytest.mark.parametrize("shape", sample(MILLIONS, *list(MILLIONS)[::4]), ids="-".join)
def test_published_shapes_give_published_sizes(shape):
    (model, task), millions = shape, MILLIONS[shape]
    body = step_memory.anatomy(compose_run(f"model={model}", f"task={task}"))
    assert (body.quantized + body.rest) / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_headline_falcon_40b_trains_64_ranks_on_a_v100():
    half = [*HEADLINE, "train.precision=fp16"]
    without = plan.lines(compose_run(*half, "train.gradient_checkpointing=false"))
    assert without[-1] == "  train.gradient_checkpointing=true"
    text = "\n".join(plan.lines(compose_run(*half, "train.gradient_checkpointing=true")))
    assert re.search(r"fits, with 1\.[0-9]+ GiB to spare", text)
    assert "444,334,080" in text and "31.31 GiB" in text


BASE = ["model=llama2_7b", "task=alpaca"]


@pytest.mark.parametrize("method", ["lora", "dylora"])
@pytest.mark.parametrize("room", [150, 30, 12, 4.6])
@pytest.mark.slow
def test_what_the_plan_names_makes_the_run_fit(method, room, monkeypatch):
    run = compose_run(*BASE, f"adapter={method}")
    monkeypatch.setattr(plan, "memory", lambda run: (round(room * GIB), "a card"))
    lines = plan.lines(run)
    assert any(line.startswith("does not fit") for line in lines)
    start = next(i for i, line in enumerate(lines) if line.startswith("fits with these"))
    words = " ".join(lines[start:]).split("):")[1].split()
    base = BASE if any(word.startswith("adapter=") for word in words) else [*BASE, f"adapter={method}"]
    applied = compose_run(*base, *words)
    assert step_memory.forecast(applied).peak <= room * GIB
    assert applied.train.batch_size * applied.train.gradient_accumulation_steps == 32
    for word in words if method == "lora" else []:  # none of them is idle
        if not word.startswith("train.gradient_accumulation"):
            fewer = compose_run(*base, *(w for w in words if w != word))
            assert step_memory.forecast(fewer).peak > room * GIB, word


@pytest.mark.slow
def test_the_mildest_change_comes_first():
    run = compose_run(*BASE, "adapter=lora")
    whole = step_memory.forecast(run).peak
    assert plan.overrides(run, plan.mended(run, whole - 1)) == ["train.gradient_checkpointing=true"]
    already = compose_run(*BASE, "adapter=lora", "train.gradient_checkpointing=true")
    words = plan.overrides(already, plan.mended(already, step_memory.forecast(already).peak - 1))
    assert words == ["train.batch_size=16", "train.gradient_accumulation_steps=2"]
    assert plan.mended(run, 2**30) is None


@pytest.mark.slow
def test_a_rank_that_is_asked_for_is_kept():
    free, bound = (compose_run(*BASE, "quantization=nf4", f"sampler.ranks={ranks}") for ranks in ("null", "[2,8]"))
    least = step_memory.forecast(
        plan._changed(bound, [lever[-1] for lever in plan._levers(bound, step_memory.anatomy(bound))])
    ).peak
    assert plan.mended(bound, least) is not None
    assert plan.mended(bound, least - 1) is None
    assert any(word.startswith("adapter.r=") for word in plan.overrides(free, plan.mended(free, least - 1)))


@pytest.mark.parametrize("checkpointing", sample(["true", "false"], "true"))
def test_the_largest_micro_batch_fits_and_one_row_more_does_not(checkpointing):
    run = wider("tiny_llama", f"train.gradient_checkpointing={checkpointing}")
    body, room = step_memory.anatomy(run), 300 * 2**20
    most = plan.largest_batch(body, run, room)
    assert most > 1
    assert step_memory.forecast(run, rows=most).peak <= room < step_memory.forecast(run, rows=most + 1).peak
    assert plan.largest_batch(body, run, step_memory.forecast(run, rows=1).peak - 1) == 0


def test_the_steps_are_the_training_loops(make_run):
    run = dataclasses.replace(make_run(), train=dataclasses.replace(make_run().train, max_steps=None, epochs=2))
    run.train.gradient_accumulation_steps = 3
    steps = loop.Plan(np.ones(64, np.int64), run.train, run.seed).steps
    assert f"steps  {steps} (2 epochs of {steps // 2}; 64 rows)" in plan.lines(run)


def test_with_patience_the_steps_are_the_most_that_there_are(make_run):
    words = ["train.eval_steps=2", "train.patience=3"]
    assert "steps  at most 4 (train.max_steps)" in plan.lines(make_run(*words))
    assert "steps  at most 24 (3 epochs of 8; 64 rows)" in plan.lines(make_run("train.max_steps=null", *words))


def test_a_folder_is_new_started_or_done(finished, make_run, tmp_path):
    done = [*tiny_overrides(finished.parents[1] / "data", finished.parent), "task.metrics=[accuracy,f1]"]
    run = compose_run(*done, "train.eval_steps=2", "train.log_steps=1")
    assert run.folder == finished
    assert "state  done: the same command prints its result" in plan.lines(run)
    assert "state  new" in plan.lines(make_run())
    for step in (200, 1400):
        (tmp_path / "begun" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    assert plan.state(tmp_path / "begun") == "started: the same command goes on from step 1,400"


def test_nothing_is_loaded_or_fetched(monkeypatch, no_network):
    import huggingface_hub
    import transformers

    def refuse(*_, **__):
        raise AssertionError("a plan loads nothing")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "AutoModelForSequenceClassification"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", refuse)
    for words in (["model=roberta_base", "task=sst2"], ["model=gpt2_medium", "task=alpaca"]):
        assert "steps  unknown until the data is here" in plan.lines(compose_run(*words))
    assert no_network == []


def test_data_in_the_hubs_cache_counts(monkeypatch, tmp_path):
    from huggingface_hub import constants

    run = compose_run("model=tiny_bert", "task=sst2", "train.epochs=1")
    folder = tmp_path / "datasets--nyu-mll--glue" / "snapshots" / str(run.task.revision) / "sst2"
    folder.mkdir(parents=True)
    frame = pd.DataFrame(sentences(70)).rename(columns={"text": "sentence"})
    frame.to_parquet(folder / "train-00000-of-00001.parquet")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert plan.on_disk(run.task) is None  # a part of it
    frame.to_parquet(folder / "validation-00000-of-00001.parquet")
    assert "steps  3 (1 epoch of 3; 70 rows)" in plan.lines(run)


REPORTS = [
    HEADLINE,
    [*HEADLINE, "train.precision=fp16", "train.gradient_checkpointing=true"],
    ["model=llama2_13b", "task=alpaca", "hardware=v100"],
    ["model=roberta_large", "task=mnli", "adapter=full"],
    ["model=tiny_gpt2", "task=alpaca", "task.packing=true"],
]


@pytest.mark.parametrize("words", sample(REPORTS, *REPORTS[3:]), ids=lambda words: "-".join(words[:2]))
def test_a_report_fits_80_columns(words, capsys):
    assert plan.report(compose_run(*words)) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 15
    assert [line for line in out.splitlines() if len(line) > 80 or line != line.rstrip()] == []


def test_a_long_path_is_not_broken(make_run, tmp_path):
    folder = "/".join([str(tmp_path), *["deep"] * 20])
    run = dataclasses.replace(make_run(), runs_dir=folder)
    assert f"{folder}/{run.run_id}" in " ".join(plan.lines(run))


def test_a_wrong_request_is_refused():
    with pytest.raises(RequestError, match=r"adapter\.r<="):
        step_memory.forecast(compose_run("model=tiny_bert", "task=sst2", "adapter.r=64"))
    with pytest.raises(RequestError, match="needs a GPU"):
        step_memory.forecast(compose_run("model=tiny_bert", "task=sst2", "train.precision=fp16"))


@pytest.mark.slow
def test_the_headline_fits_a_v100_in_fp16_and_the_plan_says_so(capsys):
    assert plan.report(compose_run(*HEADLINE)) == 0
    said = capsys.readouterr().out
    assert "does not fit" in said and "\n  train.precision=fp16\n" in said and "less stable" in said
    assert plan.report(compose_run(*HEADLINE, "train.precision=fp16")) == 0
    said = capsys.readouterr().out
    assert "\nfits, with" in said and "does not fit" not in said
    asked_for = compose_run(*HEADLINE, "quantization.compute_dtype=fp32")  # then fp16 is no way out
    assert plan.mended(asked_for, 32 * GIB).train.precision.value == "auto"


def test_a_v100_can_be_planned_for_without_one():
    run = compose_run(*HEADLINE)
    assert step_memory.precision(run.train.precision, run.hardware)[0] == "fp32"
    assert plan.memory(run) == (V100_MEMORY, "a V100 has")
    half = compose_run(*HEADLINE, "train.precision=fp16")
    assert step_memory.precision(half.train.precision, half.hardware)[0] == "fp16"
    assert step_memory.forecast(half).activations < step_memory.forecast(run).activations


def test_a_gpus_fused_attention_keeps_less_than_a_cpus_dropout():
    words = ["model=roberta_base", "task=sst2", "train.precision=fp32"]
    cpu, gpu = step_memory.forecast(compose_run(*words)), step_memory.forecast(compose_run(*words, "hardware=v100"))
    assert gpu.activations < 0.9 * cpu.activations


@pytest.mark.parametrize("method", ["dylora", "flop", "lora_gated", "early_exit", "head", "full"])
def test_a_plan_counts_what_the_run_trains(method: str) -> None:
    run = wider("tiny_bert", f"adapter={method}")
    tuning = methods.attach(run, loaded(run))
    trained = [*tuning.optimized(), *(p for _, own in tuning.own_rates() for p in own)]
    assert step_memory.anatomy(run).trained == sum(p.numel() for p in trained) > 0
