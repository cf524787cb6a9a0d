"""Time the evaluation of every rank of a DyLoRA adapter against a pass of stock PEFT for each, over equal batches."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import subject
import timing
import torch
from peft import LoraConfig, TaskType

from rankbench.methods.lora import DyLora
from rankbench.models.precision import choose_precision
from rankbench.scoring.evaluation import STACK_TOKENS, evaluate
from rankbench.settings.run import Run
from rankbench.tasks.data import load
from rankbench.tasks.encoding import Encoded, collate, sorted_batches

STOCK = "stock PEFT, a pass for each rank"
UNSORTED = "the same, batches in the file's order"
AUTOMATIC = "automatic"

Side = Callable[[], np.ndarray]  # the probabilities (ranks, n, classes)


def main() -> None:
    parser = timing.arguments(__doc__, repeats=5)
    parser.add_argument("--data-dir", default="glue/sst2", help="a folder with train.jsonl and validation.jsonl")
    parser.add_argument("--rows", type=int, default=256, help="validation sentences (SST-2 has 872)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 256], help="evaluation batch sizes")
    parser.add_argument("--budgets", type=int, nargs="*", default=[0], help="values of stack_tokens to try")
    parser.add_argument("--r", type=int, default=8, help="maximum rank R; all of 1..R are evaluated")
    parser.add_argument("--processor-time", action="store_true", help="of this process, where others share the machine")
    asked = parser.parse_args()

    chosen, source = subject.task(asked.data_dir, eval_rows=asked.rows)
    run = subject.run("adapter=dylora", f"adapter.r={asked.r}", f"adapter.lora_alpha={2 * asked.r}", *chosen)
    read = load(run.task)
    split, tokenizer = subject.encode(run, read.validation[0])
    adapter = DyLora(run, subject.model_as_run(run, read.num_labels))
    subject.tell_ranks_apart(adapter)
    stock = _stock(run, adapter, read.num_labels)
    pad = tokenizer.pad_token_id

    bf16 = choose_precision(run.train.precision, run.hardware)[0] == "bf16"
    timed: dict[int, timing.Seconds] = {}
    for batch in asked.batches:
        sides: dict[str, Side] = {
            STOCK: partial(_passes, stock, split, list(sorted_batches(split.lengths, batch)), pad)
        }
        sides[UNSORTED] = partial(
            _passes, stock, split, np.array_split(np.arange(len(split)), -(-len(split) // batch)), pad
        )
        for name, budget in [(AUTOMATIC, None), *((str(b), b) for b in asked.budgets)]:
            sides[name] = partial(_ours, adapter, split, batch, pad, budget)
        sides = {name: partial(_under_autocast, side, bf16) for name, side in sides.items()}
        _check_equal(sides, 2e-2 if bf16 else 1e-5)
        timed[batch] = timing.alternate(
            {name: lambda i, side=side: side for name, side in sides.items()},
            asked.repeats,
            0,
            time.process_time if asked.processor_time else time.perf_counter,
        )
        _tell(asked, run, source, split, timed)  # after each, so that what is cut off leaves those before


def _tell(asked: argparse.Namespace, run: Run, source: str, split: Encoded, timed: dict[int, timing.Seconds]) -> None:
    default = STACK_TOKENS.get(subject.device().type, 0)
    clock = "processor time" if asked.processor_time else "time"
    heading = f"{source}; {len(split)} sentences, ranks 1..{asked.r}, automatic is {default} tokens; {clock}"
    text, figures = _figures(timed)
    figures |= {"source": source, "automatic_stack_tokens": default, "clock": clock}
    timing.report(asked, f"{heading}\n\n{text}", figures, choose_precision(run.train.precision, run.hardware))


def _stock(run: Run, adapter: DyLora, labels: int) -> Any:
    """PEFT's own model with an adapter for each rank, each the prefix of the nested one."""
    model: Any = subject.stock_lora(run, labels)
    values = dict(adapter.model.named_parameters())
    for b in range(1, adapter.r + 1):
        settings = LoraConfig(
            r=b,
            lora_alpha=run.adapter.lora_alpha,
            target_modules=run.adapter.target_modules,
            task_type=TaskType.SEQ_CLS,
        )
        model.add_adapter(f"rank{b}", settings)
        model.set_adapter(f"rank{b}")
        for name, parameter in model.named_parameters():
            if f".rank{b}." in name:
                whole = values[name.replace(f".rank{b}.", ".default.")].detach()
                rows = whole[:b] if "lora_A" in name else whole[:, :b] if "lora_B" in name else whole
                parameter.data.copy_(rows)
    return model.eval()


def _passes(model: Any, split: Encoded, batches: Sequence[np.ndarray], pad: int) -> np.ndarray:
    """A pass over the batches for each rank, one after the other, as one would write it by hand."""
    found = []
    for b in range(1, len(model.peft_config)):
        model.set_adapter(f"rank{b}")
        of_rank: np.ndarray | None = None
        for rows in batches:
            inputs = {k: v.to(subject.device()) for k, v in collate(split, rows, pad).items() if k != "labels"}
            with torch.no_grad():
                scores = model(**inputs).logits.softmax(-1).cpu().numpy()
            of_rank = np.zeros((len(split), scores.shape[1]), scores.dtype) if of_rank is None else of_rank
            of_rank[rows] = scores
        found.append(of_rank)
    return np.stack(found)


def _ours(adapter: DyLora, split: Encoded, batch: int, pad: int, budget: int | None) -> np.ndarray:
    scores = evaluate(
        adapter.model, adapter, [split], adapter.family, ["accuracy"], batch_size=batch, pad_id=pad, stack_tokens=budget
    )
    return np.stack([columns["scores"] for score in scores for columns in score.predictions.values()])


def _under_autocast(side: Side, bf16: bool) -> np.ndarray:
    """As a run measures: in the precision that it trains in."""
    with torch.autocast(subject.device().type, torch.bfloat16, enabled=bf16):
        return side()


def _check_equal(sides: dict[str, Side], most: float) -> None:
    """Speed counts only where the answers are the same; this pass over every side is also the warm-up."""
    expected = sides[STOCK]()
    for name, side in sides.items():
        found = side()
        apart = float(np.abs(found - expected).max())
        if apart > most or (most < 1e-4 and (found.argmax(-1) != expected.argmax(-1)).any()):
            raise SystemExit(f"{name}: probabilities differ by {apart:.1e}")


def _figures(timed: dict[int, timing.Seconds]) -> tuple[str, dict[str, object]]:
    """Seconds of the two ways, and of every side the time over that of stock PEFT's passes."""
    ratios = {
        batch: {name: timing.ratio(values, seconds[STOCK]) for name, values in seconds.items()}
        for batch, seconds in timed.items()
    }
    rows = [[str(b), *timing.spread(s[STOCK]), *timing.spread(s[AUTOMATIC])] for b, s in timed.items()]
    absolute = timing.table(["batch", "PEFT, s: min", "median", "max", "automatic, s: min", "median", "max"], rows)
    names = [name for name in next(iter(ratios.values())) if name != STOCK]
    rows = [[str(batch), *(f"{of_batch[name]:.3f}" for name in names)] for batch, of_batch in ratios.items()]
    relative = timing.table(["batch, ratio", *names], rows)
    return f"{absolute}\n\n{relative}", {"seconds": timed, "ratio_to_stock": ratios}


if __name__ == "__main__":
    main()
