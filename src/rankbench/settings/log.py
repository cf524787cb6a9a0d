"""Where the record is mirrored."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rankbench.settings import names
from rankbench.settings.base import MISSING, require

_PROJECT = 128  # characters that W&B takes


@dataclass
class Log:
    """Where the record is mirrored."""

    name: str = MISSING
    """none, or wandb."""
    project: str | None = None
    """The project in Weights & Biases (default: the variable WANDB_PROJECT, or rankbench)."""
    entity: str | None = None
    """The entity (a team or a person) in Weights & Biases (default: the variable WANDB_ENTITY, or your own)."""
    group: str | None = None
    """What the runs of a sweep are grouped by (default: the sweep's name)."""
    mode: str = "auto"
    """online, offline, or auto: online where there is a key and a network."""

    def place(self) -> tuple[str, str | None]:
        """The project and the entity in Weights & Biases, which the environment may name."""
        project = (os.environ.get("WANDB_PROJECT") or "rankbench") if self.project is None else self.project
        return project, self.entity or os.environ.get("WANDB_ENTITY") or None

    def check(self) -> None:
        """Raises RequestError."""
        require(self.name in ("none", "wandb"), f"log.name={self.name} is not known; choose log=none|wandb")
        require(self.mode in ("auto", "online", "offline"), f"log.mode={self.mode}: use auto, online or offline")
        project = self.place()[0] if self.name == "wandb" else self.project
        key = "WANDB_PROJECT" if self.project is None else "log.project"
        require(
            project is None or (0 < len(project) <= _PROJECT and not set(project) & set("/\\#?%:\r\n")),
            f"{key}={project!r}: W&B takes at most {_PROJECT} characters of a project's name, and none of "
            "/ \\ # ? % :; give another log.project=",
        )
        group = self.group or "sweep"
        require(
            len(group.encode()) <= names.LONGEST and group.isprintable(),
            f"log.group={group!r} is a line of at most {names.LONGEST} bytes; give a shorter log.group=",
        )
