"""Tiny random models, batches and encoded splits for tests of the method."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from conftest import compose_run

from rankbench import methods
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone, integer, quantization
from rankbench.settings.run import Run
from rankbench.settings.samplers import Sampler
from rankbench.settings.train import Train
from rankbench.tasks.encoding import Encoded

MODELS = ["tiny_bert", "tiny_gpt2", "tiny_llama"]


def a_run(*overrides: str) -> Run:
    """The checked run of a command line, on a tiny model unless told otherwise."""
    return compose_run("model=tiny_bert", *overrides)


def attached(*overrides: str, num_labels: int | None = 2) -> methods.FineTuning:
    """A tiny model with the adapter of a command line; B is drawn at random, so that ranks differ."""
    run = a_run(*overrides)
    stored = quantization.storage(run.quantization, "fp32", torch.device("cpu"))
    model = backbone.load(run.model, num_labels, run.task.regression, run.seed, stored).model
    integer.put(model, run.arithmetic, run.seed)
    tuning = methods.attach(run, model)
    randomise(tuning.model)
    tuning.model.eval()
    return tuning


def asked(run: Run) -> tuple[Train, Sampler, int]:
    """What the loop reads of a run."""
    return run.train, run.sampler, run.seed


def randomise(model: torch.nn.Module, seed: int = 1) -> None:
    """Give every B matrix values: at B = 0 all ranks agree and no test could fail."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


def a_batch(rows: int = 4, length: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random byte tokens with labels, the last row half padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 250, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, length // 2 :] = 0
    ids = torch.where(mask == 1, ids, 0)
    labels = torch.randint(0, 2, (rows,), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def logits(tuning: methods.FineTuning, batch: dict[str, torch.Tensor], rank: int | None = None) -> torch.Tensor:
    """Logits at a rank, without gradients."""
    if rank is not None:
        tuning.activate(Submodel(rank=rank))
    with torch.no_grad():
        return tuning.model(**batch).logits


def stock_slice(tuning: methods.FineTuning, run: Run, rank: int, alpha: float) -> torch.nn.Module:
    """A stock PEFT model on the same backbone that holds A[:rank], B[:, :rank] as an ordinary LoRA of that rank."""
    from peft import LoraConfig, TaskType, get_peft_model

    causal = run.task.kind == "causal_lm"
    stored = quantization.storage(run.quantization, "fp32", torch.device("cpu"))
    base = backbone.load(run.model, None if causal else 2, False, run.seed, stored).model
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=run.adapter.target_modules,
        task_type=TaskType.CAUSAL_LM if causal else TaskType.SEQ_CLS,
    )
    model = get_peft_model(base, config)
    values: dict[str, Any] = dict(tuning.model.named_parameters())
    for name, parameter in model.named_parameters():
        value = values[name].data
        if "lora_A" in name:
            value = value[:rank]
        elif "lora_B" in name:
            value = value[:, :rank]
        parameter.data = value.clone()
    return model.eval()


def encoded(rows: int = 40, seed: int = 0, name: str = "train") -> Encoded:
    """A ragged split of random byte tokens whose label is whether the first token is large."""
    rng = np.random.default_rng(seed)
    ids = [[1, *map(int, rng.integers(3, 250, rng.integers(3, 14))), 2] for _ in range(rows)]
    labels = np.array([int(x[1] > 125) for x in ids])
    return Encoded(name, {"input_ids": ids}, labels, np.arange(rows), np.array([len(x) for x in ids]))


def state(tuning: methods.FineTuning) -> dict[str, torch.Tensor]:
    """A copy of the trained weights."""
    return {name: copy.deepcopy(p.data) for name, p in tuning.trained().items()}
