"""A trained adapter as it lies on disk, and its cuts to a rank: plain tensors and settings, no model in sight."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rankbench.errors import RequestError
from rankbench.methods.cuts import closest
from rankbench.shipping.shipped import CONFIG

WEIGHTS = "adapter_model.safetensors"
A, B = "lora_A.weight", "lora_B.weight"
_LAYER = re.compile(r"\.(?:layers|layer|h)\.(\d+)\.")  # as methods.layer_stack.PLACES has them
AGAIN = "run the same command again with fresh=true"


@dataclass(frozen=True)
class Adapter:
    """A LoRA as PEFT stores it: `tensors` under PEFT's names, `config` as adapter_config.json.

    Of each layer A is (rank, in) and B is (out, rank); every other tensor belongs to the head.
    """

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]

    @property
    def rank(self) -> int:
        """Rows of every A that has no rank of its own."""
        return int(self.config["r"])

    def rank_of(self, layer: str) -> int:
        """Rows of A in the layer of this name, as `layers` has it."""
        rank = self.rank
        return int((self.config.get("rank_pattern") or {}).get(inside_base(layer), rank))

    @property
    def scale(self) -> float:
        """The factor before B A that PEFT computes: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        root = math.sqrt(self.rank) if self.config.get("use_rslora") else self.rank
        return float(self.config["lora_alpha"]) / root

    @property
    def head(self) -> dict[str, torch.Tensor]:
        """The trained tensors beside the low-rank factors, by their names in the backbone."""
        return {k.removeprefix("base_model.model."): v for k, v in self.tensors.items() if "lora_" not in k}

    def layers(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """A and B by the layer's name, which ends in a dot."""
        names = [name.removesuffix(A) for name in self.tensors if name.endswith(A)]
        return {name: (self.tensors[name + A], self.tensors[name + B]) for name in names}


def read(folder: Path) -> Adapter:
    """The adapter in a folder. Raises RequestError when a file is missing or damaged."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        tensors = load_file(folder / WEIGHTS)
        adapter = Adapter(tensors, config)
        whole = bool(adapter.layers()) and all(
            a.shape[0] == b.shape[1] == adapter.rank_of(name) for name, (a, b) in adapter.layers().items()
        )
    except FileNotFoundError as error:
        raise RequestError(f"{error.filename or folder / WEIGHTS} is missing; {AGAIN}") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(f"{folder} is damaged ({cause}); {AGAIN}") from error
    if not whole:
        raise RequestError(f"{folder} is damaged (its tensors are not those of a LoRA of rank {adapter.rank}); {AGAIN}")
    return adapter


def write(adapter: Adapter, folder: Path) -> None:
    """Leave the adapter in a folder as PEFT would."""
    config = adapter.config | {"target_modules": _in_order(adapter.config.get("target_modules"))}
    save_file(adapter.tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def prefix(adapter: Adapter, rank: int, policy: str) -> Adapter:
    """A[:rank] and B[:, :rank] as a LoRA of their own, at the scale that `policy` gives this rank (DyLoRA Eq. 7)."""
    alpha = adapter.config["lora_alpha"]
    if policy == "alpha_over_r":  # PEFT will divide by the new rank
        alpha = alpha * rank / adapter.rank
    return _cut(adapter, {name: (a[:rank], b[:, :rank]) for name, (a, b) in adapter.layers().items()}, rank, alpha)


def one_alpha(adapter: Adapter) -> Adapter:
    """The same updates at scale lora_alpha / rank in every layer, which is all that some servers know (llama.cpp).

    A layer's own alpha goes into its B, the root of rsLoRA into lora_alpha.
    """
    config, alpha = adapter.config, float(adapter.config["lora_alpha"])
    if config.get("use_rslora"):
        return replace(adapter, config=config | {"use_rslora": False, "lora_alpha": _whole(alpha * adapter.rank**0.5)})
    own = {name: (config.get("alpha_pattern") or {}).get(inside_base(name), alpha) for name in adapter.layers()}
    turned = {name + B: adapter.tensors[name + B] * (its / alpha) for name, its in own.items() if its != alpha}
    return replace(adapter, tensors=adapter.tensors | turned, config=config | {"alpha_pattern": {}})


def first_layers(adapter: Adapter, layers: int) -> Adapter:
    """The part of the adapter that lies in the first `layers` layers, or outside them all."""
    kept = {name: t for name, t in adapter.tensors.items() if not ((n := _LAYER.search(name)) and int(n[1]) >= layers)}
    return replace(adapter, tensors=kept)


def svd_cut(adapter: Adapter, rank: int) -> Adapter:
    """The closest LoRA of `rank` to the whole one, layer by layer: the truncated SVD of scale B A (Eckart-Young)."""
    cut = {name: closest(a, b, adapter.scale, rank) for name, (a, b) in adapter.layers().items()}
    made = _cut(adapter, cut, rank, rank)
    return replace(made, config=made.config | {"use_rslora": False})


def by_layer(adapter: Adapter, ranks: Mapping[str, int], scale_of: Callable[[int], float]) -> Adapter:
    """A[:b] and B[:, :b] with a rank b of its own in each layer, named as `layers` has it, at the scale of that rank.

    In PEFT's words rank_pattern and alpha_pattern; a layer of rank 0 is left out, so that it stays the backbone's.
    """
    kept = {name: rank for name, rank in ranks.items() if rank}
    factors = {
        name: (adapter.layers()[name][0][:rank], adapter.layers()[name][1][:, :rank]) for name, rank in kept.items()
    }
    largest = max(kept.values())
    made = _cut(adapter, factors, largest, largest * scale_of(largest))
    dropped = {name + part for name in ranks if name not in kept for part in (A, B)}
    inside = {inside_base(name): rank for name, rank in kept.items()}
    patterns = {
        "target_modules": list(inside),
        "rank_pattern": inside,
        "alpha_pattern": {name: _whole(rank * scale_of(rank)) for name, rank in inside.items()},
        "use_rslora": False,  # PEFT would divide by the root of a layer's rank
    }
    tensors = {name: tensor for name, tensor in made.tensors.items() if name not in dropped}
    return Adapter(tensors, made.config | patterns)


def inside_base(layer: str) -> str:
    """A layer of `Adapter.layers` by its name in the backbone."""
    return layer.removeprefix("base_model.model.").removesuffix(".")


def _cut(adapter: Adapter, factors: dict[str, tuple[torch.Tensor, torch.Tensor]], rank: int, alpha: float) -> Adapter:
    tensors = dict(adapter.tensors)
    for name, (a, b) in factors.items():
        tensors |= {name + A: a.clone(memory_format=torch.contiguous_format)}
        tensors |= {name + B: b.clone(memory_format=torch.contiguous_format)}
    return Adapter(tensors, adapter.config | {"r": rank, "lora_alpha": _whole(alpha)})


def _whole(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _in_order(targets: Any) -> Any:
    """PEFT lists a set, in another order each time."""
    return sorted(targets) if isinstance(targets, list) else targets
