"""Time rankbench's whole training loop against a bare PyTorch + PEFT loop and against the transformers Trainer."""

from __future__ import annotations

import argparse
import gc
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import subject
import timing
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from rankbench import methods
from rankbench.models.precision import choose_precision
from rankbench.settings.run import Run
from rankbench.tasks.data import load
from rankbench.tasks.encoding import IGNORED, Encoded, collate, packed
from rankbench.training.loop import Plan, learning_rate_factor, make_optimizer, train

DYLORA, LORA = "rankbench, DyLoRA", "rankbench, LoRA"
BARE, GROUPED, DEFAULT = "bare loop", "Trainer, grouped", "Trainer, default"  # all three train PEFT's LoRA


def main() -> None:
    parser = timing.arguments(__doc__, repeats=5)
    parser.add_argument("--data-dir", default="glue/sst2", help="a folder with train.jsonl: sentence, label")
    parser.add_argument("--rows", type=int, default=6400, help="training sentences, each read once a repetition")
    parser.add_argument("--steps", type=int, help="stop early; Trainer, grouped, takes its longest batch first")
    parser.add_argument("--batch", type=int, default=32, help="sentences in a batch")
    parser.add_argument("--accumulate", type=int, default=1, help="batches in a step; Trainer is left out above 1")
    parser.add_argument("--decoder", action="store_true", help="packed rows through a Llama-like decoder, no Trainer")
    asked = parser.parse_args()
    if asked.decoder:
        return _of_decoder(asked)

    chosen, source = subject.task(asked.data_dir, asked.rows)
    steps = f"train.max_steps={asked.steps or 'null'}"
    accumulated = f"train.gradient_accumulation_steps={asked.accumulate}"
    common = [*chosen, "train.epochs=1", steps, f"train.batch_size={asked.batch}", accumulated]
    lora, dylora = subject.run("adapter=lora", *common), subject.run("adapter=dylora", *common)
    precision = choose_precision(lora.train.precision, lora.hardware)
    read = load(lora.task)
    data, tokenizer = subject.encode(lora, read.train)
    labels, pad = read.num_labels, tokenizer.pad_token_id
    rows = [{**{k: v[i] for k, v in data.features.items()}, "labels": int(data.labels[i])} for i in range(len(data))]

    with tempfile.TemporaryDirectory() as scratch:
        sides = {
            LORA: lambda i: _rankbench(_seeded(lora, i), data, labels, pad, Path(scratch, f"lora-{i}")),
            BARE: lambda i: _bare(_seeded(lora, i), data, labels, pad),
            DYLORA: lambda i: _rankbench(_seeded(dylora, i), data, labels, pad, Path(scratch, f"dylora-{i}")),
            GROUPED: lambda i: _trainer(_seeded(lora, i), rows, labels, tokenizer, "group_by_length", scratch),
            DEFAULT: lambda i: _trainer(_seeded(lora, i), rows, labels, tokenizer, "random", scratch),
        }
        if asked.accumulate > 1:
            sides = {name: side for name, side in sides.items() if name not in (GROUPED, DEFAULT)}
        # No warm-up: a repetition is hundreds of steps, among which the first few weigh little.
        seconds = timing.alternate(sides, asked.repeats, warmup=0)
    text, figures = _figures(seconds, _examples(lora, data))
    size = f"{asked.batch}" if asked.accumulate == 1 else f"{asked.accumulate} x {asked.batch}"
    heading = f"{source}; {len(data)} sentences, {Plan(data.lengths, lora.train, 0).steps} steps of {size}"
    timing.report(asked, f"{heading}\n\n{text}", {"source": source, **figures}, precision)


def _of_decoder(asked: argparse.Namespace) -> None:
    """The loops over SmolLM2's shape cut to six layers, random weights, rows of 20 to 120 tokens packed into 256."""
    words = ["model.layers=6", "adapter.target_modules=[q_proj,v_proj]", "train.epochs=1"]
    words += [f"train.batch_size={asked.batch}", f"train.gradient_accumulation_steps={asked.accumulate}"]
    lora, dylora = (subject.random_run("smollm2_135m", f"adapter={name}", *words) for name in ("lora", "dylora"))
    precision = choose_precision(lora.train.precision, lora.hardware)
    data = packed(_random_rows(asked.rows, lora.model.shape["vocab_size"]), 256)
    with tempfile.TemporaryDirectory() as scratch:
        sides = {
            LORA: lambda i: _rankbench(_seeded(lora, i), data, None, 0, Path(scratch, f"lora-{i}")),
            BARE: lambda i: _bare(_seeded(lora, i), data, None, 0),
            DYLORA: lambda i: _rankbench(_seeded(dylora, i), data, None, 0, Path(scratch, f"dylora-{i}")),
        }
        seconds = timing.alternate(sides, asked.repeats, warmup=0)
    text, figures = _figures(seconds, _examples(lora, data))
    heading = f"{asked.rows} rows packed into {len(data)}, {Plan(data.lengths, lora.train, 0).steps} steps"
    timing.report(asked, f"{heading}\n\n{text}", {"source": heading, **figures}, precision)


def _random_rows(rows: int, vocabulary: int) -> Encoded:
    """Random tokens, the second half of each row its response."""
    draws = np.random.default_rng(0)
    lengths = draws.integers(20, 121, rows)
    ids = [draws.integers(3, vocabulary, length).tolist() for length in lengths]
    labels = [[IGNORED] * (len(row) // 2) + row[len(row) // 2 :] for row in ids]
    return Encoded("train", {"input_ids": ids, "labels": labels}, np.zeros(rows, np.int64), np.arange(rows), lengths)


def _figures(seconds: timing.Seconds, examples: int) -> tuple[str, dict[str, Any]]:
    """Examples a second of each side, and how many times each other side's rankbench reaches."""
    speed = {name: [examples / s for s in values] for name, values in seconds.items()}
    others = [name for name in (BARE, GROUPED, DEFAULT) if name in seconds]
    ratios = {ours: {other: timing.ratio(speed[ours], speed[other]) for other in others} for ours in (LORA, DYLORA)}
    rows = [[name, *timing.spread(values)] for name, values in speed.items()]
    speeds = timing.table(["examples a second", "min", "median", "max"], rows)
    rows = [[ours, *(f"{ratio:.3f}" for ratio in of_ours.values())] for ours, of_ours in ratios.items()]
    against = timing.table(["speed, times that of", *others], rows)
    return f"{speeds}\n\n{against}", {"seconds": seconds, "examples_per_second": speed, "speed_ratio": ratios}


def _examples(run: Run, data: Encoded) -> int:
    plan = Plan(data.lengths, run.train, run.seed)
    return sum(len(rows) for step in range(plan.steps) for rows, _ in plan.micro_batches(step))


def _seeded(run: Run, i: int) -> Run:
    """Another order of the data, and another draw of ranks, in each repetition."""
    return replace(run, seed=i)


def _accelerator(run: Run) -> Accelerator:
    # Trainer leaves its own state behind; rankbench starts every run from none.
    AcceleratorState._reset_state(True)
    precision = choose_precision(run.train.precision, run.hardware)[0]
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision)


def _rankbench(run: Run, data: Encoded, labels: int | None, pad: int, folder: Path) -> Any:
    gc.collect()
    accelerator = _accelerator(run)
    adapter = methods.attach(run, subject.model_as_run(run, labels))
    return lambda: train(
        run.train,
        run.sampler,
        run.seed,
        adapter,
        data,
        pad,
        accelerator,
        folder,
        measure=lambda model: [],
    )


def _bare(run: Run, data: Encoded, labels: int | None, pad: int) -> Any:
    """What one would write by hand for the same training: same batches, optimizer, schedule and clipping."""
    gc.collect()
    model = subject.stock_lora(run, labels).train()
    parameters = subject.trained(model)
    plan, device = Plan(data.lengths, run.train, run.seed), subject.device()
    bf16 = choose_precision(run.train.precision, run.hardware)[0] == "bf16"

    def loop() -> None:
        optimizer = make_optimizer(run.train, parameters)
        for step in range(plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = run.train.learning_rate * learning_rate_factor(run.train, step, plan.steps)
            for rows, share in plan.micro_batches(step):
                batch = {k: v.to(device) for k, v in collate(data, rows, pad).items()}
                if labels is None:  # as transformers wants them: a label for each token
                    first = batch["input_ids"].shape[1] - batch["labels"].shape[1]
                    batch["labels"] = torch.nn.functional.pad(batch["labels"], (first, 0), value=IGNORED)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss = model(**batch).loss * share
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, run.train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

    return loop


def _trainer(run: Run, rows: list[dict[str, Any]], labels: int, tokenizer: Any, sampling: str, scratch: str) -> Any:
    """transformers' Trainer over the same rows and settings; it logs, saves and reports nothing.

    A plain list of rows is the data set because reading one is quicker than from a `datasets.Dataset`.
    """
    gc.collect()
    settings = run.train
    arguments = transformers.TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.max_steps or -1,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_ratio,
        optim="adamw_torch_fused",
        train_sampling_strategy=sampling,
        bf16=choose_precision(run.train.precision, run.hardware)[0] == "bf16",
        use_cpu=subject.device().type == "cpu",
        dataloader_pin_memory=subject.device().type == "cuda",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=run.seed,
    )
    trainer = transformers.Trainer(
        model=subject.stock_lora(run, labels),
        args=arguments,
        train_dataset=rows,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    return trainer.train


if __name__ == "__main__":
    main()
