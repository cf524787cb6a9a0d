"""Measure sub-models: predictions, metrics and seconds, several ranks stacked in one forward where that is faster."""

from __future__ import annotations

import collections
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankbench.methods import FineTuning, objective
from rankbench.methods.lora import RowsNotApartError
from rankbench.methods.submodel import Submodel
from rankbench.models import sharding
from rankbench.scoring import spans
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import Responses
from rankbench.scoring.shared import shared
from rankbench.scoring.values import of_splits
from rankbench.settings.metrics import GENERATED, METRICS
from rankbench.system import processes, stopping
from rankbench.system.progress import Counted
from rankbench.tasks.encoding import IGNORED, Encoded, collate, sorted_batches

log = logging.getLogger("rankbench")

# Stack ranks while a forward stays below this many tokens: small forwards are bound by overhead, large ones by
# arithmetic, where stacking gains nothing. benchmarks/evaluation.py measures both sides.
STACK_TOKENS = {"cpu": 1024, "cuda": 16384}
LOGIT_BYTES = 2**30  # a language model's logits in one forward take no more, in float32 and once more for the loss


@dataclass
class Generated:
    """What generation wrote, end marks aside, how long it took, and how it was decoded."""

    tokens: int = 0
    seconds: float = 0.0
    decoding: str = "greedy"


@dataclass(frozen=True)
class Score:
    """One sub-model's measurement; `predictions` holds for each split columns (n,) as predictions.parquet keeps them.

    `prediction` is a class number, a value or a text; `scores` (n, classes) are a classifier's probabilities. A
    language model has `loss` (nats, summed over the response) and `tokens` (of the response), and what each metric of
    its answers keeps of them (`settings.metrics.Measure.kept`); an answer that is a span its `score` and
    `null_difference` too.
    """

    submodel: Submodel
    metrics: dict[str, float]
    n: int
    seconds: float
    predictions: dict[str, dict[str, np.ndarray]]
    generated: Generated | None = None


def evaluate(
    model: torch.nn.Module,
    adapter: FineTuning,
    splits: Sequence[Encoded],
    submodels: Sequence[Submodel],
    metrics: list[str],
    *,
    batch_size: int,
    pad_id: int,
    responses: Responses | None = None,
    stack_tokens: int | None = None,
) -> list[Score]:
    """Score each sub-model on every split, in the order asked.

    The result does not depend on that order. Training mode, the active sub-model and random state are left as found.
    `model` is the callable to run (it may wrap `adapter.model`); `stack_tokens=0` goes one sub-model at a time.
    `responses` says how a language model answers. Raises FloatingPointError when a logit is not finite.
    """
    device = next(adapter.model.parameters()).device
    budget = STACK_TOKENS.get(device.type, 0) if stack_tokens is None else stack_tokens
    members = sorted(submodels, key=lambda m: (m.depth or 0, m.rank or 0))
    outputs: dict[str, dict[str, np.ndarray]] = {}
    seconds = dict.fromkeys(members, 0.0)
    decoding = str(responses.how) if responses else "greedy"
    generated = {member: Generated(decoding=decoding) for member in members}
    was_training, was_active = adapter.model.training, adapter.active()
    adapter.activate(adapter.family[-1])  # all layers change their mode, not those of the active depth alone
    adapter.model.eval()
    try:
        with torch.no_grad():
            for split in splits:
                columns: dict[str, np.ndarray] = {}
                if set(metrics) - set(GENERATED):
                    columns |= _predict(model, adapter, split, members, batch_size, pad_id, budget, device, seconds)
                if responses is not None and set(metrics) & set(GENERATED):
                    columns["prediction"] = _answers(model, adapter, split, members, pad_id, responses, generated)
                if "prediction" in columns and any(METRICS[name].kept for name in metrics):
                    from rankbench.tasks.metrics import text

                    # The first alone: some of them take minutes, or start Java.
                    said = columns["prediction"]
                    kept = text.columns(metrics, said, split.references) if processes.first() else None
                    columns |= processes.gathered(kept)[0] or {}
                outputs[split.name] = columns
    except RowsNotApartError:
        if not adapter.stacks or processes.count() > 1:  # other processes may have met none of these layers
            raise
        log.warning("a layer does not see the rows of a batch apart: one sub-model is measured at a time")
        adapter.stacks = False
        alone = functools.partial(evaluate, model, adapter, splits, submodels, metrics, stack_tokens=0)
        return alone(batch_size=batch_size, pad_id=pad_id, responses=responses)
    finally:
        adapter.activate(adapter.family[-1])
        adapter.model.train(was_training)
        adapter.activate(was_active)
    return [_score(m, members.index(m), outputs, splits, metrics, seconds[m], generated[m]) for m in submodels]


def _answers(
    model: torch.nn.Module,
    adapter: FineTuning,
    split: Encoded,
    members: list[Submodel],
    pad_id: int,
    responses: Responses,
    generated: dict[Submodel, Generated],
) -> np.ndarray:
    """The generated texts (members, n) of one split; adds each member's tokens and share of the time to `generated`."""

    seconds = dict.fromkeys(members, 0.0)
    prompts = split.prompts[_part(adapter)]
    told = _told("generating", split, members, len(prompts))

    def spent(batch: list[Submodel], each: float) -> None:
        for member in batch:
            seconds[member] += each
        told.add(len(batch))

    tokens = generate(
        model,
        adapter,
        prompts,
        members,
        responses,
        pad_id=pad_id,
        spent=spent,
    )
    told.close()
    took = _gathered(adapter, [(sum(map(len, row)), seconds[m]) for m, row in zip(members, tokens, strict=True)])
    for member, of_all in zip(members, zip(*took, strict=True), strict=True):
        generated[member].tokens += sum(count for count, _ in of_all)
        generated[member].seconds += max(spent for _, spent in of_all)
    texts = np.empty((len(members), len(split.prompts)), dtype=object)
    own = [[responses.text(answer) for answer in row] for row in tokens]
    parts = _gathered(adapter, own)
    for place, part in enumerate(parts):
        for i, answers in enumerate(part):
            texts[i, place :: len(parts)] = answers
    return texts


def classes(
    model: torch.nn.Module, adapter: FineTuning, split: Encoded, batch_size: int, pad_id: int
) -> dict[str, Any]:
    """Columns (n, ...) of what a model says of a split, its labels unread, at what is active; it writes no responses.

    Raises FloatingPointError when a logit is not finite.
    """
    member, device = adapter.active(), next(adapter.model.parameters()).device
    with torch.no_grad():
        found = _predict(model, adapter, split, [member], batch_size, pad_id, 0, device, {member: 0.0})
    return {name: column[0] for name, column in found.items()}


def tokens_of_logits(model: Any) -> int:
    """How many tokens' logits fit into LOGIT_BYTES."""
    return LOGIT_BYTES // (2 * 4 * model.config.vocab_size)


def _predict(
    model: torch.nn.Module,
    adapter: FineTuning,
    split: Encoded,
    members: list[Submodel],
    batch_size: int,
    pad_id: int,
    budget: int,
    device: torch.device,
    seconds: dict[Submodel, float],
) -> dict[str, np.ndarray]:
    """Columns (members, n, ...) of one split; adds each member's share of the time to `seconds`."""
    results: dict[str, np.ndarray] = {}
    read, data = _reader(split), split.inputs
    if split.prompts:
        most = tokens_of_logits(adapter.model)
        batch_size = max(1, min(batch_size, most // int(split.lengths.max())))
        budget = min(budget, most)
    batches = list(sorted_batches(data.lengths, batch_size))[_part(adapter)]
    counts = [int(data.examples[rows].sum()) for rows in batches]
    told = _told("measuring", split, members, sum(counts))
    alike = collections.Counter(member.depth for member in members)
    with shared(adapter, not split.prompts and not split.windows):
        for rows, count in zip(batches, counts, strict=True):
            stopping.check()
            inputs = {k: v.to(device) for k, v in collate(data, rows, pad_id).items()}
            tokens = inputs["input_ids"].numel()
            fit = max(1, min(len(members), budget // tokens)) if adapter.stacks else 1
            for i, group in _groups(members, fit):
                start = time.perf_counter()
                columns, numbers = read(model, _stacked(adapter, inputs, group))
                if not torch.isfinite(numbers).all():
                    raise FloatingPointError(f"{split.name}: {group[0]} gives logits that are not finite")
                for column, values in columns.items():
                    found = values.view(len(group), len(rows), *values.shape[1:]).cpu().numpy()
                    shape = (len(members), len(data), *found.shape[2:])
                    whole = results.setdefault(column, np.zeros(shape, found.dtype))
                    whole[i : i + len(group), rows] = found
                took = time.perf_counter() - start
                for member in members:  # those of a depth share what its first forward does for all of them
                    seconds[member] += took / alike[member.depth] if member.depth == group[0].depth else 0.0
                told.add(len(group) * count)
    told.close()
    parts = [part for part in _gathered(adapter, results) if part]
    added = {column: np.sum([part[column] for part in parts], 0, values.dtype) for column, values in parts[0].items()}
    return spans.answered(split.windows, added) if split.windows else added


def _reader(split: Encoded) -> Callable[[Any, dict[str, torch.Tensor]], tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """What reads a batch of this split: the columns of its rows, and the numbers behind them."""
    if split.windows:
        return functools.partial(spans.candidates, most=split.windows.task.n_best_size)
    return _losses if split.prompts else _classes


def _told(verb: str, split: Encoded, members: Sequence[Submodel], rows: int) -> Counted:
    """What a person sees of it: the answers that this process has, of all sub-models to all of its rows."""
    several = "sub-model" if len(members) == 1 else f"{len(members)} sub-models"
    return Counted(f"{verb} {several} on {split.name}, answers", len(members) * rows)


def _part(adapter: FineTuning) -> slice:
    """What this process scores: of a sharded model all, since no process may run another number of forwards."""
    return slice(None) if sharding.sharded(adapter.model) else slice(processes.place(), None, processes.count())


def _gathered(adapter: FineTuning, own: Any) -> list[Any]:
    """Every process's part; where each has all of it, its own."""
    return [own] if sharding.sharded(adapter.model) else processes.gathered(own)


def _groups(members: list[Submodel], most: int) -> Iterator[tuple[int, list[Submodel]]]:
    """Members that share a forward, at most `most`, evenly filled, with the place of the first: all of one depth."""
    start = 0
    for _, alike in itertools.groupby(members, key=lambda m: m.depth):
        same = list(alike)
        together = math.ceil(len(same) / math.ceil(len(same) / most))
        for i in range(0, len(same), together):
            yield start + i, same[i : i + together]
        start += len(same)


def _stacked(adapter: FineTuning, inputs: dict[str, torch.Tensor], group: list[Submodel]) -> dict[str, torch.Tensor]:
    """Make the group active and return the batch once for each member."""
    if len(group) == 1:
        adapter.activate(group[0])
        return inputs
    adapter.activate_rows([member for member in group for _ in inputs["input_ids"]])
    return {k: v.repeat(len(group), *(1,) * (v.dim() - 1)) for k, v in inputs.items()}


def _classes(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The predicted class of each row with all classes' probabilities, or its value; and the logits behind it."""
    logits = model(**objective.inputs(inputs)).logits.float()
    if logits.shape[-1] == 1:
        return {"prediction": logits.squeeze(-1)}, logits
    return {"prediction": logits.argmax(-1), "scores": logits.softmax(-1)}, logits


def _losses(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The summed loss of each row's response in nats and its tokens."""
    loss = objective.response_nll(model, inputs).sum(1)
    return {"loss": loss, "tokens": (inputs["labels"] != IGNORED).sum(1)}, loss


def _score(
    member: Submodel,
    place: int,
    outputs: dict[str, dict[str, np.ndarray]],
    splits: Sequence[Encoded],
    metrics: list[str],
    seconds: float,
    generated: Generated,
) -> Score:
    predictions = {split.name: {key: column[place] for key, column in outputs[split.name].items()} for split in splits}
    whole = seconds + generated.seconds
    values = of_splits(splits, predictions, metrics)
    return Score(member, values, sum(map(len, splits)), whole, predictions, generated if generated.seconds else None)
