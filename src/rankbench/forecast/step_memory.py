"""What a run asks of the memory, forecast from the architecture alone: no weights are read and none are fetched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import nn

from rankbench import methods
from rankbench.forecast.rehearsal import FLOAT, Saved, Unread, rehearse, size, stand_in
from rankbench.models import backbone, described, heads, integer, quantization
from rankbench.models.precision import choose_precision
from rankbench.settings.hardware import Hardware
from rankbench.settings.run import Run
from rankbench.settings.train import Optimizer, Precision


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak of a training step, by what they hold; `per_row` is what one more row of a micro-batch adds.

    `activations` is without and `activations_checkpointed` with gradient checkpointing, whichever the run asks for.
    `workspace` is a dequantized layer and the gradient of the widest activation. `peak` is less than the sum: the
    logits are gone when the layers' backward begins, and the layer that is computed again comes only then.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    activations_checkpointed: int
    workspace: int
    logits: int
    peak: int
    per_row: int


@dataclass(frozen=True)
class Anatomy:
    """A run's model in numbers, and what one row of a batch and two rows make a forward keep.

    Parameters: `quantized` in quantized linears, `rest` in the other modules, `low_rank` in the adapter at the largest
    rank, `head` trained beside it, `trained` altogether. `length` is the tokens of a row, `logits` the bytes of a
    row's; the other fields are bytes as in Forecast.
    """

    layers: int
    width: int
    vocabulary: int
    length: int
    quantized: int
    rest: int
    low_rank: int
    head: int
    trained: int
    weights: int
    adapter: int
    gradients: int
    optimizer: int
    workspace: int
    logits: int
    one: Saved
    two: Saved


def forecast(run: Run, rows: int | None = None) -> Forecast:
    """The bytes of a training step with micro-batches of `rows` (default: train.batch_size), at the largest rank.

    Every row is as long as task.max_length and the model allow, every token of a language model is a target, and the
    gradients are there from the start, as when they accumulate. Left out are the allocator's gaps and the libraries
    themselves (CUDA's context, or the process on a CPU).

    Activations are what autograd saves when fake tensors go through the run's own modules, under a CPU's autocast;
    for a GPU with its fused attention and dropout, and its norms in float32. Batches have padding, so a mask.
    Raises RequestError where settings and model do not fit each other.
    """
    return of(anatomy(run), run, rows)


def of(body: Anatomy, run: Run, rows: int | None = None) -> Forecast:
    """As `forecast`, for an anatomy at hand; of the run only its training settings are read."""
    rows = run.train.batch_size if rows is None else rows
    again = run.train.gradient_checkpointing
    fixed = (body.weights, body.adapter, body.gradients, body.optimizer)
    here, beyond = (_growing(body, again, n) for n in (rows, rows + 1))
    peak, more = (sum(fixed) + parts.pop("peak") for parts in (here, beyond))
    return Forecast(*fixed, **here, peak=peak, per_row=more - peak)


def precision(asked: Precision, hardware: Hardware) -> tuple[str, str]:
    """As `models.precision.choose_precision`, but a V100 can be planned for where there is none."""
    if hardware is not Hardware.v100 or torch.cuda.is_available():
        return choose_precision(asked, hardware)
    if asked is Precision.auto:
        return "fp32", "hardware=v100: a V100 has no bf16, and fp16 is opt-in"
    return asked.value, "as asked"


def anatomy(run: Run) -> Anatomy:
    """Take the run's model apart on the meta device; where all layers are alike, two of them stand for all.

    Raises RequestError where settings and model do not fit each other.
    """
    config = backbone.config_of(run.model, _labels(run))
    layers = config.num_hidden_layers
    if layers <= 2 or not _alike(run, config):
        return _dissect(run, config, layers)
    return _grown(_dissect(run, config, 1), _dissect(run, config, 2), layers)


def _dissect(run: Run, config: Any, layers: int) -> Anatomy:
    """The anatomy of the run's model with this many layers."""
    arithmetic, _ = precision(run.precision, run.hardware)
    storage = quantization.storage(run.quantization, arithmetic, torch.device("cpu"))
    model, blocks = _on_meta(run, config, layers, storage.dtype)
    length = min(run.task.max_length, backbone.longest(backbone.Backbone(model, None, {})))
    whole = sum(p.numel() for p in model.parameters())
    stand_ins = stand_in(model, storage) if storage.quantized else []
    quantized = [layer.weight.numel() for layer in stand_ins]
    loaded = {id(p) for p in model.parameters()}
    put = integer.put(model, run.arithmetic, run.seed, Unread)
    integers = put if isinstance(put, Unread) else None
    tuning = methods.attach(run, model)
    tuning.model.train()
    count = tuning.count(tuning.family[-1])
    trained = list(tuning.trained().values())
    learnt = [*tuning.optimized(), *(p for _, own in tuning.own_rates() for p in own)]
    plain = loaded - {id(layer.weight) for layer in stand_ins}
    one, two = (rehearse(tuning.model, blocks, run, arithmetic, rows, length, integers) for rows in (1, 2))
    return Anatomy(
        layers=layers,
        width=config.hidden_size,
        vocabulary=config.vocab_size,
        length=length,
        quantized=sum(quantized),
        rest=whole - sum(quantized),
        low_rank=count.adapter,
        head=count.head,
        trained=sum(p.numel() for p in learnt),
        weights=size(chain((p for p in tuning.model.parameters() if id(p) in plain), tuning.model.buffers()))
        + sum(layer.stored(run.quantization) for layer in stand_ins)
        + sum(integers.frozen.values() if integers else ()),
        adapter=size(p for p in trained if id(p) not in loaded),
        gradients=size(trained),
        optimizer=_moments(run, learnt),
        workspace=max(quantized, default=0) * _dequantized(storage),
        logits=length * _logit(arithmetic) * config.vocab_size if run.task.kind == "causal_lm" else 0,
        one=one,
        two=two,
    )


def _on_meta(run: Run, config: Any, layers: int, dtype: torch.dtype) -> tuple[nn.Module, nn.ModuleList]:
    """The model with this many layers, and these layers."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if config.pad_token_id is None:  # a classifier wants to know where a row ends
        config.pad_token_id = 0
    with described.builds(run.model), torch.device("meta"):
        kind = heads.auto_class(config, _labels(run), run.task.extracts)
        model = kind.from_config(config, dtype=dtype, trust_remote_code=run.model.trust_remote_code)
    return model, next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers)


def _alike(run: Run, config: Any) -> bool:
    """Whether each layer has the same tensors, and the adapter the same targets in each."""
    targets = getattr(run.adapter, "target_modules", None) or []
    named = [targets] if isinstance(targets, str) else targets
    if run.adapter.deep:
        return False  # its exits name layers
    if (named == [targets] and targets != "all-linear") or any(p.isdigit() for name in named for p in name.split(".")):
        return False
    _, blocks = _on_meta(run, config, config.num_hidden_layers, torch.float32)
    return len({tuple((name, p.shape) for name, p in block.named_parameters()) for block in blocks}) == 1


def _grown(one: Anatomy, two: Anatomy, layers: int) -> Anatomy:
    """From one layer and two to `layers`, each further one adding what the second did."""

    def grow(a: int, b: int) -> int:
        return a + (layers - 1) * (b - a)

    def grow_saved(a: Saved, b: Saved) -> Saved:
        return replace(Saved(*map(grow, astuple(a), astuple(b))), last=b.last, widest=b.widest)

    parts: list[Any] = [(getattr(one, name), getattr(two, name)) for name in Anatomy.__dataclass_fields__]
    grown: list[Any] = [grow_saved(a, b) if isinstance(a, Saved) else grow(a, b) for a, b in parts]
    return Anatomy(*grown)


def _growing(body: Anatomy, checkpointing: bool, rows: int) -> dict[str, int]:
    """The parts of a forecast that grow with the rows, and `peak`, the most of them at once."""

    def bytes_of(part: Callable[[Saved], int]) -> int:
        one, two = part(body.one), part(body.two)
        return one + (rows - 1) * (two - one)

    plain = bytes_of(lambda s: s.outside + s.inside)
    first = bytes_of(lambda s: s.outside + s.stem + s.held + s.inputs)
    again = bytes_of(lambda s: s.last)
    workspace = body.workspace + bytes_of(lambda s: s.widest)
    logits = rows * body.logits
    return {
        "activations": plain,
        "activations_checkpointed": first + again,
        "workspace": workspace,
        "logits": logits,
        "peak": first + max(logits, again + workspace) if checkpointing else plain + max(logits, workspace),
    }


def _labels(run: Run) -> int | None:
    """Outputs of the head; two where only the data would tell."""
    known = len(run.task.label_names or ()) or 2
    return {"causal_lm": None, "regression": 1, "question_answering": 2}.get(run.task.kind, known)


def _moments(run: Run, tensors: list[torch.Tensor]) -> int:
    """AdamW's two moments for each trained weight, and a step counter for each tensor."""
    return 0 if run.train.optimizer is Optimizer.sgd else 2 * size(tensors) + FLOAT * len(tensors)


def _dequantized(storage: quantization.Storage) -> int:
    """Bytes of a dequantized weight: in the dtype that it was quantized from, and once more if another computes."""
    if storage.settings.name == "int8":
        return FLOAT  # the dtype of its input, mostly a norm in float32
    return storage.dtype.itemsize + (storage.compute.itemsize if storage.compute is not storage.dtype else 0)


def _logit(arithmetic: str) -> int:
    """Bytes of a logit in the loss: log-probability, its gradient and its own, in float32, and itself in 16 bits."""
    return 3 * FLOAT + (0 if arithmetic == "fp32" else 2)
