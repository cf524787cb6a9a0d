"""Time the evaluation of every rank of a DyLoRA adapter, ranks stacked in one forward, against a pass for each rank."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import subject
import timing
import torch

from rankbench import adapters, backbone, evaluate
from rankbench.data import Encoded, load

SEPARATE = "a pass for each rank"
AUTOMATIC = "automatic"


def main() -> None:
    parser = timing.arguments(__doc__, repeats=5)
    parser.add_argument("--data-dir", default="glue/sst2", help="a folder with train.jsonl and validation.jsonl")
    parser.add_argument("--rows", type=int, default=128, help="validation sentences (SST-2 has 872)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], help="evaluation batch sizes")
    parser.add_argument(
        "--budgets", type=int, nargs="*", default=[0, 256, 512, 1024, 2048, 4096], help="values of stack_tokens to try"
    )
    parser.add_argument("--r", type=int, default=8, help="maximum rank R; all of 1..R are evaluated")
    asked = parser.parse_args()

    chosen, source = subject.task(asked.data_dir, eval_rows=asked.rows)
    run = subject.run("adapter=dylora", f"adapter.r={asked.r}", f"adapter.lora_alpha={2 * asked.r}", *chosen)
    precision = backbone.choose_precision(run)
    read = load(run.task)
    split, tokenizer = subject.encode(run, read.validation[0])
    adapter = adapters.DyLora(run, subject.model(run, read.num_labels))
    _tell_ranks_apart(adapter)

    timed = {}
    for batch in asked.batches:
        measure = partial(_scores, run, adapter, split, batch_size=batch, pad_id=tokenizer.pad_token_id)
        _check_equal(measure, asked.budgets)
        timed[batch] = timing.alternate(_sides(measure, asked.budgets), asked.repeats, warmup=0)
    ratios = {
        b: {name: timing.ratio(v, seconds[SEPARATE]) for name, v in seconds.items()} for b, seconds in timed.items()
    }
    default = evaluate.STACK_TOKENS.get(subject.device().type, 0)
    text = "\n\n".join(
        [
            f"{source}; {len(split)} sentences, ranks 1..{asked.r}, automatic stack_tokens {default}",
            _seconds_table(timed),
            _ratio_table(ratios),
        ]
    )
    figures = {"source": source, "automatic_stack_tokens": default, "seconds": timed, "ratio_to_separate": ratios}
    timing.report(asked, text, figures, precision)


def _seconds_table(timed: dict[int, timing.Seconds]) -> str:
    rows = [
        [str(batch), *timing.spread(seconds[SEPARATE]), *timing.spread(seconds[AUTOMATIC])]
        for batch, seconds in timed.items()
    ]
    return timing.table(["batch", "separate, s: min", "median", "max", "automatic, s: min", "median", "max"], rows)


def _ratio_table(ratios: dict[int, dict[str, float]]) -> str:
    """Time over the time of separate passes; below 1 is faster."""
    header = [name for name in next(iter(ratios.values())) if name != SEPARATE]
    rows = [[str(batch), *(f"{of_batch[name]:.3f}" for name in header)] for batch, of_batch in ratios.items()]
    return timing.table(["batch, ratio", *header], rows)


def _sides(measure: Any, budgets: list[int]) -> dict[str, timing.Prepare]:
    stacked = {AUTOMATIC: None} | {str(budget): budget for budget in budgets}
    return {SEPARATE: lambda i: partial(_separately, measure)} | {
        name: lambda i, budget=budget: partial(measure, stack_tokens=budget) for name, budget in stacked.items()
    }


def _separately(measure: Any) -> list[evaluate.Score]:
    """What one does without nested evaluation: the split is read again for each rank."""
    family = measure.args[1].family
    return [score for member in family for score in measure(stack_tokens=0, members=[member])]


def _scores(
    run: Any,
    adapter: adapters.DyLora,
    split: Encoded,
    *,
    batch_size: int,
    pad_id: int,
    stack_tokens: int | None,
    members: Any = None,
) -> list[evaluate.Score]:
    return evaluate.evaluate(
        adapter.model,
        adapter,
        [split],
        members or adapter.family,
        run.task.metrics,
        batch_size=batch_size,
        pad_id=pad_id,
        stack_tokens=stack_tokens,
    )


def _check_equal(measure: Any, budgets: list[int]) -> None:
    """Speed counts only where the predictions are the same; this pass over every side is also the warm-up."""
    expected = _predictions(_separately(measure))
    for budget in (None, *budgets):
        differing = int((_predictions(measure(stack_tokens=budget)) != expected).sum())
        if differing:
            raise SystemExit(f"stack_tokens={budget}: {differing} of {expected.size} predictions differ")


def _predictions(scores: list[evaluate.Score]) -> np.ndarray:
    return np.stack([values for score in scores for values in score.predictions.values()])


def _tell_ranks_apart(adapter: adapters.DyLora) -> None:
    """Give B weights, since with B = 0 every rank would predict the same and the comparison would show nothing."""
    torch.manual_seed(0)
    for name, parameter in adapter.trained().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)


if __name__ == "__main__":
    main()
