"""FSDP as `accelerate launch` asks for it: the frozen layers of a model split over the processes.

Each process keeps its part of every layer, and a layer is whole only while it computes. What trains, and what stands
outside the layers, every process holds: so optimizer, checkpoints and saved adapters are those of a whole model. It
is torch's `fully_shard`, called by ourselves, since accelerate's own preparation wants to hold the optimizer too and
leaves a CPU out. Every process must run the same forwards in the same order, or all wait for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rankbench import processes
from rankbench.checks import FLOATS
from rankbench.config import Run, Trainable
from rankbench.sources import RequestError

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

log = logging.getLogger("rankbench")

USE = "ACCELERATE_USE_FSDP"
OTHERS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() == "true"


def asked() -> bool:
    """Whether the launcher asks for FSDP and there is more than one process to split over."""
    return _on(USE) and processes.count() > 1


def refuse(run: Run) -> None:
    """Nothing where the weights can be split as the launcher asks. Raises RequestError where they cannot."""
    for variable, name in OTHERS.items():
        if _on(variable):
            raise RequestError(
                f"{name} would split the weights, which no method here can; use FSDP, with distributed_type: FSDP and "
                "fsdp_version: 2 in accelerate's config file"
            )
    if not asked():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RequestError("FSDP's first version is not supported; set fsdp_version: 2 in accelerate's config file")
    if _on("FSDP_ACTIVATION_CHECKPOINTING"):
        raise RequestError(
            "fsdp_activation_checkpointing is not supported; leave it out of accelerate's config file and give "
            "train.gradient_checkpointing=true"
        )
    adapter = run.adapter
    if adapter.name in FLOATS or (adapter.name in ("sft", "sorted_ft") and adapter.trainable is Trainable.all):
        mend = "adapter=lora or dylora" if adapter.name in FLOATS else "adapter.trainable=lora"
        raise RequestError(
            f"adapter={adapter.name} trains every weight, and FSDP splits frozen ones here; use {mend}, or torchrun"
        )
    if run.quantization.name != "none":
        raise RequestError(
            f"quantization={run.quantization.name} packs weights in a way that FSDP cannot split; use "
            "quantization=none, or torchrun"
        )


@contextlib.contextmanager
def by_hand() -> Iterator[bool]:
    """Whether to split; while open, accelerate and transformers see no FSDP and prepare nothing for it."""
    split, said = asked(), os.environ.pop(USE, None)
    try:
        yield split
    finally:
        if said is not None:
            os.environ[USE] = said


def mesh(device: str) -> DeviceMesh:
    """All processes in a row, each with its device of this type; called by all of them together."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (processes.count(),))


def shard(model: nn.Module, trained: Iterable[nn.Parameter], over: DeviceMesh) -> None:
    """Split the frozen weights of the model's layers over the processes, and move all to the mesh's device.

    The model may lie on the CPU: a device holds no more of it at a time than its part and one layer. Raises
    RequestError for a model without a list of layers.
    """
    from torch import nn
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    config: Any = model.config
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == config.num_hidden_layers)
    layers = next(lists, None)
    if layers is None:
        raise RequestError(f"a {config.model_type} model has no list of layers that FSDP could split; use torchrun")
    offload = _on("FSDP_OFFLOAD_PARAMS") and over.device_type != "cpu"
    policy: OffloadPolicy = CPUOffloadPolicy() if offload else OffloadPolicy()
    kept = set(trained)
    for layer in layers:
        fully_shard(layer, mesh=over, reshard_after_forward=True, offload_policy=policy, ignored_params=kept)
    split = [p for p in model.parameters() if isinstance(p, DTensor)]
    kept |= set(model.parameters()) - set(split)
    fully_shard(model, mesh=over, ignored_params=kept)  # holds nothing; under one root the layers share their streams
    for tensor in (*kept, *model.buffers()):
        tensor.data = tensor.data.to(over.device_type)
    log.info(
        "FSDP: of %s weights in %d layers this process holds %s",
        *(f"{sum(p.numel() for p in split):,}", len(layers), f"{sum(p.to_local().numel() for p in split):,}"),
    )


def sharded(model: nn.Module) -> bool:
    """Whether some of the model's weights are split, so that every process must run the same forwards."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())
