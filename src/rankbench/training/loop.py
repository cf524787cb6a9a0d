"""The training loop: one page, on accelerate; resumable, on a CPU to the bit."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from rankbench.methods import FineTuning
from rankbench.models.device import device_name
from rankbench.settings.samplers import Sampler
from rankbench.settings.train import Keep, Optimizer, Schedule, Train
from rankbench.system import processes, seeds, stopping
from rankbench.system.progress import Progress
from rankbench.tasks.encoding import Encoded, collate, epoch_batches
from rankbench.training import checkpoints
from rankbench.training.checkpoints import Progression
from rankbench.training.compiled import Layers
from rankbench.training.samplers import Draw, draw, draw_rows
from rankbench.training.selection import Judge

log = logging.getLogger("rankbench")

SKIPPED_LIMIT = 25  # overflowing fp16 steps in a row; the scaler halves from 2^16, so more means it will not recover


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to try."""


class Plan:
    """Optimizer step -> micro-batches of row numbers, each with its share of the step's targets.

    Targets are examples, each as often as its class weighs, or the response tokens of a language model: the step's loss
    is the mean over all of them, however they fall into micro-batches.
    """

    def __init__(self, lengths: np.ndarray, settings: Train, seed: int, targets: np.ndarray | None = None) -> None:
        self.lengths, self.settings, self.seed = lengths, settings, seed
        self.targets = np.ones(len(lengths), np.int64) if targets is None else targets
        batches = math.ceil(len(lengths) / settings.batch_size)
        self.steps_per_epoch = math.ceil(batches / settings.gradient_accumulation_steps)
        self.steps = settings.max_steps or settings.epochs * self.steps_per_epoch
        self._epoch = -1
        self._batches: list[np.ndarray] = []

    def micro_batches(self, step: int) -> list[tuple[np.ndarray, float]]:
        """The micro-batches of optimizer step `step`, counted from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            s = self.settings
            self._epoch = epoch
            self._batches = epoch_batches(self.lengths, s.batch_size, self.seed, epoch, s.group_by_length)
        n = self.settings.gradient_accumulation_steps
        batches = self._batches[within * n : (within + 1) * n]
        counts = [self.targets[rows].sum().item() for rows in batches]
        return [(rows, count / sum(counts)) for rows, count in zip(batches, counts, strict=True)]


def learning_rate_factor(settings: Train, step: int, steps: int) -> float:
    """The share of the peak learning rate at optimizer step `step` of `steps`, counted from 0: in (0, 1]."""
    warmup = settings.warmup_steps if settings.warmup_steps is not None else math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (steps - step) / max(1, steps - warmup)
    if settings.schedule is Schedule.cosine:
        return 0.5 * (1 + math.cos(math.pi * (1 - left)))
    return left if settings.schedule is Schedule.linear else 1.0


def make_optimizer(
    settings: Train, tensors: list[torch.Tensor], own: Sequence[tuple[float, list[torch.nn.Parameter]]] = ()
) -> torch.optim.Optimizer:
    """The optimizer over `tensors`; biases and norms, the one-dimensional ones, do not decay.

    `own` are further ones, each with its constant rate, that do not decay either.
    """
    decay, rest = [t for t in tensors if t.dim() > 1], [t for t in tensors if t.dim() <= 1]
    groups: list[dict[str, Any]]
    groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    groups += [{"params": params, "weight_decay": 0.0, "lr": rate, "constant": True} for rate, params in own]
    if settings.optimizer is Optimizer.sgd:
        return torch.optim.SGD(groups, lr=settings.learning_rate)
    # The fused kernel wants contiguous tensors, and bitsandbytes' optimizers would cut strided ones, frozen_strict's
    # columns, off their weight.
    contiguous = all(t.is_contiguous() for t in tensors)
    if settings.optimizer is Optimizer.paged_adamw:
        if tensors[0].device.type == "cuda" and contiguous:
            from bitsandbytes.optim import PagedAdamW32bit

            return PagedAdamW32bit(groups, lr=settings.learning_rate)
        why = "only a GPU pages memory out" if contiguous else "a paged one would part single columns from their weight"
        log.info("optimizer: AdamW, since %s", why)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=contiguous)


def train(
    settings: Train,
    sampler: Sampler,
    seed: int,
    adapter: FineTuning,
    data: Encoded,
    pad_id: int,
    accelerator: Accelerator,
    folder: Path,
    measure: Callable[[Any], list[dict[str, Any]]],
    observe: Callable[[dict[str, Any]], None] = lambda entry: None,
    judge: Judge | None = None,
) -> tuple[Any, Progression]:
    """Train to the last step, from the newest good checkpoint under `folder` if there is one.

    Where `settings.selects`, `judge` holds the evaluations against each other: `patience` may stop before the last
    step, and `keep=best` ends with the weights of the best. The schedule is that of all steps.
    Returns the prepared model and what happened. `measure(model)` is the periodic evaluation: values, each with its
    rank, depth and metric. `observe(entry)` sees each entry of `losses`, a checkpoint's first. Raises TrainingError
    when the loss is not finite or fp16 keeps overflowing, and Stopped, after a checkpoint, when a signal asks for that.
    """
    plan = Plan(data.lengths, settings, seed, _targets(adapter, data))
    if settings.gradient_checkpointing:
        _checkpoint_activations(adapter)
    model = accelerator.prepare_model(adapter.model, evaluation_mode=True)  # gradients are added up here, not in hooks
    own = adapter.own_rates()
    optimizer = accelerator.prepare(make_optimizer(settings, adapter.optimized(), own))
    if sampler.draws_rows:  # where rows cannot differ it is refused now, not at the first step that has them differ
        adapter.activate_rows(adapter.learners[-1:])
        adapter.activate(adapter.learners[-1])
    trained = adapter.trained()
    apart = {id(p) for _, parameters in own for p in parameters}
    clipped = [p for p in trained.values() if id(p) not in apart]
    past = checkpoints.restore(folder, trained, optimizer, accelerator)
    precision = "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)
    past.goes_on(
        {"precision": precision, "device": device_name().partition(",")[0], "threads": torch.get_num_threads()}
    )
    for entry in past.losses:
        observe(entry)
    layers = Layers(adapter, settings.compile)
    layers.start()
    progress = Progress(plan.steps, past.step, folder / "progress.json")
    began = time.perf_counter() - past.seconds
    recent = torch.tensor(past.pending_loss if processes.first() else 0.0, device=accelerator.device)
    turns = {max(1, round(share * plan.steps)) for share in adapter.reorder_at}
    keeps = settings.keep is Keep.best
    in_a_row = 0
    heard: list[torch.Tensor] = []
    adapter.model.train()
    stopping.hold()
    for step in range(past.step, past.step if past.stopped else plan.steps):
        factor = learning_rate_factor(settings, step, plan.steps)
        for group in optimizer.param_groups:
            if not group.get("constant"):
                group["lr"] = settings.learning_rate * factor
        torch.manual_seed(seeds.integer(seed, f"dropout{processes.place() or ''}", step))
        alone: Draw = ((adapter.learners[-1], 1.0),) if step < sampler.share_alone * plan.steps else ()
        for place, (rows, share) in enumerate(plan.micro_batches(step)):
            mine, share = _part(plan, rows, share)
            if adapter.arithmetic is not None:
                adapter.arithmetic.noise.at(step, torch.from_numpy(mine).to(accelerator.device))
            batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in collate(data, mine, pad_id).items()}
            if sampler.draws_rows and not alone:
                each = draw_rows(sampler, adapter.learners, seed, step, len(rows), place)
                its = [each[i] for i in processes.own(np.arange(len(rows)))] or each[:1]
                recent += adapter.accumulate_rows(model, batch, its, share, accelerator.backward)
                drawn = tuple((submodel, 1 / len(each)) for submodel in dict.fromkeys(each))
            else:
                drawn = alone or draw(sampler, adapter.learners, seed, step, place)
                shares = [(submodel, share * weight) for submodel, weight in drawn]
                recent += adapter.accumulate(model, batch, shares, accelerator.backward)
            past.examples += int(data.examples[rows].sum())
        penalty = adapter.penalty(step, plan.steps)
        if penalty is not None:
            accelerator.backward(penalty / processes.count())
        vote = processes.vote(stopping.asked(), accelerator.device)
        processes.add_up([*(p.grad for p in trained.values() if p.grad is not None), *vote])
        adapter.shape_gradients(drawn[-1][0])
        if settings.max_grad_norm:
            accelerator.clip_grad_norm_(clipped, settings.max_grad_norm)
        overflowed = _step(optimizer, accelerator.scaler)
        for parameter in trained.values():
            parameter.grad = None
        in_a_row = in_a_row + 1 if overflowed else 0
        past.skipped += overflowed
        if in_a_row >= SKIPPED_LIMIT or past.skipped == plan.steps:
            all_of_them = " of a run" if past.skipped == plan.steps else ""
            raise TrainingError(
                f"fp16 overflowed in {in_a_row} steps in a row{all_of_them}; use train.precision=fp32 or bf16"
            )

        if step + 1 in turns:
            adapter.reorder(optimizer.state)

        past.step = step + 1
        last = past.step == plan.steps
        evaluates = keeps if last else bool(settings.eval_steps) and past.step % (settings.eval_steps or 1) == 0
        if (last or evaluates) and accelerator.device.type == "cuda":
            torch.cuda.synchronize(accelerator.device)  # what the card still has to do is training too
        past.seconds = time.perf_counter() - began
        if past.step % settings.log_steps == 0 or last or (evaluates and settings.patience):  # it may be the last one
            processes.add_up([recent])
            mean = recent.item() / (past.step - (past.losses[-1]["step"] if past.losses else 0))
            recent.zero_()
            if not math.isfinite(mean) and not in_a_row:
                raise TrainingError(f"the loss is {mean} at step {past.step}; lower train.learning_rate, or use fp32")
            submodel = " + ".join(str(m) for m, _ in drawn) if len(drawn) < 3 else f"{len(drawn)} sub-models"
            past.losses.append(
                {
                    "step": past.step,
                    "loss": mean,
                    "learning_rate": settings.learning_rate * factor,
                    "submodel": submodel,
                    **adapter.watched(),
                }
            )
            observe(past.losses[-1])
            progress.show(past.step, mean, submodel, past.examples / past.seconds)
        if evaluates:
            with layers.paused():
                found = measure(model)
            past.evaluations += [{"step": past.step, **value} for value in found]
            settled = adapter.settled(past.step, plan.steps) or (last and past.best is None)
            if judge is not None and settled and _judged(past, judge, found) and keeps:
                checkpoints.keep_best(folder, trained, past)
            past.stopped = not last and settings.patience is not None and past.without >= settings.patience
            last = last or past.stopped
            began = time.perf_counter() - past.seconds  # evaluation is not training time
        stop = processes.heard(heard) if processes.count() > 1 else stopping.asked()
        heard = vote  # read a step later, when nobody has to wait for it
        if last or stop or past.step % settings.checkpoint_steps == 0:
            past.pending_loss = sum(processes.gathered(recent.item()))
            if processes.first():
                checkpoints.keep(folder, trained, optimizer, accelerator, past)
        if stop:
            processes.wait()  # for the first one's checkpoint
            stopping.leave()
        progress.note(past.step)
        if past.stopped:
            break
    stopping.release()
    layers.stop()
    progress.close()
    checkpoints.put_back(folder, trained, past)
    return model, past


def _judged(past: Progression, judge: Judge, found: list[dict[str, Any]]) -> bool:
    """Whether this evaluation is the best so far, which is noted; the first process says so for all."""
    value = processes.gathered(judge.value(found))[0]
    better = judge.better(value, past.best["value"] if past.best else None)
    past.without = 0 if better else past.without + 1
    if better:
        past.best = {"step": past.step, "value": value}
    return better


def _step(optimizer: Any, scaler: Any) -> bool:
    """Step, and say whether fp16 overflowed: a fused optimizer then skips in silence, but the scale falls."""
    before = scaler.get_scale() if scaler else 0.0
    optimizer.step()
    return bool(scaler and scaler.get_scale() < before)


def _targets(adapter: FineTuning, data: Encoded) -> np.ndarray:
    """What each row counts in the loss, (n,)."""
    if adapter.class_weights is None:
        return data.targets
    return adapter.class_weights.cpu().double().numpy()[data.labels]


def _part(plan: Plan, rows: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """This process's rows of a micro-batch and their share of the step's targets.

    Where it has none, a row that counts nothing: its gradients are zeros of the right shapes.
    """
    mine = processes.own(rows)
    if not len(mine):
        return rows[:1], 0.0
    return mine, share * float(plan.targets[mine].sum()) / float(plan.targets[rows].sum())


def _checkpoint_activations(adapter: FineTuning) -> None:
    model: Any = adapter.model
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
