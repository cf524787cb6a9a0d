"""Time a training step of QDyLoRA against stock PEFT QLoRA at the same maximum rank, over random 4-bit weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import subject
import timing
import torch
from accelerate import Accelerator
from peft import LoraConfig, TaskType, get_peft_model

from rankbench.methods import objective
from rankbench.methods.lora import DyLora
from rankbench.models import backbone, quantization
from rankbench.models.precision import choose_precision
from rankbench.settings.run import Run
from rankbench.training.loop import make_optimizer
from rankbench.training.samplers import draw

QLORA, DRAWN = "QLoRA (PEFT)", "QDyLoRA, rank drawn"


def main() -> None:
    parser = timing.arguments(__doc__, repeats=30)
    parser.add_argument("--model", default="llama2_7b", help="a choice of conf/model; its shape with random weights")
    parser.add_argument("--r", type=int, default=64, help="maximum rank R")
    parser.add_argument("--batch", type=int, default=4, help="sequences in a batch")
    parser.add_argument("--tokens", type=int, default=512, help="tokens in a sequence, half of them the response")
    parser.add_argument("--warmup", type=int, default=3, help="steps of each side before the timed ones")
    asked = parser.parse_args()

    run = subject.random_run(asked.model, "adapter=qdylora", f"adapter.r={asked.r}")
    precision = choose_precision(run.train.precision, run.hardware)
    accelerator = Accelerator(mixed_precision="no" if precision[0] == "fp32" else precision[0])
    sides = {QLORA: _qlora(run, asked, accelerator), DRAWN: _qdylora(run, asked, accelerator)}
    seconds = timing.alternate(sides, asked.repeats, asked.warmup)
    ratio = timing.ratio(seconds[DRAWN], seconds[QLORA])
    rows = [[name, *timing.spread(values, 1e-3)] for name, values in seconds.items()]
    heading = f"ms a step, {asked.model} in nf4, R={asked.r}, {asked.batch} x {asked.tokens}"
    text = f"{timing.table([heading, 'min', 'median', 'max'], rows)}\n\nQDyLoRA / QLoRA: {ratio:.3f}"
    timing.report(asked, text, {"seconds": seconds, "ratio_to_qlora": ratio}, precision)


def _backbone(run: Run, accelerator: Accelerator) -> Any:
    kept = quantization.storage(run.quantization, _precision(accelerator), accelerator.device)
    return backbone.load(run.model, None, False, run.seed, kept).model


def _precision(accelerator: Accelerator) -> str:
    return {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)


def _qlora(run: Run, asked: argparse.Namespace, accelerator: Accelerator) -> timing.Prepare:
    adapter = run.adapter
    settings = LoraConfig(
        r=adapter.r, lora_alpha=adapter.lora_alpha, target_modules="all-linear", task_type=TaskType.CAUSAL_LM
    )
    model = get_peft_model(_backbone(run, accelerator), settings)
    step = _step(run, model, subject.trained(model), accelerator)
    return lambda i: partial(step, _batch(asked, model, i))


def _qdylora(run: Run, asked: argparse.Namespace, accelerator: Accelerator) -> timing.Prepare:
    adapter = DyLora(run, _backbone(run, accelerator))
    step = _step(run, adapter.model, adapter.optimized(), accelerator)

    def act(i: int, batch: dict[str, torch.Tensor]) -> None:
        adapter.activate(draw(run.sampler, adapter.family, run.seed, i)[0][0])
        step(batch)

    return lambda i: partial(act, i, _batch(asked, adapter.model, i))


def _step(
    run: Run, model: Any, tensors: list[torch.Tensor], accelerator: Accelerator
) -> Callable[[dict[str, torch.Tensor]], None]:
    """A whole optimizer step as the training loop does it."""
    if run.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    wrapped = accelerator.prepare(model)
    optimizer = accelerator.prepare(make_optimizer(run.train, tensors))

    def step(batch: dict[str, torch.Tensor]) -> None:
        accelerator.backward(objective.loss(wrapped, batch))
        accelerator.clip_grad_norm_(tensors, run.train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _batch(asked: argparse.Namespace, model: Any, seed: int) -> dict[str, torch.Tensor]:
    return subject.random_batch(asked.batch, asked.tokens, model, seed)


if __name__ == "__main__":
    main()
