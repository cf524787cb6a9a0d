"""A model under PEFT's LoRA: which layers hold an adapter, and what PEFT's config says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import layer as peft_layer
from peft.tuners.lora.layer import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankbench.errors import RequestError
from rankbench.models import drawn
from rankbench.settings.methods.lora import Scale
from rankbench.settings.run import Run
from rankbench.system import seeds

ADAPTER = "default"  # PEFT's own name for the one adapter


def with_lora(run: Run, model: nn.Module) -> tuple[PeftModel, list[LoraLayer]]:
    """The model under a LoRA of rank R, and its layers. Raises RequestError where one cannot hold it."""
    adapter = run.adapter
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=_whole(adapter.lora_alpha),
        lora_dropout=adapter.lora_dropout,
        target_modules=adapter.target_modules,
        task_type=TaskType(run.task.stock.task_type),
        use_rslora=adapter.scale is Scale.alpha_over_sqrt_b,
        **drawn.for_peft(model),
    )
    refuse_unmatched(run, model)
    torch.manual_seed(seeds.integer(run.seed, "adapter"))
    try:
        peft_model = get_peft_model(model, config)
    except ValueError as error:
        raise RequestError(
            f"adapter.target_modules={adapter.target_modules}: {_first(error)}; {choices(model)}"
        ) from error
    layers = []
    for name, module in peft_model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if type(module) not in supported_layers():
            raise RequestError(
                f"layer {name} ({type(module.get_base_layer()).__name__}) cannot hold a nested adapter: PEFT's "
                f"{type(module).__name__} ignores the rank; leave it out of adapter.target_modules"
            )
        width = min(module.in_features, module.out_features)
        if adapter.r > width:
            raise RequestError(
                f"adapter.r={adapter.r} is above the width {width} of layer {name}; give adapter.r<={width}"
            )
        layers.append(module)
    return peft_model, layers


def supported_layers() -> tuple[type[nn.Module], ...]:
    """The PEFT layers whose forward asks the hook; any other would train as plain LoRA without a word."""
    layers: list[type[nn.Module]] = [peft_layer.Linear]  # serves nn.Linear and GPT-2's Conv1D
    try:
        from peft.tuners.lora import bnb
    except ImportError:
        return tuple(layers)
    return (*layers, *(getattr(bnb, name) for name in ("Linear4bit", "Linear8bitLt") if hasattr(bnb, name)))


def refuse_unmatched(run: Run, model: nn.Module) -> None:
    """Refuse a list of target modules of which one names nothing. Raises RequestError."""
    targets = run.adapter.target_modules
    names = [name for name, _ in model.named_modules()]
    unmatched = [] if isinstance(targets, str) else [t for t in targets if not any(ends_with(n, t) for n in names)]
    if unmatched:
        raise RequestError(f"adapter.target_modules: no module is called {', '.join(unmatched)}; {choices(model)}")


def ends_with(name: str, target: str) -> bool:
    """Whether a module of this full name is a target, as PEFT reads a list of them."""
    return name == target or name.endswith("." + target)


def choices(model: nn.Module) -> str:
    """The names that adapter.target_modules may hold, in words."""
    kinds = {name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    return f"choose from {', '.join(sorted(k for k in kinds if not re.fullmatch(r'[0-9]+', k)))}, or all-linear"


def keep_ranks(model: PeftModel, ranks: dict[str, int]) -> None:
    """Have PEFT know the rank of each layer, whose factors have it already; one of rank 0 is the backbone's again.

    Every layer keeps the scale that it was trained with: PEFT divides a layer's alpha by the layer's rank.
    """
    config = model.peft_config[ADAPTER]
    config.target_modules, config.rank_pattern, config.alpha_pattern, config.use_rslora = set(), {}, {}, False
    for name, rank in ranks.items():
        layer = model.get_submodule(name)
        scale = layer.scaling[ADAPTER]
        config.lora_alpha = _whole(scale * config.r)
        if rank == 0:
            model.set_submodule(name, layer.get_base_layer())
            continue
        layer.r[ADAPTER], layer.lora_alpha[ADAPTER], layer.use_rslora[ADAPTER] = rank, _whole(scale * rank), False
        inside = name.removeprefix("base_model.model.")
        config.target_modules.add(inside)
        config.rank_pattern[inside], config.alpha_pattern[inside] = rank, layer.lora_alpha[ADAPTER]


def in_order(file: Path) -> None:
    """Sort the lists of a PEFT config that are sets to PEFT, so that the same run writes the same bytes."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _whole(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
