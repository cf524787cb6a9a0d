"""Sub-models of one adapter on a part of a split: the loss of every row, the task's metrics, and two compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankbench.methods import objective
from rankbench.methods.lora import DyLora
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone
from rankbench.models.backbone import Backbone
from rankbench.scoring import evaluation, generation
from rankbench.scoring.responses import of_run
from rankbench.settings.metrics import GENERATED, METRICS
from rankbench.settings.run import Run
from rankbench.tables import metric_sums, stats
from rankbench.tasks.encoding import Encoded, collate, sorted_batches

RESAMPLES = 10_000

Way = tuple[int, list[int] | None]  # a rank, and what each layer has in its stead where they differ
Batches = list[tuple[np.ndarray, dict[str, Any]]]


@dataclass(frozen=True)
class Scored:
    """A metric by way, and the 95 % interval of the first way less the second; in the metric's own unit."""

    metric: str
    values: dict[str, float]
    low: float
    high: float


def hold(tuning: DyLora, rank: int, ranks: Sequence[int] | None) -> None:
    """Make `rank` mean these ranks of the layers, or itself in all of them, and activate it."""
    tuning.by_layer = {} if ranks is None else {rank: list(ranks)}
    tuning.activate(Submodel(rank=rank))


def batches(tuning: DyLora, split: Encoded, size: int, pad_id: int) -> Batches:
    """The split's rows in batches that lie on the model's device, with their row numbers."""
    device = next(tuning.model.parameters()).device
    if split.prompts:
        size = max(1, min(size, evaluation.tokens_of_logits(tuning.model) // int(split.lengths.max())))
    data = split.inputs
    found = sorted_batches(data.lengths, size)
    return [(rows, {key: value.to(device) for key, value in collate(data, rows, pad_id).items()}) for rows in found]


def losses(tuning: DyLora, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """The loss and the targets (n,) of each row at what is active."""
    n = sum(len(rows) for rows, _ in batches)
    loss, targets = np.zeros(n), np.zeros(n)
    with torch.no_grad():
        for rows, batch in batches:
            own = objective.row_losses(tuning.model, batch)
            loss[rows], targets[rows] = (part.cpu().numpy() for part in own)
    return loss, targets


def scores(
    run: Run, tuning: DyLora, body: Backbone, split: Encoded, size: int, ways: Mapping[str, Way]
) -> list[Scored]:
    """The loss and the task's metrics of every way, and the first less the second by the paired bootstrap.

    A metric of texts that is no function of sums over them is left out.

    `size` rows go in a batch. Raises RequestError where a metric is not finite.
    """
    pad_id = body.tokenizer.pad_token_id
    asked = [name for name in run.task.metrics if name != "loss"]
    metrics = [name for name in asked if METRICS[name].kept or name not in GENERATED]
    responses = of_run(run, body) if set(metrics) & set(GENERATED) else None
    inputs = batches(tuning, split, size, pad_id)
    columns: dict[str, dict[str, np.ndarray]] = {}
    values: dict[str, dict[str, float]] = {}
    for name, (b, ranks) in ways.items():
        hold(tuning, b, ranks)
        loss, targets = map(split.summed, losses(tuning, inputs))
        columns[name], values[name] = {"loss": loss, "tokens": targets}, {"loss": float(loss.sum() / targets.sum())}
        if metrics:
            (score,) = evaluation.evaluate(
                tuning.model,
                tuning,
                [split],
                [Submodel(rank=b)],
                metrics,
                batch_size=size,
                pad_id=pad_id,
                responses=responses,
                stack_tokens=0,
            )
            columns[name] |= score.predictions[split.name]
            values[name] |= score.metrics

    pair = [columns[name] for name in ways][:2]
    found = []
    for metric in ("loss", *metrics):
        between = stats.bootstrap(_sums(metric, pair, split), 1, resamples=RESAMPLES)
        own = {name: values[name][metric] for name in ways}
        found.append(Scored(metric, own, float(between.low[0]), float(between.high[0])))
    return found


def _sums(metric: str, pair: list[dict[str, np.ndarray]], split: Encoded) -> metric_sums.Resampled:
    references = split.labels if len(split.labels) else np.zeros(len(split))
    columns = {key: np.array([own[key] for own in pair]) for key in metric_sums.needs(metric)}
    return metric_sums.sums(metric, columns, references, split.roles)


def check_room(run: Run, body: Backbone, split: Encoded) -> None:
    """Refuse prompts that leave the model no room to respond, where a metric needs it. Raises RequestError."""
    if set(run.task.metrics) & set(GENERATED):
        generation.check_room(split.prompts, run.task.max_new_tokens, backbone.longest(body), run.model.name)
