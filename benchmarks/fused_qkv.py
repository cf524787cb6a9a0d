"""Does it matter that PEFT adapts all of GPT-2's fused q, k and v, where LoRA's MergedLinear adapts q and v alone?

A small GPT-2 is trained on one task's texts, then adapted to another's by LoRA: as PEFT has it, and with the part of B
that writes k held at zero. What is printed is the loss on validation, by seed.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import timing

import rankbench
from rankbench.methods.lora import ADAPTER, DyLora
from rankbench.methods.submodel import Submodel
from rankbench.shipping import export


@contextlib.contextmanager
def without_k() -> Iterator[None]:
    """The middle third of B's rows, those of k, keep no gradient; they begin at zero and so stay there."""
    own = DyLora.shape_gradients

    def shaped(self: DyLora, submodel: Submodel) -> None:
        own(self, submodel)
        for layer in self.layers:
            grad = layer.lora_B[ADAPTER].weight.grad
            if grad is not None:
                third = len(grad) // 3
                grad[third : 2 * third] = 0

    with mock.patch.object(DyLora, "shape_gradients", shaped):
        yield


def main() -> None:
    parser = timing.arguments(__doc__, repeats=4)
    parser.add_argument("--data", type=Path, required=True, help="a folder with nlg/e2e and nlg/dart")
    parser.add_argument("--first-steps", type=int, default=250, help="steps on DART, all weights")
    parser.add_argument("--steps", type=int, default=100, help="steps on E2E, LoRA alone")
    parser.add_argument("--rank", type=int, default=4)
    asked = parser.parse_args()
    losses: dict[str, list[float]] = {"whole": [], "q and v": []}
    with tempfile.TemporaryDirectory() as folder:
        small = ["model=tiny_gpt2", "model.random.n_embd=64", "model.random.n_layer=3", "model.random.n_positions=1024"]
        shared = ["task.max_length=1024", "task.max_eval_examples=200", "task.metrics=[loss]", "train.batch_size=16"]
        first = rankbench.run(
            *small,
            *shared,
            "task=dart",
            f"task.data_dir={asked.data / 'nlg' / 'dart'}",
            "task.train_split=test",
            "adapter=full",
            "train.learning_rate=2e-3",
            f"train.max_steps={asked.first_steps}",
            f"runs_dir={folder}/first",
        )
        export.main([f"{folder}/first/{first['run_id']}", "--to", f"{folder}/model"])
        for seed in range(asked.repeats):
            for name in losses:
                words = [
                    f"model.path={folder}/model",
                    *shared,
                    "task=e2e",
                    f"task.data_dir={asked.data / 'nlg' / 'e2e'}",
                    "adapter=lora",
                    f"adapter.r={asked.rank}",
                    "adapter.lora_alpha=32",
                    "adapter.target_modules=[c_attn]",
                    f"evaluate.submodels=[{asked.rank}]",
                    "train.learning_rate=2e-3",
                    "train.label_smoothing=0.1",
                    f"train.max_steps={asked.steps}",
                    f"seed={seed}",
                    f"runs_dir={folder}/{name.replace(' ', '_')}",
                ]
                with without_k() if name != "whole" else contextlib.nullcontext():
                    (sub,) = rankbench.run(*small[:1], *words)["submodels"]
                losses[name].append(sub["metrics"]["loss"])
    each = [a - b for a, b in zip(losses["q and v"], losses["whole"], strict=True)]
    spread = statistics.stdev(each) if len(each) > 1 else 0.0
    figures = {"losses": losses, "backbone": first["submodels"][0]["metrics"]["loss"], "difference": each}
    rows = [[name, *(f"{value:.4f}" for value in own), f"{statistics.mean(own):.4f}"] for name, own in losses.items()]
    text = timing.table(["adapted", *(f"seed {seed}" for seed in range(asked.repeats)), "mean"], rows)
    text += f"\nq and v less whole: {statistics.mean(each):+.4f} ± {spread:.4f} nats a token"
    timing.report(asked, text, figures, ("fp32", "tiny"))


if __name__ == "__main__":
    main()
