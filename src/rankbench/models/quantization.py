"""The frozen backbone in 4 or 8 bits, by bitsandbytes: which layers, how they are stored, and what must not change."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from rankbench.settings.quantization import Compute, Quantization

log = logging.getLogger("rankbench")

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CPU = torch.device("cpu")
STREAMED_BLOCK = 64  # transformers' loader quantizes tensor by tensor, but only with this block size


@dataclass(frozen=True)
class Storage:
    """How a backbone lies in memory: quantization, the dtype of its other frozen weights, and where."""

    settings: Quantization
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    @property
    def quantized(self) -> bool:
        """Whether any weight is quantized."""
        return self.settings.name != "none"

    @property
    def compute(self) -> torch.dtype:
        """The dtype of the products with dequantized weights."""
        chosen = self.settings.compute_dtype
        return self.dtype if chosen is Compute.auto else DTYPES[chosen.value]


PLAIN = Storage(Quantization(name="none"))


def storage(settings: Quantization, precision: str, device: torch.device) -> Storage:
    """The storage of a run that steps in `precision`; an unquantized backbone stays float32 under autocast."""
    dtype = torch.float32 if settings.name == "none" else DTYPES[precision]
    return Storage(settings, dtype, device)


def bits(settings: Quantization) -> float:
    """Bits stored per quantized weight: 4.127 for NF4 with double quantization and blocks of 64 (QLoRA section 3).

    An int8 row shares one float32 scale, which is left out here.
    """
    if settings.name == "int8":
        return 8
    scale = 8 + 32 / 256 if settings.double_quant else 32
    return 4 + scale / settings.block_size


def kept_out(model: nn.Module) -> list[str]:
    """Modules that stay in full precision: what stands outside the base model, so every head and output embedding."""
    prefix = getattr(model, "base_model_prefix", "")
    return [name for name, _ in model.named_children() if name != prefix]


def layers(model: nn.Module, skip: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of the base model that are not quantized yet, by name."""
    for name, module in list(model.named_modules()):
        linear = isinstance(module, nn.Linear | Conv1D) and not type(module).__module__.startswith("bitsandbytes")
        if linear and name.split(".")[0] not in skip:
            yield name, module


@contextlib.contextmanager
def plain_linears() -> Iterator[None]:
    """Build Falcon's layers as nn.Linear, which computes the same: its own subclass would silently stay in floats."""
    from transformers.models.falcon import modeling_falcon

    kept = modeling_falcon.FalconLinear
    modeling_falcon.FalconLinear = nn.Linear
    try:
        yield
    finally:
        modeling_falcon.FalconLinear = kept


def loader_config(storage: Storage, skip: list[str]) -> BitsAndBytesConfig:
    """The same storage in the words of transformers' loader."""
    settings = storage.settings
    if settings.name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.name,
        bnb_4bit_use_double_quant=settings.double_quant,
        bnb_4bit_compute_dtype=storage.compute,
        llm_int8_skip_modules=skip,
    )


def quantize(model: nn.Module, storage: Storage, std: float = 0.02) -> None:
    """Quantize the linear layers of `model` in place, one at a time, and put it on its device.

    Layers on the meta device get random normal weights of deviation `std` on the way, so that a model whose floats
    fit nowhere can still be rehearsed. The rest must be real.
    """
    for name, layer in layers(model, kept_out(model)):
        model.set_submodule(name, _quantized(layer, storage, std))
    setattr(model, "is_loaded_in_8bit" if storage.settings.name == "int8" else "is_loaded_in_4bit", True)


def _quantized(layer: nn.Module, storage: Storage, std: float) -> nn.Module:
    import bitsandbytes as bnb

    settings, weight, bias = storage.settings, layer.weight, layer.bias
    if weight.is_meta:
        weight = torch.empty(weight.shape, dtype=storage.dtype, device=storage.device).normal_(std=std)
        bias = None if bias is None else torch.zeros(bias.shape, dtype=storage.dtype)
    data = (weight.data.T if isinstance(layer, Conv1D) else weight.data).contiguous()
    out_features, in_features = data.shape
    with torch.device("meta"):
        if settings.name == "int8":
            made = bnb.nn.Linear8bitLt(
                in_features, out_features, bias is not None, has_fp16_weights=False, threshold=6.0
            )
        else:
            made = bnb.nn.Linear4bit(
                in_features,
                out_features,
                bias is not None,
                compute_dtype=storage.compute,
                compress_statistics=settings.double_quant,
                quant_type=settings.name,
            )
    if settings.name == "int8":
        made.weight = bnb.nn.Int8Params(data.cpu(), requires_grad=False, has_fp16_weights=False).to(storage.device)
    else:
        made.weight = bnb.nn.Params4bit(
            data,
            requires_grad=False,
            blocksize=settings.block_size,
            compress_statistics=settings.double_quant,
            quant_type=settings.name,
            module=made,
        ).to(storage.device)
    if bias is not None:
        made.bias = nn.Parameter(bias.data.to(storage.device), requires_grad=False)
    return made


def settle(model: nn.Module, storage: Storage) -> None:
    """Make a quantized model fit for training: frozen, norms and classifier in float32, and no forward changes it.

    As PEFT's prepare_model_for_kbit_training, but embeddings and output embeddings, which only matrix products read,
    stay in the storage's dtype: on a 40B model that is gigabytes.
    """
    import bitsandbytes as bnb

    plain = [name for name, _ in layers(model, kept_out(model))]
    if plain:
        log.warning("%d linear layers stay unquantized, %s among them", len(plain), plain[0])
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False  # would repack the weights at the first forward in eval mode
            module.compute_type_is_set = True  # else the first input's dtype replaces compute_dtype
            if module.bias is not None:
                module.bias.data = module.bias.data.to(storage.compute)  # as the first forward would
            if storage.compute is not storage.dtype:  # autocast would compute in the run's precision all the same
                module.forward = torch.autocast(storage.device.type, enabled=False)(module.forward)
    biases = {id(module.bias) for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.is_floating_point() and parameter.dim() == 1 and id(parameter) not in biases:
            parameter.data = parameter.data.float()
    for name in kept_out(model):
        if getattr(model, name) is not model.get_output_embeddings():
            getattr(model, name).float()  # a fresh head is trained


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every quantized buffer by name, scales included: what training and evaluation must leave bit-equal."""
    import bitsandbytes as bnb

    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            found[f"{name}.weight"] = module.weight.data
            for key, value in module.weight.quant_state.as_dict(packed=True).items():
                found[f"{name}.{key}"] = value
        elif isinstance(module, bnb.nn.Linear8bitLt):
            state: Any = module.state
            found[f"{name}.weight"] = module.weight.data if state.CB is None else state.CB
            found[f"{name}.scale"] = module.weight.SCB if state.SCB is None else state.SCB
    return found
