"""FSDP or DeepSpeed's ZeRO-3 as `accelerate launch` asks for it: a model's frozen layers split over the processes.

Each process keeps its part of every layer, and a layer is whole only while it computes. What trains, and what stands
outside the layers, every process holds: so optimizer, checkpoints and saved adapters are those of a whole model. It
is torch's `fully_shard` or DeepSpeed's `initialize`, called by ourselves, since accelerate's own preparation wants to
hold the optimizer too and leaves a CPU out. Every process must run the same forwards in the same order, or all wait
for ever.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.settings.methods import Method
from rankbench.settings.quantization import Quantization
from rankbench.system import processes

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

log = logging.getLogger("rankbench")

FSDP, DEEPSPEED, MEGATRON = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() == "true"


def asked() -> str:
    """How the launcher asks to split, `FSDP` or `DeepSpeed`; empty where it does not, and for one process."""
    if processes.count() == 1:
        return ""
    return "DeepSpeed" if _on(DEEPSPEED) else "FSDP" if _on(FSDP) else ""


def refuse(method: Method, quantization: Quantization, integer: bool = False) -> None:
    """Nothing where the weights can be split as the launcher asks. Raises RequestError where they cannot."""
    if _on(MEGATRON):
        raise RequestError(
            "Megatron-LM would split the weights, which no method here can; use FSDP, with distributed_type: FSDP and "
            "fsdp_version: 2 in accelerate's config file"
        )
    name = asked()
    if not name:
        return
    _refuse_fsdp() if name == "FSDP" else _refuse_deepspeed()
    if method.keeps_every_weight:
        mend = "adapter.trainable=lora" if hasattr(method, "trainable") else "adapter=lora or dylora"
        raise RequestError(
            f"adapter={method.name} ends with a whole model, and {name} splits frozen weights here; use {mend}, or "
            "torchrun"
        )
    if integer:
        raise RequestError(
            f"integer layers keep whole weights beside what {name} splits; use arithmetic=float, or torchrun"
        )
    if quantization.name != "none":
        raise RequestError(
            f"quantization={quantization.name} packs weights in a way that {name} cannot split; use "
            "quantization=none, or torchrun"
        )


def _refuse_fsdp() -> None:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RequestError("FSDP's first version is not supported; set fsdp_version: 2 in accelerate's config file")
    if _on("FSDP_ACTIVATION_CHECKPOINTING"):
        raise RequestError(
            "fsdp_activation_checkpointing is not supported; leave it out of accelerate's config file and give "
            "train.gradient_checkpointing=true"
        )


def _refuse_deepspeed() -> None:
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none").lower() != "none":
        raise RequestError(
            "deepspeed_config_file is not read; give zero_stage and offload_param_device in accelerate's config file"
        )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage != "3":
        raise RequestError(
            f"zero_stage: {stage} does not split weights, and the optimizer of an adapter is small; set zero_stage: 3 "
            "in accelerate's config file, or use torchrun"
        )
    if _parked() not in ("none", "cpu"):
        raise RequestError(f"offload_param_device: {_parked()} is not supported; set none or cpu")
    if importlib.util.find_spec("deepspeed") is None:
        raise RequestError("DeepSpeed is not installed; pip install 'rankbench[deepspeed]', or use FSDP")


def _parked() -> str:
    """Where DeepSpeed is to keep the parts."""
    return os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none").lower()


@contextlib.contextmanager
def by_hand() -> Iterator[str]:
    """How to split; while open, accelerate and transformers see no FSDP or DeepSpeed and prepare nothing for it."""
    split, said = asked(), {name: os.environ[name] for name in (FSDP, DEEPSPEED) if name in os.environ}
    for name in said:
        del os.environ[name]
    try:
        yield split
    finally:
        os.environ.update(said)


def mesh(device: str) -> DeviceMesh:
    """All processes in a row, each with its device of this type; called by all of them together."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (processes.count(),))


def shard(model: nn.Module, trained: Iterable[nn.Parameter], over: DeviceMesh, way: str) -> None:
    """Split the frozen weights of the model's layers over the processes, and move all to the mesh's device.

    The model may lie on the CPU: a device holds no more of it at a time than its part and one layer. Raises
    RequestError for a model without a list of layers.
    """
    from torch import nn

    config: Any = model.config
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == config.num_hidden_layers)
    layers = next(lists, None)
    if layers is None:
        raise RequestError(f"a {config.model_type} model has no list of layers that {way} could split; use torchrun")
    (_fully_shard if way == "FSDP" else _zero3)(model, layers, set(trained), over)
    split = {p: part for p in model.parameters() if (part := held(p)) is not None}
    for tensor in (*(p for p in model.parameters() if p not in split), *model.buffers()):
        tensor.data = tensor.data.to(over.device_type)
    log.info(
        "%s: of %s weights in %d layers this process holds %s",
        *(way, f"{sum(map(size, split)):,}", len(layers), f"{sum(part.numel() for part in split.values()):,}"),
    )


def _fully_shard(model: Any, layers: Any, kept: set[nn.Parameter], over: DeviceMesh) -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    offload = _on("FSDP_OFFLOAD_PARAMS") and over.device_type != "cpu"
    policy: OffloadPolicy = CPUOffloadPolicy() if offload else OffloadPolicy()
    for layer in layers:
        fully_shard(layer, mesh=over, reshard_after_forward=True, offload_policy=policy, ignored_params=kept)
    kept = kept | {p for p in model.parameters() if held(p) is None}
    fully_shard(model, mesh=over, ignored_params=kept)  # holds nothing; under one root the layers share their streams


def _zero3(model: Any, layers: Any, kept: set[nn.Parameter], over: DeviceMesh) -> None:
    """DeepSpeed sees no model, only a list of the modules that hold frozen weights, each gathered as it is called."""
    from torch import nn

    if over.device_type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    frozen = [
        module
        for layer in layers
        for module in layer.modules()
        if (own := set(module.parameters(recurse=False))) and not own & kept
    ]
    zero: dict[str, Any] = {"stage": 3, "stage3_param_persistence_threshold": 0}
    if _parked() == "cpu" and over.device_type != "cpu":
        zero["offload_param"] = {"device": "cpu"}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    with contextlib.redirect_stdout(sys.stderr):  # it prints
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", ".*all_gather_into_tensor.* is deprecated", FutureWarning)
        deepspeed.initialize(model=nn.ModuleList(frozen), config=config, dist_init_required=False)


def held(parameter: nn.Parameter) -> torch.Tensor | None:
    """This process's part of a parameter that is split; None where it is whole."""
    from torch.distributed.tensor import DTensor

    if isinstance(parameter, DTensor):
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", None)


def size(parameter: nn.Parameter) -> int:
    """How many numbers a parameter is, wherever they lie."""
    return getattr(parameter, "ds_numel", parameter.numel())


def sharded(model: nn.Module) -> bool:
    """Whether some of the model's weights are split, so that every process must run the same forwards."""
    return any(held(parameter) is not None for parameter in model.parameters())
