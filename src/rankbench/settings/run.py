"""What a run is: the settings of every group, their checks, and the identity that names its folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rankbench.settings import contents, names
from rankbench.settings.arithmetic import Arithmetic
from rankbench.settings.base import require
from rankbench.settings.cluster import Cluster
from rankbench.settings.evaluate import Evaluate
from rankbench.settings.generation import Generation
from rankbench.settings.hardware import Hardware
from rankbench.settings.identity import identity
from rankbench.settings.log import Log
from rankbench.settings.methods import METHODS, Method
from rankbench.settings.model import Model
from rankbench.settings.quantization import Quantization
from rankbench.settings.samplers import SAMPLERS, Sampler
from rankbench.settings.sources import fingerprint, locate
from rankbench.settings.task import Task
from rankbench.settings.train import Precision, Train


@dataclass
class Run:
    """One config, one training; everything after this reads only it."""

    model: Model = field(default_factory=Model)
    """The backbone."""
    task: Task = field(default_factory=Task)
    """The data set and how it is scored."""
    adapter: Method = field(default_factory=Method)
    """The method, with the settings that it alone has."""
    sampler: Sampler = field(default_factory=Sampler)
    """Which sub-models a step trains."""
    quantization: Quantization = field(default_factory=Quantization)
    """How the frozen backbone is stored."""
    generation: Generation = field(default_factory=Generation)
    """How responses are decoded."""
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    """The arithmetic of the backbone's layers."""
    train: Train = field(default_factory=Train)
    """The training loop."""
    evaluate: Evaluate = field(default_factory=Evaluate)
    """What is measured at the end."""
    log: Log = field(default_factory=Log)
    """Where the record is mirrored."""
    cluster: Cluster = field(default_factory=Cluster)
    """Where the runs of a sweep are done."""
    seed: int = 0
    """Decides every random draw."""
    runs_dir: str = "runs"
    """The folder that holds the runs' folders."""
    fresh: bool = False
    """Begin anew, whatever is there of the run."""
    hardware: Hardware = Hardware.auto
    """`v100` holds the run to a V100's rules whatever the card."""

    @property
    def run_id(self) -> str:
        """`<task>-<model>-<adapter>-<hash of everything that can change the result>`; the hash alone decides.

        So a run whose weights had another name when it began keeps the folder that it has. Where that run read a file
        whose content has changed since, though its fingerprint has not, this is another run.
        """
        asked = identity(self)
        there = self._there(self.id_of(asked))
        if not (Path(self.runs_dir) / there).exists():
            there = self._begun_earlier(asked) or there
        before = contents.kept(Path(self.runs_dir) / there)
        if before is None:
            return there
        now = contents.of(self)
        return self._there(self.id_of(asked | {"contents": now})) if contents.changed(before, now) else there

    def _there(self, made: str) -> str:
        """The id, or that of the run which has its hash, where weights given on the command line had another name."""
        if self.model.preset is None:
            return made
        same = Path(self.runs_dir).glob(f"{self.task.name}-*-{self.adapter.name}-{made.rpartition('-')[2]}")
        return min((folder.name for folder in same), default=made)

    def _begun_earlier(self, asked: dict[str, Any]) -> str | None:
        """The id of this run from when whatever lay beside its splits counted, where it has a folder under that id."""
        source = locate("task", self.task)
        if not source.splits:
            return None
        of_all = fingerprint(replace(source, splits=()))
        made = self._there(self.id_of(asked | {"task": asked["task"] | {"source": of_all}}))
        return made if (Path(self.runs_dir) / made).exists() else None

    def id_of(self, identity: dict[str, object]) -> str:
        """The id of this run, given its identity."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.task.name}-{self.model.name}-{self.adapter.name}-{digest}"

    @property
    def precision(self) -> Precision:
        """The arithmetic that the step is asked for: float32 between layers that compute in integers."""
        return Precision.fp32 if self.arithmetic.integer else self.train.precision

    @property
    def folder(self) -> Path:
        """Where this run leaves its record."""
        return Path(self.runs_dir) / self.run_id

    def check(self) -> None:
        """Refuse settings that contradict each other, before anything heavy is loaded. Raises RequestError."""
        for group, kinds in (("adapter", METHODS), ("sampler", SAMPLERS)):
            chosen = getattr(self, group)
            require(
                kinds.get(chosen.name) is type(chosen),
                f"{group}.name={chosen.name} is not known here; choose {group}={'|'.join(kinds)}",
            )
        together = sum(len(group.name.encode()) for group in (self.task, self.model, self.adapter))
        require(
            together <= names.LONGEST,
            f"task.name, model.name and adapter.name have {together} bytes together, which no run's id may have; "
            f"shorten task.name= or model.name=, to {names.LONGEST} in all",
        )
        self.adapter.check(self)
        self.sampler.check(self)
        self.model.check()
        self.evaluate.check(self)
        self.train.check(self)
        self.task.check()
        self.generation.check(self)
        self.quantization.check(self)
        self.arithmetic.check(self)
        self.log.check()
        self.cluster.check()
        require(self.seed >= 0, f"seed={self.seed} must not be negative")
