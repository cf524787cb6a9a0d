"""Weights & Biases behind one small interface; a mirror of the record, never the reason that a run fails."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rankbench.config import Run
from rankbench.sources import reachable

log = logging.getLogger("rankbench")

WANDB_HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}  # wandb's versions note a key under one or the other


class Silent:
    """No tracking."""

    def finish(self, record: dict[str, Any], picture: Path | None) -> None:
        """Nothing."""

    def loss(self, entry: dict[str, Any]) -> None:
        """Nothing."""


class Wandb(Silent):
    """One W&B run with the run's id as id, group = sweep, job type = adapter."""

    def __init__(self, run: Run, config: dict[str, Any]) -> None:
        self.run: Any = None
        try:
            import wandb

            self.wandb = wandb
            mode = _mode(run.log.mode, wandb)
            folder = run.folder / "wandb"
            folder.mkdir(parents=True, exist_ok=True)
            self.run = wandb.init(
                project=run.log.project,
                entity=run.log.entity,
                group=run.log.group,
                job_type=run.adapter.name,
                id=run.run_id,
                name=f"{run.run_id} seed {run.seed}",
                config=config,
                dir=str(run.folder),
                mode=mode,
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(silent=True, console="off", init_timeout=60),
            )
            self.run.define_metric("train/step")
            self.run.define_metric("train/*", step_metric="train/step")
            self.run.define_metric("rank")
            self.run.define_metric("by_rank/*", step_metric="rank")
            log.info("W&B %s: %s/%s", mode, run.log.project, run.run_id)
        except Exception as error:
            self._give_up(error)

    def loss(self, entry: dict[str, Any]) -> None:
        """The training loss, as it comes."""
        if self.run is None:
            return
        try:
            self.run.log({"train/step": entry["step"], "train/loss": entry["loss"]})
        except Exception as error:
            self._give_up(error)

    def finish(self, record: dict[str, Any], picture: Path | None) -> None:
        """Metrics with the rank as x axis, the table, the picture and the summary; then close."""
        if self.run is None:
            return
        try:
            submodels = record.get("submodels") or []
            names = list(submodels[0]["metrics"]) if submodels else []
            for sub in submodels:
                self.run.log({"rank": sub["rank"] or 0} | {f"by_rank/{name}": sub["metrics"][name] for name in names})
            if submodels:
                rows = [
                    [s["rank"], s["depth"], *(s["metrics"][n] for n in names), s["parameters"]["trainable"]]
                    for s in submodels
                ]
                columns = ["rank", "depth", *names, "trainable_parameters"]
                self.run.log({"submodels": self.wandb.Table(columns=columns, data=rows)})
            if picture is not None and picture.exists():
                self.run.log({"curve": self.wandb.Image(str(picture))})
            self.run.summary["status"] = record["status"]
            self.run.summary["train_seconds"] = (record.get("training") or {}).get("seconds")
        except Exception as error:
            self._give_up(error)
        try:
            self.wandb.finish(exit_code=0 if record["status"] == "done" else 1)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning(
            "W&B: %s; the run goes on, its record is on disk",
            str(error).strip().splitlines()[0] if str(error) else error,
        )
        if self.run is not None:
            self.run = None
            try:
                self.wandb.finish(exit_code=1)
            except Exception as second:
                log.debug("W&B did not close: %s", second)


def start(run: Run, config: dict[str, Any]) -> Silent:
    """The tracker that the run asks for."""
    return Wandb(run, config) if run.log.name == "wandb" else Silent()


def _mode(asked: str, wandb: Any) -> str:
    """Online only with a key and a network; otherwise offline, and why."""
    if asked != "auto":
        return asked
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    if not look_for_key():
        log.info("W&B offline: no key (wandb login); send it later with wandb sync")
        return "offline"
    if not reachable(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url):
        log.info("W&B offline: no network; send it later with wandb sync")
        return "offline"
    return "online"


def look_for_key() -> str:
    """Where W&B's key was found, never the key itself; '' where there is none."""
    hosts = {urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc} - {""} or WANDB_HOSTS
    file, noted = Path(os.environ.get("NETRC") or "~/.netrc").expanduser(), False
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        noted = bool(hosts & set(netrc.netrc(file).hosts))
    return "WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else str(file) if noted else ""
