"""Does it matter that PEFT adapts all of GPT-2's fused q, k and v, where LoRA's MergedLinear adapts q and v alone?

A tiny GPT-2 is trained on made-up texts, then adapted to others by LoRA: as PEFT has it, and with the part of B that
writes k held at zero. What is printed is the loss on validation, by seed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
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


PLACES = ("Aromi", "Cocum", "Strada", "Zizzi", "Wildwood", "Giraffe", "Alimentum", "Bibimbap", "Clowns", "Fitzbillies")
KINDS = ("pub", "restaurant", "coffee shop")
FOODS = ("English", "French", "Indian", "Chinese", "Italian", "Japanese")
AREAS = ("riverside", "city centre")


def write(folder: Path, text: str) -> Path:
    """Inputs of four slots with one text each, parted at random into rows to train on and to score."""
    every = list(itertools.product(PLACES, KINDS, FOODS, AREAS))
    random.Random(0).shuffle(every)
    folder.mkdir()
    for split, rows in (("validation", every[:60]), ("train", every[60:])):
        lines = [
            {
                "meaning_representation": f"name[{name}], eatType[{kind}], food[{food}], area[{area}]",
                "references": [text.format(name=name, kind=kind, food=food, area=area)],
            }
            for name, kind, food, area in rows
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def main() -> None:
    parser = timing.arguments(__doc__, repeats=3)
    parser.add_argument("--first-steps", type=int, default=150, help="steps on the first texts, all weights")
    parser.add_argument("--steps", type=int, default=60, help="steps on the other texts, LoRA alone")
    parser.add_argument("--rank", type=int, default=4)
    asked = parser.parse_args()
    losses: dict[str, list[float]] = {"whole": [], "q and v": []}
    with tempfile.TemporaryDirectory() as folder:
        first_data = write(Path(folder) / "first_data", "{name} serves {food} food. It is a {kind} in the {area}.")
        other_data = write(
            Path(folder) / "other_data", "In the {area} you find the {kind} {name}, known for {food} dishes."
        )
        shared = [
            "task=e2e",
            "task.max_length=192",
            "evaluate.baselines=false",
            "task.metrics=[loss]",
            "train.batch_size=16",
        ]
        first = rankbench.run(
            "model=tiny_gpt2",
            *shared,
            f"task.data_dir={first_data}",
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
                    f"task.data_dir={other_data}",
                    "adapter=lora",
                    f"adapter.r={asked.rank}",
                    "adapter.lora_alpha=32",
                    "adapter.target_modules=[c_attn]",
                    f"evaluate.submodels=[{asked.rank}]",
                    "train.learning_rate=1e-2",
                    f"train.max_steps={asked.steps}",
                    f"seed={seed}",
                    f"runs_dir={folder}/{name.replace(' ', '_')}",
                ]
                with without_k() if name != "whole" else contextlib.nullcontext():
                    (sub,) = rankbench.run("model=tiny_gpt2", *words)["submodels"]
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
