"""Measure the peak memory of QDyLoRA's headline, a 40B shape in NF4 under a V100's rules, beside the forecast.

Each length is one step at the largest rank and one at rank 1; the first that runs out of memory ends it.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import asdict
from typing import Any

import subject
import timing
import torch
from accelerate import Accelerator

from rankbench.forecast import step_memory
from rankbench.methods import objective
from rankbench.methods.lora import DyLora
from rankbench.models import backbone, quantization
from rankbench.models.device import obey
from rankbench.settings.hardware import Hardware
from rankbench.training.loop import make_optimizer


def main() -> None:
    parser = timing.arguments(__doc__, repeats=1)
    parser.add_argument("--model", default="falcon_40b", help="a choice of conf/model; its shape with random weights")
    parser.add_argument("--r", type=int, default=64, help="maximum rank R, on all linear layers")
    parser.add_argument("--precision", default="fp16", help="fp16 or fp32: a V100 has no bf16")
    parser.add_argument("--hardware", default="v100", help="v100 caps the memory at 32 GiB; auto does not")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 384, 512, 768, 1024, 1536, 2048])
    asked = parser.parse_args()

    run = subject.random_run(
        asked.model,
        "adapter=qdylora",
        f"adapter.r={asked.r}",
        f"train.precision={asked.precision}",
        f"hardware={asked.hardware}",
        "train.batch_size=1",
    )
    obey(Hardware(asked.hardware), asked.precision)
    accelerator = Accelerator(mixed_precision="no" if asked.precision == "fp32" else asked.precision)
    kept = quantization.storage(run.quantization, asked.precision, accelerator.device)
    adapter = DyLora(run, backbone.load(run.model, None, False, run.seed, kept).model)
    adapter.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapter.model.train()
    model = accelerator.prepare(adapter.model)
    optimizer = accelerator.prepare(make_optimizer(run.train, adapter.optimized()))

    def step(length: int, place: int) -> None:
        adapter.activate(adapter.family[place])
        accelerator.backward(objective.loss(model, subject.random_batch(1, length, adapter.model, place)))
        optimizer.step()
        optimizer.zero_grad()

    found: list[dict[str, Any]] = []
    for length in asked.lengths:
        expected = step_memory.forecast(subject.with_length(run, length))
        _forget()
        peak = reserved = None
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            step(length, -1)
            step(length, 0)
            peak, reserved = _peak(), _reserved()
        found.append({"length": length, "forecast": asdict(expected), "peak": peak, "reserved": reserved})
        _tell(asked, found)  # after each, so that what is cut off leaves the lengths before
        if peak is None:
            break


def _tell(asked: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    sizes = [(_seen(f["forecast"]), f["peak"], f["reserved"]) for f in found]
    rows = [[str(f["length"]), *map(_gib, own)] for f, own in zip(found, sizes, strict=True)]
    heading = f"tokens, {asked.model}, r={asked.r}, {asked.precision}, hardware={asked.hardware}"
    text = timing.table([heading, "forecast, GiB", "allocated, GiB", "reserved, GiB"], rows)
    timing.report(asked, text, {"lengths": found}, (asked.precision, "as asked"))


def _seen(forecast: dict[str, int]) -> int:
    """The forecast of what torch allocates: paged moments lie where it does not see them."""
    return forecast["peak"] - (forecast["optimizer"] if torch.cuda.is_available() else 0)


def _gib(size: int | None) -> str:
    return "does not fit" if size is None else f"{size / 2**30:.2f}"


def _forget() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _reserved() -> int:
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0


if __name__ == "__main__":
    main()
