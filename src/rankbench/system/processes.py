"""Several processes as one run, as `torchrun` or `accelerate launch` start them; alone, all of this is nothing.

Every process draws the same sub-models (a draw is a pure function of seed and step), reads its own rows of each
micro-batch, and adds its gradients to the others' once a step. So a run of n processes computes what one would, but
that dropout and the noise of gates are each process's own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rankbench.system import slurm

if TYPE_CHECKING:
    import numpy as np


PATIENCE = timedelta(hours=6)  # for a process that still hashes, writes or talks to W&B; NCCL's own ends after minutes
BUCKET = 1 << 26  # bytes that are added up in one message


def count() -> int:
    """How many processes the run has."""
    return int(os.environ["WORLD_SIZE"]) if "MASTER_ADDR" in os.environ and "WORLD_SIZE" in os.environ else 1


def place() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def first() -> bool:
    """Whether this is the process that speaks and writes."""
    return place() == 0


def job() -> str | None:
    """The job that this process is in, where its launcher may start it anew: Slurm's, or torchrun's."""
    return slurm.job() or os.environ.get("TORCHELASTIC_RUN_ID")


def restarted() -> bool:
    """Whether a launcher started this run anew after it was cut off: Slurm by a requeue, or torchrun."""
    return bool(slurm.restarts() or int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0))


def wait() -> None:
    """Go on when every process has come here."""
    gathered(None)  # accelerate's own barrier is none on CPUs


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """What is inside, one process of a machine does after the other; one whose request is wrong lets the next see."""
    turns, mine = max(gathered(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))), int(os.environ.get("LOCAL_RANK", 0))
    for _ in range(mine):
        wait()
    failed = None
    try:
        yield
    except Exception as error:
        failed = error
    for _ in range(mine, turns):
        wait()
    if failed:
        raise failed


def join_slurm() -> None:
    """Make the tasks of a Slurm job step the processes of one run, as `torchrun` would have."""
    if int(os.environ.get("SLURM_NTASKS") or 1) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def own(rows: np.ndarray) -> np.ndarray:
    """This process's part of a batch's row numbers; none where the batch has fewer rows than there are processes."""
    return rows[place() :: count()]


def add_up(tensors: Iterable[Any]) -> None:
    """Replace every tensor by its sum over the processes, which all give the same shapes in the same order."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    by_type: dict[Any, list[Any]] = {}
    for tensor in tensors:
        by_type.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in by_type.values():
        for bucket in _buckets(alike):  # one message rather than one for each tensor, and no second copy of them all
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket]) if len(bucket) > 1 else bucket[0].contiguous()
            distributed.all_reduce(flat)
            for tensor, part in zip(bucket, flat.view(-1).split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))


def _buckets(tensors: list[Any]) -> Iterator[list[Any]]:
    """The tensors in their order, as many together as BUCKET holds, at least one."""
    bucket: list[Any] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def most(tensor: Any) -> Any:
    """The largest of the processes' tensors, element by element."""
    if count() > 1:
        from torch import distributed

        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor


def follow_first(tensor: Any) -> None:
    """Replace the tensor by the first process's."""
    if count() > 1:
        from torch import distributed

        distributed.broadcast(tensor, 0)


def vote(said: bool, device: Any) -> list[Any]:
    """What this process says, to be added up with the others' beside other tensors; nothing where it is alone."""
    import torch

    return [torch.tensor(float(said), device=device)] if count() > 1 else []


def heard(votes: list[Any]) -> bool:
    """Whether any process said so in votes that were added up; the same answer on all of them."""
    return any(float(said) > 0 for said in votes)


def gathered(value: Any) -> list[Any]:
    """What every process gives, in their order, on all of them."""
    if count() == 1:
        return [value]
    from torch import distributed

    _group()
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def _group() -> Any:
    """The processes' group, made by the first call; it is taken apart before Python goes, which else may abort."""
    from accelerate import PartialState
    from torch import distributed

    if not distributed.is_initialized():
        atexit.register(lambda: distributed.is_initialized() and distributed.destroy_process_group())
    said = os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # else the group would be DeepSpeed's to make
    try:
        return PartialState(timeout=PATIENCE)
    finally:
        if said is not None:
            os.environ["ACCELERATE_USE_DEEPSPEED"] = said
