"""Time the evaluation of every rank of a DyLoRA adapter, ranks stacked in one forward, against a pass for each rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import subject
import timing

from rankbench.methods.lora import DyLora
from rankbench.methods.submodel import Submodel
from rankbench.models.precision import choose_precision
from rankbench.scoring.evaluation import STACK_TOKENS, Score, evaluate
from rankbench.tasks.data import load

SEPARATE = "a pass for each rank"
AUTOMATIC = "automatic"

Measure = Callable[[Sequence[Submodel], int | None], list[Score]]  # sub-models, stack_tokens


def main() -> None:
    parser = timing.arguments(__doc__, repeats=5)
    parser.add_argument("--data-dir", default="glue/sst2", help="a folder with train.jsonl and validation.jsonl")
    parser.add_argument("--rows", type=int, default=128, help="validation sentences (SST-2 has 872)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], help="evaluation batch sizes")
    budgets = [0, 256, 512, 1024, 2048, 4096]
    parser.add_argument("--budgets", type=int, nargs="*", default=budgets, help="values of stack_tokens to try")
    parser.add_argument("--r", type=int, default=8, help="maximum rank R; all of 1..R are evaluated")
    asked = parser.parse_args()

    chosen, source = subject.task(asked.data_dir, eval_rows=asked.rows)
    run = subject.run("adapter=dylora", f"adapter.r={asked.r}", f"adapter.lora_alpha={2 * asked.r}", *chosen)
    read = load(run.task)
    split, tokenizer = subject.encode(run, read.validation[0])
    adapter = DyLora(run, subject.model(run, read.num_labels))
    subject.tell_ranks_apart(adapter)

    timed: dict[int, timing.Seconds] = {}
    for batch in asked.batches:

        def measure(members: Sequence[Submodel], stack_tokens: int | None, batch: int = batch) -> list[Score]:
            options = {"batch_size": batch, "pad_id": tokenizer.pad_token_id, "stack_tokens": stack_tokens}
            return evaluate(adapter.model, adapter, [split], members, run.task.metrics, **options)

        sides = _sides(measure, adapter.family, asked.budgets)
        _check_equal(sides)
        timed[batch] = timing.alternate(
            {name: lambda i, side=side: side for name, side in sides.items()}, asked.repeats, 0
        )
    default = STACK_TOKENS.get(subject.device().type, 0)
    heading = f"{source}; {len(split)} sentences, ranks 1..{asked.r}, automatic is {default} tokens"
    text, figures = _figures(timed)
    figures |= {"source": source, "automatic_stack_tokens": default}
    timing.report(asked, f"{heading}\n\n{text}", figures, choose_precision(run.train.precision, run.hardware))


def _sides(measure: Measure, family: Sequence[Submodel], budgets: list[int]) -> dict[str, Callable[[], list[Score]]]:
    """What is compared, by name; the separate passes read the split again for each rank."""
    stacked = {
        name: partial(measure, family, budget) for name, budget in [(AUTOMATIC, None), *((str(b), b) for b in budgets)]
    }
    return {SEPARATE: lambda: [score for member in family for score in measure([member], 0)], **stacked}


def _check_equal(sides: dict[str, Callable[[], list[Score]]]) -> None:
    """Speed counts only where the predictions are the same; this pass over every side is also the warm-up."""
    expected = _predictions(sides[SEPARATE]())
    for name, side in sides.items():
        differing = int((_predictions(side()) != expected).sum()) if name != SEPARATE else 0
        if differing:
            raise SystemExit(f"stack_tokens {name}: {differing} of {expected.size} predictions differ")


def _predictions(scores: list[Score]) -> np.ndarray:
    return np.stack([columns["prediction"] for score in scores for columns in score.predictions.values()])


def _figures(timed: dict[int, timing.Seconds]) -> tuple[str, dict[str, object]]:
    """Seconds of the two ways, and of every budget the time over that of separate passes."""
    ratios = {
        batch: {name: timing.ratio(values, seconds[SEPARATE]) for name, values in seconds.items()}
        for batch, seconds in timed.items()
    }
    rows = [[str(b), *timing.spread(s[SEPARATE]), *timing.spread(s[AUTOMATIC])] for b, s in timed.items()]
    absolute = timing.table(["batch", "separate, s: min", "median", "max", "automatic, s: min", "median", "max"], rows)
    names = [name for name in next(iter(ratios.values())) if name != SEPARATE]
    rows = [[str(batch), *(f"{of_batch[name]:.3f}" for name in names)] for batch, of_batch in ratios.items()]
    relative = timing.table(["batch, ratio", *names], rows)
    return f"{absolute}\n\n{relative}", {"seconds": timed, "ratio_to_separate": ratios}


if __name__ == "__main__":
    main()
