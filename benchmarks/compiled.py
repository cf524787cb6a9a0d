"""Time a training step with compiled layers against one without, of DyLoRA and of stock PEFT LoRA at the same R."""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import step
import subject
import timing
import torch

from rankbench.methods.lora import DyLora, Lora
from rankbench.models.precision import choose_precision
from rankbench.settings.run import Run
from rankbench.training.compiled import Layers
from rankbench.training.loop import make_optimizer
from rankbench.training.samplers import draw

DYLORA, LORA, PLAIN, COMPILED = "DyLoRA, rank drawn", "LoRA (PEFT)", "eager", "compiled"


def main() -> None:
    parser = timing.arguments(__doc__, repeats=40)
    parser.add_argument("--warmup", type=int, default=6, help="steps of each side before the timed ones")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a batch")
    parser.add_argument("--tokens", type=int, default=24, help="tokens in a sequence")
    parser.add_argument("--r", type=int, default=8, help="maximum rank R")
    asked = parser.parse_args()

    run = subject.run("adapter=dylora", f"adapter.r={asked.r}", f"adapter.lora_alpha={2 * asked.r}")
    precision = choose_precision(run.train.precision, run.hardware)
    bf16 = precision[0] == "bf16"
    first: dict[str, float] = {}
    sides = {
        f"{name}, {how}": _side(run, asked, bf16, name, how == COMPILED, first)
        for name in (DYLORA, LORA)
        for how in (PLAIN, COMPILED)
    }
    seconds = timing.alternate(sides, asked.repeats, asked.warmup)
    ratios, rows = {}, []
    for name, values in seconds.items():
        whose = name.rsplit(",", 1)[0]
        eager = seconds[f"{whose}, {PLAIN}"]
        ratios[name] = timing.ratio(values, eager)
        rows.append([name, *timing.spread(values, 1e-3), f"{ratios[name]:.3f}", _worth(first.get(name), values, eager)])
    heading = f"ms a step, R={asked.r}, {asked.batch} x {asked.tokens}"
    text = timing.table([heading, "min", "median", "max", "of eager", "first step is worth"], rows)
    figures: dict[str, Any] = {"seconds": seconds, "first_step_seconds": first, "ratio_to_eager": ratios}
    timing.report(asked, text, figures, precision)


def _side(
    run: Run, asked: argparse.Namespace, bf16: bool, name: str, compiles: bool, first: dict[str, float]
) -> timing.Prepare:
    model = subject.model(run, 2)
    adapter = DyLora(run, model) if name == DYLORA else Lora(run, model)
    layers = Layers(adapter, compiles)
    act = step._step(adapter.model, make_optimizer(run.train, adapter.optimized()), bf16)
    layers.start()

    def whole(i: int, batch: dict[str, torch.Tensor]) -> None:
        if name == DYLORA:
            adapter.activate(draw(run.sampler, adapter.family, run.seed, i)[0][0])
        began = time.perf_counter()
        act(batch)
        if compiles:
            first.setdefault(f"{name}, {COMPILED}", time.perf_counter() - began)

    return lambda i: partial(whole, i, step._batch(asked, i))


def _worth(first: float | None, compiled: list[float], eager: list[float]) -> str:
    """The first step's seconds, and after how many steps they are won back."""
    if first is None:
        return ""
    gain = timing.middle(eager) - timing.middle(compiled)
    return f"{first:.0f} s: " + (f"{first / gain:,.0f} steps" if gain > 0 else "nothing")


if __name__ == "__main__":
    main()
