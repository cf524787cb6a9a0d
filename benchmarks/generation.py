"""Time greedy generation by K ranks of a DyLoRA adapter, stacked in one decode, against one rank after the other."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import subject
import timing
import torch

from rankbench.methods.lora import DyLora
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone, quantization
from rankbench.models.precision import choose_precision
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import Responses

QUESTIONS = [
    "Question: Which river flows through the city that was the first capital of the united kingdom?\nAnswer:",
    "Question: In which decade was the first film with a recorded voice shown to a paying audience?\nAnswer:",
    "Question: What is the name of the instrument that measures the pressure of the air?\nAnswer:",
    "Question: Who wrote the play in which a moor of Venice is deceived by his ensign?\nAnswer:",
]


def main() -> None:
    parser = timing.arguments(__doc__, repeats=3)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 8, 32], help="how many ranks, K")
    parser.add_argument("--r", type=int, default=32, help="maximum rank R; K ranks are spread over 1..R")
    parser.add_argument("--target-modules", default="all-linear", help="where the adapter sits")
    parser.add_argument("--quantization", default="none", help="none, nf4, fp4 or int8")
    parser.add_argument("--prompts", type=int, default=1, choices=range(1, 5), help="prompts in a batch")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens that each answer has")
    asked = parser.parse_args()

    run = subject.run(
        f"model={asked.model}",
        "task=instruction",
        "adapter=dylora",
        f"adapter.r={asked.r}",
        f"adapter.target_modules={asked.target_modules}",
        f"quantization={asked.quantization}",
    )
    precision = choose_precision(run.train.precision, run.hardware)
    kept = quantization.storage(run.quantization, precision[0], subject.device())
    body = backbone.load(run.model, None, False, run.seed, kept)
    adapter = DyLora(run, body.model)
    adapter.model.to(subject.device()).eval()
    subject.tell_ranks_apart(adapter)
    prompts = body.tokenizer(QUESTIONS[: asked.prompts], add_special_tokens=False)["input_ids"]

    def answer(members: list[Submodel], rows: int) -> list[list[list[int]]]:
        endless, pad_id = Responses(asked.new_tokens, frozenset(), str), body.tokenizer.pad_token_id
        with torch.autocast(subject.device().type, torch.bfloat16, enabled=precision[0] == "bf16"):
            return generate(adapter.model, adapter, prompts, members, endless, pad_id=pad_id, rows=rows)

    timed: dict[int, timing.Seconds] = {}
    alike: dict[int, float] = {}
    for k in asked.ranks:
        members = [Submodel(rank=max(1, round((i + 1) * asked.r / k))) for i in range(k)]
        sides: dict[str, Callable[[], list[list[list[int]]]]] = {
            "one by one": lambda members=members: [answer([member], len(prompts))[0] for member in members],
            "stacked": lambda members=members: answer(members, len(prompts) * len(members)),
        }
        one, other = ([text for rank in side() for text in rank] for side in sides.values())  # also the warm-up
        alike[k] = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
        if alike[k] < 1 and precision[0] == "fp32":
            raise SystemExit(f"K={k}: {1 - alike[k]:.0%} of the answers differ")
        timed[k] = timing.alternate({name: lambda i, side=side: side for name, side in sides.items()}, asked.repeats, 0)
        _tell(asked, prompts, timed, alike, precision)  # after each, so that what is cut off leaves those before


def _tell(
    asked: argparse.Namespace,
    prompts: list[list[int]],
    timed: dict[int, timing.Seconds],
    alike: dict[int, float],
    precision: tuple[str, str],
) -> None:
    tokens = {k: k * len(prompts) * asked.new_tokens for k in timed}
    rows = []
    for k, seconds in timed.items():
        rate = [f"{tokens[k] / timing.middle(seconds[name]):.0f}" for name in ("one by one", "stacked")]
        rows.append(
            [str(k), *rate, f"{timing.ratio(seconds['one by one'], seconds['stacked']):.2f}", f"{alike[k]:.0%}"]
        )
    head = ["K", "one by one, tokens/s", "stacked, tokens/s", "times faster", "equal answers"]
    width = [len(prompt) for prompt in prompts]
    text = f"{asked.model}, {asked.quantization}, R={asked.r} on {asked.target_modules}; prompts of {width} tokens, "
    text += f"{asked.new_tokens} new tokens\n\n{timing.table(head, rows)}"
    faster = {k: timing.ratio(s["one by one"], s["stacked"]) for k, s in timed.items()}
    timing.report(asked, text, {"seconds": timed, "times_faster": faster, "equal_answers": alike}, precision)


if __name__ == "__main__":
    main()
