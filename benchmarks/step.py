"""Time a training step of DyLoRA against one of stock PEFT LoRA at the same maximum rank."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import subject
import timing
import torch
from torch import nn

from rankbench.methods.lora import DyLora
from rankbench.methods.submodel import Submodel
from rankbench.models.precision import choose_precision
from rankbench.settings.run import Run
from rankbench.training.loop import make_optimizer
from rankbench.training.samplers import draw

LORA, DRAWN, WHOLE = "LoRA (PEFT)", "DyLoRA, rank drawn", "DyLoRA, rank R"


def main() -> None:
    parser = timing.arguments(__doc__, repeats=60)
    parser.add_argument("--warmup", type=int, default=6, help="steps of each side before the timed ones")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a batch")
    parser.add_argument("--tokens", type=int, default=24, help="tokens in a sequence")
    parser.add_argument("--r", type=int, default=8, help="maximum rank R")
    asked = parser.parse_args()

    run = subject.run("adapter=dylora", f"adapter.r={asked.r}", f"adapter.lora_alpha={2 * asked.r}")
    precision = choose_precision(run.train.precision, run.hardware)
    bf16 = precision[0] == "bf16"
    sides = {LORA: _lora(run, asked, bf16), DRAWN: _dylora(run, asked, bf16), WHOLE: _dylora(run, asked, bf16, asked.r)}
    seconds = timing.alternate(sides, asked.repeats, asked.warmup)
    ratios = {name: timing.ratio(seconds[name], seconds[LORA]) for name in sides}
    rows = [[name, *timing.spread(values, 1e-3), f"{ratios[name]:.3f}"] for name, values in seconds.items()]
    heading = f"ms a step, R={asked.r}, {asked.batch} x {asked.tokens}"
    text = timing.table([heading, "min", "median", "max", "ratio"], rows)
    timing.report(asked, text, {"seconds": seconds, "ratio_to_lora": ratios}, precision)


def _lora(run: Run, asked: argparse.Namespace, bf16: bool) -> timing.Prepare:
    model = subject.stock_lora(run, 2)
    step = _step(model, make_optimizer(run.train, subject.trained(model)), bf16)
    return lambda i: partial(step, _batch(asked, i))


def _dylora(run: Run, asked: argparse.Namespace, bf16: bool, rank: int | None = None) -> timing.Prepare:
    """Steps at `rank`, or at the rank that the run's sampler draws for each; the draw is timed too."""
    adapter = DyLora(run, subject.model_as_run(run, 2))
    step = _step(adapter.model, make_optimizer(run.train, adapter.optimized()), bf16)

    def act(i: int, batch: dict[str, torch.Tensor]) -> None:
        submodel = draw(run.sampler, adapter.family, run.seed, i)[0][0] if rank is None else Submodel(rank)
        adapter.activate(submodel)
        step(batch)

    return lambda i: partial(act, i, _batch(asked, i))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, bf16: bool) -> Callable[[dict[str, torch.Tensor]], None]:
    model.train()

    def act(batch: dict[str, torch.Tensor]) -> None:
        with torch.autocast(subject.device().type, torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return act


def _batch(asked: argparse.Namespace, i: int) -> dict[str, torch.Tensor]:
    """The i-th batch of random tokens, the same for every side."""
    random = torch.Generator().manual_seed(i)
    shape = (asked.batch, asked.tokens)
    batch = {
        "input_ids": torch.randint(1000, 30000, shape, generator=random),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "labels": torch.randint(0, 2, shape[:1], generator=random),
    }
    return {name: tensor.to(subject.device()) for name, tensor in batch.items()}


if __name__ == "__main__":
    main()
