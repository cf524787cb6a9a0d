"""The loss of each kind of task; a language model's at its responses' positions alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from rankbench.errors import RequestError
from rankbench.tasks.encoding import IGNORED, TARGETS


def inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a forward reads of a batch: all but its targets."""
    return {key: value for key, value in batch.items() if key not in TARGETS}


def trunk_inputs(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Inputs of a forward for the layers' sake: a language model's head reads one position."""
    writes = "labels" in batch and batch["labels"].dim() > 1
    return inputs(batch) | ({"logits_to_keep": 1, "use_cache": False} if writes else {})


def response_nll(model: Any, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
    """Negative log-likelihood (n, s) of each target in nats, 0 where there is none.

    With `label_smoothing` e it is (1 - e) nll + e times the vocabulary's mean of -log p, as in LoRA's GPT-2 code.
    `batch` is `tasks.encoding.collate`'s; the head reads the last s + 1 positions and not the prompt's.
    """
    labels = batch["labels"]
    logits = model(**inputs(batch), logits_to_keep=labels.shape[1] + 1, use_cache=False).logits
    targets = F.pad(labels, (0, 1), value=IGNORED)  # what follows a row's last token is none
    each = F.cross_entropy(  # a row a token: with the classes in the middle torch takes twice as long
        logits.float().flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return each.view_as(targets)[:, :-1]


def span_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits (n, t, 2) of each token as start and as end of an answer; minus infinity for padding.

    So no score depends on what else is in a batch.
    """
    out = model(**inputs(batch))
    logits = torch.stack([out.start_logits, out.end_logits], dim=-1).float()
    return logits.masked_fill(~batch["attention_mask"].bool()[..., None], -torch.inf)


def span_nll(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Negative log-likelihood (n,) of the start and the end in nats, the mean of both, as transformers has it."""
    targets = torch.stack([batch["start_positions"], batch["end_positions"]], dim=-1)
    return F.cross_entropy(span_logits(model, batch), targets, reduction="none").mean(-1)


def check_packing(model: Any) -> None:
    """Refuse a model in which a packed row reads the row before it. Raises RequestError."""
    device = next(model.parameters()).device
    ids = torch.arange(3, 15, device=device).view(1, 12)
    positions = torch.arange(6, device=device).repeat(2).view(1, 12)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 6:]
        alone = model(input_ids=ids[:, 6:], position_ids=positions[:, 6:], use_cache=False).logits
    model.train(was_training)
    if not torch.allclose(together, alone, rtol=1e-2, atol=1e-2 * float(alone.abs().max())):
        raise RequestError(
            f"a {model.config.model_type} model does not keep packed rows apart; give task.packing=false"
        )


def row_losses(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss (n,) of each row, and how many targets (n,) it sums over.

    In nats over the response's tokens for a language model; of a start and an end the mean of both; of one label the
    cross-entropy, of one value the squared error.
    """
    if "start_positions" in batch:
        return span_nll(model, batch), torch.ones_like(batch["start_positions"])
    labels = batch["labels"]
    if labels.dim() == 2:
        return response_nll(model, batch).sum(1), (labels != IGNORED).sum(1)
    logits = model(**inputs(batch)).logits.float()
    if logits.shape[-1] == 1:
        each = F.mse_loss(logits.squeeze(-1), labels.float(), reduction="none")
    else:
        each = F.cross_entropy(logits, labels, reduction="none")
    return each, torch.ones_like(labels, dtype=torch.long)


def loss(
    model: Any,
    batch: dict[str, torch.Tensor],
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The mean loss of a batch: per response token, per window of a context, or per example of a classifier.

    The last by `class_weights` (classes,).
    With weights it is torch's mean: the sum of w l over the sum of w, where w is the weight of the row's class. Labels
    are smoothed as torch's cross_entropy does it.
    """
    if "start_positions" in batch:
        return span_nll(model, batch).mean()
    if batch["labels"].dim() > 1:
        return response_nll(model, batch, label_smoothing).sum() / (batch["labels"] != IGNORED).sum()
    if class_weights is None and not label_smoothing:
        return model(**batch).loss
    logits = model(**inputs(batch)).logits.float()
    weight = None if class_weights is None else class_weights.to(logits.device)
    return F.cross_entropy(logits, batch["labels"], weight=weight, label_smoothing=label_smoothing)
