"""Weights & Biases behind one small interface; a mirror of the record, never the reason that a run fails."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from rankbench.settings.log import Log
from rankbench.settings.run import Run
from rankbench.system.home import spare
from rankbench.system.network import look_for_key, reachable

log = logging.getLogger("rankbench")

SECONDS = 60.0  # that W&B may take to begin or to end; its own default is to wait for a dead network without end


class Silent:
    """No tracking."""

    def finish(self, record: dict[str, Any], picture: Path | None) -> None:
        """Nothing."""

    def loss(self, entry: dict[str, Any]) -> None:
        """Nothing."""


class Wandb(Silent):
    """One W&B run with the run's id as id, group = sweep, job type = adapter; a restart goes on with it.

    A restart says all losses again up to its checkpoint. Those that W&B has, or was told after the checkpoint, are
    left out; offline files that were not sent are replaced by whole ones, for `wandb sync` stops for good at a file
    that a kill has cut short.
    """

    def __init__(self, run: Run, config: dict[str, Any]) -> None:
        self.run: Any = None
        replaced = unsent(run.folder)
        self.logged = max([0, *(_noted(folder) for folder in _folders(run.folder) if folder not in replaced)])
        try:
            import wandb

            self.wandb = wandb
            self.run = opened(
                run.log,
                run.folder,
                job_type=run.adapter.name,
                id=run.run_id,
                name=f"{run.run_id} seed {run.seed}",
                config=config,
                resume="allow" if self.logged else None,  # None begins the W&B run anew
            )
            for folder in replaced:
                shutil.rmtree(folder)
            self.note = run.folder / "wandb" / f".{Path(self.run.dir).parent.name}.step"
            self.run.define_metric("train/step")
            self.run.define_metric("train/*", step_metric="train/step")
            self.run.define_metric("rank")
            self.run.define_metric("by_rank/*", step_metric="rank")
            self.run.define_metric("test_by_rank/*", step_metric="rank")
        except Exception as error:
            self._give_up(error)

    def loss(self, entry: dict[str, Any]) -> None:
        """The training loss, as it comes; nothing where W&B has it."""
        if self.run is None or entry["step"] <= self.logged:
            return
        try:
            self.run.log({"train/step": entry["step"], "train/loss": entry["loss"]})
            self.logged = entry["step"]
            self.note.write_text(str(self.logged))
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
                if sub.get("test"):  # apart: nothing is chosen by it
                    own = {f"test_by_rank/{name}": value for name, value in sub["test"].items()}
                    self.run.log({"rank": sub["rank"] or 0} | own)
            if submodels:
                rows: list[Any] = [
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
        complain(error, "the run goes on, its record is on disk")
        if self.run is not None:
            self.run = None
            try:
                self.wandb.finish(exit_code=1)
            except Exception as second:
                log.debug("W&B did not close: %s", second)


def start(run: Run, config: dict[str, Any]) -> Silent:
    """The tracker that the run asks for."""
    return Wandb(run, config) if run.log.name == "wandb" else Silent()


def opened(settings: Log, folder: Path, **said: Any) -> Any:
    """A W&B run whose files lie in `folder`/wandb; `said` is what wandb.init takes beside that. Raises what W&B does.

    What is resumed offline says so in its files, so that `wandb sync` appends it.
    """
    spare(folder.parent)
    import wandb

    mode: Any = _mode(settings.mode, wandb)
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    limits: dict[str, Any] = {"init_timeout": SECONDS, "finish_timeout": SECONDS, "finish_timeout_raises": True}
    project, entity = settings.place()
    run = wandb.init(
        project=project,
        entity=entity,
        group=settings.group,
        dir=str(folder),
        mode=mode,
        settings=wandb.Settings(silent=True, console="off", **limits),
        **said,
    )
    log.info("W&B %s: %s/%s", mode, project, said["id"])
    return run


def complain(error: Exception, consolation: str) -> None:
    """Say in one line what W&B did not do."""
    log.warning("W&B: %s; %s", (str(error).strip() or type(error).__name__).splitlines()[0], consolation)


def unsent(place: Path) -> list[Path]:
    """The folders of offline W&B runs that lie in `place`/wandb and that `wandb sync` has not marked as sent."""
    offline = [folder for folder in _folders(place) if folder.name.startswith("offline-")]
    return [folder for folder in offline if not any(folder.glob("*.wandb.synced"))]


def _folders(place: Path) -> list[Path]:
    return sorted(folder for folder in place.glob("wandb/*run-2*") if folder.is_dir())


def _noted(folder: Path) -> int:
    """The last training step that went into a W&B folder; kept beside it, for what lies inside is W&B's."""
    try:
        return int(folder.with_name(f".{folder.name}.step").read_text())
    except (OSError, ValueError):
        return 0


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
