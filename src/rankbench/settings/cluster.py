"""Where the runs of a sweep are done."""

from __future__ import annotations

from dataclasses import dataclass

from rankbench.settings.base import require

LEAST = {
    "at_once": 1,
    "nodes": 1,
    "gpus": 0,
    "processes": 1,
    "cpus": 1,
    "minutes": 1,
    "signal_seconds": 0,
    "requeues": 0,
}


@dataclass
class Cluster:
    """Where the runs of a sweep (-m) are done."""

    name: str = "local"
    """The launcher's name: local, local_parallel or slurm."""
    own_process: bool = False
    """Give each run a process of its own, with a GPU of its own."""
    at_once: int = 1
    """Jobs that run side by side."""
    partition: str | None = None
    """Slurm's partition."""
    account: str | None = None
    """Slurm's account."""
    nodes: int = 1
    """Nodes of a Slurm job."""
    gpus: int = 0
    """GPUs on each node."""
    processes: int | None = None
    """Processes of one run on each node (default: one for each GPU)."""
    cpus: int = 4
    """Cores of each process."""
    memory_gb: int | None = None
    """Memory of a node, in GB."""
    minutes: int = 240
    """The time limit of a job."""
    signal_seconds: int = 120
    """Slurm signals a job so long before its time is over."""
    requeues: int = 20
    """How often a job that ran out of time runs again."""

    def check(self) -> None:
        """Raises RequestError."""
        for key, least in LEAST.items():
            value = getattr(self, key)
            require(value is None or value >= least, f"cluster.{key}={value} must be at least {least}")
        require(
            not self.gpus or (self.processes or 0) <= self.gpus,
            f"cluster.processes={self.processes} on cluster.gpus={self.gpus} share a card; give one process a GPU",
        )
