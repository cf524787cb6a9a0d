"""How fast an adapter answers as it is, and merged into its backbone."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from rankbench.methods import objective
from rankbench.methods.cuts import off
from rankbench.methods.lora import DyLora
from rankbench.tasks.encoding import Encoded, collate

REPEATS = 3  # of each side, in turns
SLOW = 2.0  # seconds of a forward, above which one of each is enough


def measure(model: Any, adapter: DyLora, split: Encoded, batch_size: int, pad_id: int) -> dict[str, float]:
    """Rows a second of one forward over a middling batch: with the adapter at rank R beside its layers, and without.

    Without it the layers do what merged ones do. Both sides go in turns, and the medians count. Lengths are in tokens,
    padding included.
    """
    order = np.argsort(split.lengths, kind="stable")
    start = max(0, (len(order) - batch_size) // 2)
    rows = order[start : start + batch_size]
    device = next(adapter.model.parameters()).device
    inputs: dict[str, Any] = {k: v.to(device) for k, v in objective.inputs(collate(split, rows, pad_id)).items()}
    if split.prompts:
        inputs |= {"logits_to_keep": 1, "use_cache": False}
    seconds: dict[str, list[float]] = {"unmerged": [], "merged": []}

    def forward() -> float:
        _wait(device)
        began = time.perf_counter()
        model(**inputs)
        _wait(device)
        return time.perf_counter() - began

    was_training, active = adapter.model.training, adapter.active()
    adapter.activate(adapter.family[-1])
    adapter.model.eval()
    try:
        with torch.no_grad():
            for _ in range(1 if forward() > SLOW else REPEATS):
                seconds["unmerged"].append(forward())
                with off(adapter):
                    adapter.activate(adapter.family[-1])
                    seconds["merged"].append(forward())
    finally:
        adapter.model.train(was_training)
        adapter.activate(active)
    speeds = {side: len(rows) / statistics.median(took) for side, took in seconds.items()}
    return {"rows": len(rows), "tokens": inputs["input_ids"].numel(), "rank": adapter.r, **speeds}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
