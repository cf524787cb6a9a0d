"""Weights & Biases mirrors the record and is never the reason that a run fails."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, sentences, write_jsonl

from rankbench.errors import RequestError, RunFailed
from rankbench.runs import tracking
from rankbench.runs.life import execute
from rankbench.settings.run import Run

wandb = pytest.importorskip("wandb")


class Recorder:
    """Stands for wandb.init and wandb.finish: keeps what it is told, raises where it is asked to."""

    def __init__(self, raises: str = "") -> None:
        self.raises = raises
        self.settings: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []
        self.defined: list[tuple[str, str | None]] = []
        self.summary: dict[str, Any] = {}
        self.exits: list[int | None] = []

    def _at(self, place: str) -> None:
        if place == self.raises:
            raise RuntimeError(f"no service at {place}\nand a second line")

    def init(self, **settings: Any) -> Recorder:
        self._at("init")
        self.settings = settings
        self.dir = f"{settings['dir']}/wandb/offline-run-2-{settings['id']}/files"
        return self

    def define_metric(self, name: str, step_metric: str | None = None, **_: Any) -> None:
        self.defined.append((name, step_metric))

    def log(self, values: dict[str, Any], **_: Any) -> None:
        self._at("log")
        self.logged.append(values)

    def finish(self, exit_code: int | None = None, **_: Any) -> None:
        self.exits.append(exit_code)
        self._at("finish")


@pytest.fixture
def record_wandb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recorder]:
    """record_wandb(raises="log"): from here on wandb is a recorder that fails at that place."""

    def install(raises: str = "") -> Recorder:
        recorder = Recorder(raises)
        monkeypatch.setattr(wandb, "init", recorder.init)
        monkeypatch.setattr(wandb, "finish", recorder.finish)
        return recorder

    return install


@pytest.fixture
def wandb_run(make_run: Callable[..., Run]) -> Callable[..., Run]:
    """The smallest run with log=wandb, offline."""

    def make(*overrides: str) -> Run:
        return make_run("log=wandb", "log.mode=offline", "train.log_steps=1", *overrides)

    return make


def test_the_run_has_its_own_id_its_group_and_its_method_as_job_type(
    record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run]
) -> None:
    recorder = record_wandb()
    run = wandb_run("log.group=a_sweep", "log.project=a_project", "log.entity=me", "adapter=lora")
    record = execute(run)
    told = recorder.settings
    assert told["id"] == run.run_id == record["run_id"]
    assert (told["group"], told["job_type"]) == ("a_sweep", "lora")
    assert (told["project"], told["entity"], told["mode"]) == ("a_project", "me", "offline")
    assert told["config"] == record["config"]
    assert Path(told["dir"]).is_relative_to(run.folder)


def test_the_environment_may_name_the_project_and_the_entity(
    record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record_wandb()

    def told(*overrides: str) -> tuple[str, str | None]:
        execute(wandb_run("train.max_steps=1", "fresh=true", *overrides))
        return recorder.settings["project"], recorder.settings["entity"]

    assert told() == ("rankbench", None)
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    assert told() == ("ours", "us")
    assert told("log.project=rankbench", "log.entity=me") == ("rankbench", "me")
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    with pytest.raises(RequestError, match="WANDB_PROJECT='a/b'"):
        wandb_run()


@pytest.mark.slow
def test_the_runs_of_a_sweep_share_a_group_and_a_single_run_has_none(
    record_wandb: Callable[..., Recorder],
    call_main: Callable[..., Answer],
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = record_wandb()
    groups: list[str | None] = []
    inner = recorder.init
    monkeypatch.setattr(wandb, "init", lambda **told: groups.append(told["group"]) or inner(**told))
    words = (*tiny, "log=wandb", "log.mode=offline", "train.max_steps=1", "evaluate.submodels=[1]")
    assert call_main("-m", *words, "seed=0,1").rc == 0
    assert call_main("-m", *words, "log.group=mine", "seed=2,3").rc == 0
    assert call_main(*words, "seed=4").rc == 0
    assert groups[0] == groups[1] == groups[2] is not None  # two runs and the sweep's summary
    assert groups[3:] == ["mine", "mine", "mine", None]


def test_every_rank_is_logged_with_its_metrics_over_rank(
    record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run]
) -> None:
    recorder = record_wandb()
    record = execute(wandb_run("task.metrics=[accuracy,f1]"))
    logged = {values["rank"]: values for values in recorder.logged if "rank" in values}
    assert sorted(logged) == [1, 2, 3, 4]
    for sub in record["submodels"]:
        expected = {f"by_rank/{name}": value for name, value in sub["metrics"].items()}
        assert logged[sub["rank"]] == {"rank": sub["rank"], **expected}
    assert ("by_rank/*", "rank") in recorder.defined


def test_what_test_splits_say_is_logged_apart(
    record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run], tiny_data: Path
) -> None:
    write_jsonl(tiny_data / "test.jsonl", sentences(6, start=100))
    recorder = record_wandb()
    record = execute(wandb_run("task.test_splits=[test]"))
    logged = [values for values in recorder.logged if "test_by_rank/accuracy" in values]
    expected = [{"rank": s["rank"], "test_by_rank/accuracy": s["test"]["accuracy"]} for s in record["submodels"]]
    assert logged == expected and len(logged) == 4
    assert ("test_by_rank/*", "rank") in recorder.defined


def test_losses_are_logged_over_the_step(record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run]) -> None:
    recorder = record_wandb()
    record = execute(wandb_run())
    losses = [(v["train/step"], v["train/loss"]) for v in recorder.logged if "train/loss" in v]
    assert losses == [(entry["step"], entry["loss"]) for entry in record["training"]["loss_curve"]]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert ("train/*", "train/step") in recorder.defined


def test_the_table_the_picture_and_the_summary_are_mirrored(
    record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run]
) -> None:
    recorder = record_wandb()
    record = execute(wandb_run())
    logged = {key: value for values in recorder.logged for key, value in values.items()}
    table = logged["submodels"]
    assert table.columns == ["rank", "depth", "accuracy", "trainable_parameters"]
    assert [row[0] for row in table.data] == [1, 2, 3, 4]
    assert isinstance(logged["curve"], wandb.Image)
    assert recorder.summary["status"] == "done"
    assert recorder.summary["train_seconds"] == record["training"]["seconds"]


def test_a_finished_run_is_closed_once_with_success(
    record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run]
) -> None:
    recorder = record_wandb()
    execute(wandb_run())
    assert recorder.exits == [0]


def test_a_failed_run_is_closed_as_failed(record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run]) -> None:
    recorder = record_wandb()
    with pytest.raises(RunFailed):
        execute(wandb_run("train.learning_rate=1e30"))
    assert recorder.exits == [1]
    assert recorder.summary["status"] == "failed"


def test_a_refused_run_is_closed(record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run]) -> None:
    recorder = record_wandb()
    with pytest.raises(RequestError):
        execute(wandb_run("adapter.r=33"))
    assert recorder.exits == [1]


def test_a_stopped_run_is_closed(
    record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankbench.training import loop

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    recorder = record_wandb()
    monkeypatch.setattr(loop, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        execute(wandb_run())
    assert len(recorder.exits) == 1 and recorder.exits != [0]


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_a_broken_service_costs_no_result(
    record_wandb: Callable[..., Recorder],
    wandb_run: Callable[..., Run],
    capfd: pytest.CaptureFixture[str],
    place: str,
) -> None:
    recorder = record_wandb(raises=place)
    run = wandb_run()
    assert execute(run)["status"] == "done"
    assert json.loads((run.folder / "record.json").read_text())["status"] == "done"
    said = [line for line in capfd.readouterr().err.splitlines() if "W&B: " in line]
    assert len(said) == 1
    assert f"no service at {place}" in said[0] and "record is on disk" in said[0]
    assert (recorder.exits == []) == (place == "init")


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_a_broken_service_does_not_hide_how_a_run_failed(
    record_wandb: Callable[..., Recorder], wandb_run: Callable[..., Run], place: str
) -> None:
    record_wandb(raises=place)
    run = wandb_run("train.learning_rate=1e30")
    with pytest.raises(RunFailed, match="the loss is"):
        execute(run)
    assert json.loads((run.folder / "record.json").read_text())["status"] == "failed"


def test_a_missing_package_costs_no_result(wandb_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    assert execute(wandb_run())["status"] == "done"


def test_log_none_asks_nothing_of_wandb(record_wandb: Callable[..., Recorder], make_run: Callable[..., Run]) -> None:
    recorder = record_wandb(raises="init")
    assert execute(make_run("log=none"))["status"] == "done"
    assert recorder.settings == {} and recorder.exits == []
    assert type(tracking.start(make_run(), {})) is tracking.Silent


# Online or offline


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that never logged in."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))


def test_without_a_key_the_run_is_offline_and_says_so(
    record_wandb: Callable[..., Recorder],
    make_run: Callable[..., Run],
    no_key: None,
    no_network: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    recorder = record_wandb()
    execute(make_run("log=wandb"))
    assert recorder.settings["mode"] == "offline"
    said = capfd.readouterr().err
    assert "no key" in said and "wandb sync" in said
    assert "deprecated" not in said
    assert no_network == []


def test_with_a_key_and_no_network_the_run_is_offline_and_says_so(
    record_wandb: Callable[..., Recorder],
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    recorder = record_wandb()
    execute(make_run("log=wandb"))
    assert recorder.settings["mode"] == "offline"
    assert "no network" in capfd.readouterr().err
    assert no_network != []


def test_a_key_in_netrc_is_enough_and_nothing_waits_for_the_service(
    record_wandb: Callable[..., Recorder],
    make_run: Callable[..., Run],
    no_key: None,
    no_network: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "no_netrc").write_text("machine api.wandb.ai login user password " + "0" * 40 + "\n")
    recorder = record_wandb()
    execute(make_run("log=wandb"))
    assert recorder.settings["mode"] == "offline" and "no network" in capfd.readouterr().err


def test_with_a_key_and_a_network_the_run_is_online_and_begins_anew(
    record_wandb: Callable[..., Recorder], make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:  # stands for the service: it only has to answer
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        recorder = record_wandb()
        execute(make_run("log=wandb"))
    assert (recorder.settings["mode"], recorder.settings["resume"]) == ("online", None)


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_the_environment_may_choose_the_mode(
    record_wandb: Callable[..., Recorder], make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    recorder = record_wandb()
    execute(make_run("log=wandb"))
    assert recorder.settings["mode"] == mode


@pytest.fixture
def quiet_service(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real service process, told to stay offline, and stopped again afterwards."""
    for name in ("WANDB_ERROR_REPORTING", "WANDB_SILENT"):
        monkeypatch.setenv(name, "false" if name == "WANDB_ERROR_REPORTING" else "true")
    logging.getLogger("wandb").setLevel(logging.ERROR)
    yield
    wandb.teardown()


def test_offline_mode_leaves_a_run_to_sync_under_the_runs_id(
    wandb_run: Callable[..., Run], quiet_service: None, no_key: None
) -> None:
    run = wandb_run("evaluate.submodels=[1,4]")
    assert execute(run)["status"] == "done"
    wandb.teardown()  # as the end of the process does: the service writes the rest
    (folder,) = run.folder.glob("wandb/offline-run-*")
    assert folder.name.endswith(f"-{run.run_id}")
    (log,) = folder.glob("*.wandb")
    content = log.read_bytes()
    for words in (b"by_rank/accuracy", b"train/loss", run.run_id.encode()):
        assert words in content
