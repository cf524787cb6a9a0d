"""Ways to decode with a run's exits, on the prompts of its own task: what each costs, says and skips."""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.records.finished import Finished, finished
from rankbench.settings.metrics import GENERATED, times
from rankbench.shipping.loading import with_exits
from rankbench.system.progress import quiet_libraries, speak

if TYPE_CHECKING:
    from rankbench.scoring.exit_decoding import Answer
    from rankbench.tables.layout import Block

CONFIDENCE = 0.9  # where no thresholds are given; Sorted LLaMA's lie between 0.7 and 0.95


@dataclass(frozen=True)
class Measured:
    """One way of decoding: totals over all prompts, and `times_faster` than the whole model, the prompts' median.

    `decided` counts tokens, end marks too, by the depth that decided them; `equal` is the share of answers that are the
    whole model's, token for token; `accepted` the share of drafted tokens.
    """

    way: str
    tokens: int
    seconds: float
    times_faster: float
    equal: float
    decided: dict[int, int]
    accepted: float | None
    metrics: dict[str, float]


def main(words: list[str]) -> None:
    """`rankbench decode RUN`: greedy, by confidence and self-speculative decoding over a run's exits."""
    parser = argparse.ArgumentParser(
        prog="rankbench decode",
        description="Decode with the exits of a finished run: each exit alone, early exits by confidence, and each "
        "exit as a draft for the whole model.",
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run over exits, such as adapter=sorted_ft")
    parser.add_argument("--examples", type=int, default=20, help="prompts of the validation split (default: 20)")
    parser.add_argument("--new-tokens", type=int, help="longest answer (default: the task's)")
    parser.add_argument(
        "--confidence",
        action="append",
        metavar="DEPTH=P,...",
        help=f"largest probability from which an exit decides, such as 10=.95,20=.9 (default: each exit alone at "
        f"{CONFIDENCE}, and all); may be given several times",
    )
    parser.add_argument("--draft-tokens", type=int, default=4, help="tokens drafted ahead (default: 4)")
    parser.add_argument("--data-dir", help="where the task's data lie, if not where the run found them")
    parser.add_argument("--to", type=Path, help="write the figures to this JSON file")
    asked = parser.parse_args(words)
    for name in ("examples", "draft_tokens", "new_tokens"):
        if (given := getattr(asked, name)) is not None and given < 1:
            raise RequestError(f"--{name.replace('_', '-')} {given} must be at least 1")
    speak()
    found = finished(asked.run).with_data(asked.data_dir)
    chosen = [_thresholds(text, found) for text in asked.confidence or ()]
    measured, said = compare(found, asked.examples, asked.new_tokens, chosen or None, asked.draft_tokens)
    from rankbench.tables.layout import render

    print(render([_block(found, measured, said)], "md"), end="")
    if asked.to is not None:
        try:
            asked.to.write_text(json.dumps({**said, "measured": [asdict(m) for m in measured]}, indent=1) + "\n")
        except OSError as error:
            raise RequestError(f"--to {asked.to} cannot be written ({error.strerror}); choose another file") from error


def _thresholds(text: str, found: Finished) -> dict[int, float]:
    exits = found.note.get("exits", [])[:-1]
    try:
        pairs = [part.split("=") for part in text.split(",")]
        thresholds = {int(depth): float(p) for depth, p in pairs}
    except ValueError as error:
        raise RequestError(f"--confidence {text}: give DEPTH=P,... such as 10=.95,20=.9") from error
    if unknown := [depth for depth in thresholds if depth not in exits]:
        raise RequestError(f"--confidence {text}: {unknown[0]} is no exit before the last; choose from {exits}")
    return thresholds


def compare(
    found: Finished,
    examples: int,
    max_new_tokens: int | None = None,
    confidence: Sequence[dict[int, float]] | None = None,
    draft_tokens: int = 4,
) -> tuple[list[Measured], dict[str, Any]]:
    """Measure every way on the first prompts of the validation split, one prompt at a time, the ways taking turns.

    `confidence` lists thresholds by depth; the default is each exit alone, and all of them, at CONFIDENCE. Also returns
    what was decoded, on what. Raises RequestError for a run without exits or a task without responses.
    """
    if found.run.task.kind != "causal_lm":
        raise RequestError(f"{found.folder} is of a {found.run.task.kind} task, and nothing is decoded there")
    quiet_libraries()
    import torch
    from transformers import AutoTokenizer

    from rankbench.models import backbone, device
    from rankbench.scoring import exit_decoding
    from rankbench.scoring.generation import check_room
    from rankbench.tasks import chat_template, data
    from rankbench.tasks.encoding import encode_responses

    model, stack, exits = with_exits(found.folder)
    tokenizer = AutoTokenizer.from_pretrained(found.adapter)
    body = backbone.Backbone(stack.model, tokenizer, {})
    task = found.run.task
    split = data.load(task).validation[0]
    encoded = encode_responses(split, tokenizer, min(task.max_length, backbone.longest(body)))
    prompts, limit = encoded.prompts[:examples], max_new_tokens or task.max_new_tokens
    check_room(prompts, limit, backbone.longest(body), found.run.model.name, "--new-tokens ")
    ends = backbone.ends(body) | chat_template.ends(task, tokenizer)
    options: dict[str, Any] = {"max_new_tokens": limit, "ends": ends}

    def alone(depth: int) -> Callable[[list[int]], Answer]:
        return lambda prompt: exit_decoding.by_confidence(model, stack, [depth], prompt, {}, **options)

    def sure(thresholds: dict[int, float]) -> Callable[[list[int]], Answer]:
        return lambda prompt: exit_decoding.by_confidence(model, stack, exits, prompt, thresholds, **options)

    def drafted(depth: int) -> Callable[[list[int]], Answer]:
        speculate = functools.partial(
            exit_decoding.self_speculative, model, stack, exits, tokens=draft_tokens, **options
        )
        return lambda prompt: speculate(prompt=prompt, draft=depth)

    below = exits[:-1]
    every = dict.fromkeys(below, CONFIDENCE)
    default = [{depth: CONFIDENCE} for depth in below] + ([every] if len(below) > 1 else [])
    ways = {"whole model": alone(exits[-1])}
    ways |= {f"cut at {depth}": alone(depth) for depth in below}
    ways |= {_name(thresholds, exits): sure(thresholds) for thresholds in confidence or default}
    ways |= {f"draft at {depth}": drafted(depth) for depth in below}

    answers: dict[str, list[Answer]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(prompts[0])  # the first call of each warms up
    for prompt in prompts:
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name].append(way(prompt))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)

    whole = answers["whole model"]
    generated = [metric for metric in task.metrics if metric in GENERATED]

    def measured(name: str) -> Measured:
        own = answers[name]
        decided = {depth: sum(answer.decided.get(depth, 0) for answer in own) for depth in exits}
        drafted = sum(answer.drafted for answer in own)
        texts = [str(tokenizer.decode(answer.tokens, skip_special_tokens=True)).strip() for answer in own]
        return Measured(
            name,
            sum(decided.values()),
            sum(seconds[name]),
            statistics.median(
                (a.steps / s) / (b.steps / t)
                for a, s, b, t in zip(own, seconds[name], whole, seconds["whole model"], strict=True)
            ),
            sum(a.tokens == b.tokens for a, b in zip(own, whole, strict=True)) / len(whole),
            decided,
            sum(answer.accepted for answer in own) / drafted if drafted else None,
            _scored(generated, texts, encoded.references[:examples]),
        )

    said = {
        "run": found.folder.name,
        "prompts": len(prompts),
        "new_tokens": limit,
        "draft_tokens": draft_tokens,
        "device": device.device_name(),
        "precision": found.record["environment"]["precision"],
        **({} if found.run.generation.bare else {"run_decodes": str(found.run.generation)}),
    }
    return [measured(name) for name in ways], said


def _name(thresholds: dict[int, float], exits: list[int]) -> str:
    if len(set(thresholds.values())) == 1:
        if len(thresholds) == len(exits) - 1 > 1:
            return f"sure {next(iter(thresholds.values())):g} at any"
        return f"sure {next(iter(thresholds.values())):g} at {' '.join(map(str, thresholds))}"
    return "sure " + " ".join(f"{depth}={p:g}" for depth, p in thresholds.items())


def _scored(metrics: list[str], texts: list[str], references: Any) -> dict[str, float]:
    import numpy as np

    from rankbench.tasks.metrics import score

    return score(metrics, {"prediction": np.array(texts, dtype=object)}, references) if metrics else {}


def _block(found: Finished, measured: list[Measured], said: dict[str, Any]) -> Block:
    from rankbench.tables.layout import Block, frame

    depths = found.note["exits"]
    metrics = list(measured[0].metrics)
    rows = {}
    for way in measured:
        shares = " ".join(f"{100 * way.decided[depth] / max(1, way.tokens):.0f}" for depth in depths)
        rows[way.way] = [
            f"{way.tokens / way.seconds:.1f}",
            f"{way.times_faster:.2f}",
            *(f"{times(name) * way.metrics[name]:.1f}" for name in metrics[:1]),
            f"{100 * way.equal:.0f}",
            shares,
            "-" if way.accepted is None else f"{100 * way.accepted:.0f}",
        ]
    head = ["tok/s", "faster", *("score" for _ in metrics[:1]), "same", f"% at {' '.join(map(str, depths))}", "kept"]
    score = "".join(f"score: {name} x {times(name)}; " for name in metrics[:1])
    otherwise = f" (the run itself was scored by {said['run_decodes']})" if "run_decodes" in said else ""
    return Block(
        f"{said['run']}: {said['prompts']} prompts, at most {said['new_tokens']} new tokens, one prompt at a time, "
        f"greedy{otherwise}, {said['precision']} on {said['device']}. faster: median over prompts of tokens a second "
        f"against the whole model's; {score}same: % of answers equal to the whole model's; % at: tokens that each "
        "depth decided; kept: % of drafted tokens that were accepted.",
        frame(rows, head, "decoding"),
    )
