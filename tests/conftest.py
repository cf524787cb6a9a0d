"""What the tests share: an offline machine, a tiny task, composed runs, and the command line."""

# ruff: noqa: E402 (the libraries read the environment when they are imported)
from __future__ import annotations

import atexit
import copy
import functools
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tests of one room use what another's have made.
sys.path[1:1] = [str(folder) for folder in sorted(Path(__file__).parent.iterdir()) if folder.is_dir()]
# No hub, an empty cache, no keys, no threads to fight over the cores, and Python's own buffers.
_HOME = tempfile.mkdtemp(prefix="rankbench-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=_HOME, NETRC=f"{_HOME}/netrc", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
_UNSET = ("WANDB_", "HF_TOKEN", "HF_HUB_CACHE", "HYDRA_", "PYTHONUNBUFFERED")
for _name in [name for name in os.environ if name.startswith(_UNSET)]:
    del os.environ[_name]

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

import rankbench.__main__  # registers the schema
from rankbench.errors import RequestError
from rankbench.settings.compose import build
from rankbench.settings.refusal import explain
from rankbench.settings.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
REAL_DATA = REPOSITORY.parent / "shared" / "data"
GOOD = ("fine", "lovely", "bright", "warm", "happy")
BAD = ("dull", "gloomy", "harsh", "cold", "sad")
LAUNCHERS = {"local_parallel": "hydra_plugins.hydra_joblib_launcher", "slurm": "hydra_plugins.hydra_submitit_launcher"}
THINGS = ("film", "book", "song", "meal", "walk", "play", "house", "garden")


WHOLE = ("forecast", "runs", "shipping", "sweeps")  # rooms whose tests are mostly whole runs
LONG = (  # and files elsewhere that take longest
    "test_curve",
    "test_comparisons_ranks",
    "test_comparisons_depth",
    "test_report",
    "test_notebooks",
    "test_exit_decoding",
    "test_generation",
    "test_quantization",
    "test_flop",
    "test_cuts",
    "test_choice",
    "test_record",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longer than a change wants to wait for each time is left out of `make quick`."""
    for item in items:
        processes = {"command_line", "finished"} & set(getattr(item, "fixturenames", ()))
        if item.path.parent.name in WHOLE or item.path.stem in LONG or processes:
            item.add_marker("full")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of collected tests are no litter: a run, which collects what it leaves, need not look at them."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each test finds Hydra, the environment and the log as a fresh process does."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
    log = logging.getLogger("rankbench")
    for handler in list(log.handlers):  # it writes to the stderr that pytest gave this test alone
        log.removeHandler(handler)
    log.propagate = True
    os.environ.pop("HYDRA_FULL_ERROR", None)


def sample(values: Iterable[Any], *kept: Any) -> list[Any]:
    """All of these parameters, of which `make test` takes the kept ones and leaves the others to `make slow`."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]


def needs(cluster: str) -> None:
    """Skip the test where the cluster's launcher is not installed."""
    if cluster in LAUNCHERS:
        pytest.importorskip(LAUNCHERS[cluster], reason=f"pip install 'rankbench[{cluster}]'")


def sentences(n: int, start: int = 0) -> list[dict[str, Any]]:
    """`n` made-up rows of two classes, told apart by one word."""
    rows = []
    for i in range(start, start + n):
        label = i % 2
        word = (GOOD if label else BAD)[(i // 2) % 5]
        rows.append({"text": f"a {word} {THINGS[(i // 3) % 8]}, number {i}" + " indeed" * (i % 4), "label": label})
    return rows


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSON lines; makes the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_tiny(folder: Path) -> Path:
    """A two-class task: 64 rows to train on, 24 to score."""
    write_jsonl(folder / "train.jsonl", sentences(64))
    write_jsonl(folder / "validation.jsonl", sentences(24, start=64))
    return folder


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A folder with train.jsonl (64 rows) and validation.jsonl (24 rows)."""
    return write_tiny(tmp_path / "data")


GROUPS = {folder.name for folder in CONF.iterdir() if folder.is_dir()}


def composed_by_hydra(*overrides: str) -> DictConfig:
    """The config of these overrides, unchecked."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


@functools.cache
def _of_groups(*choices: str) -> DictConfig:
    return composed_by_hydra(*choices)


def compose(*overrides: str) -> DictConfig:
    """As `composed_by_hydra`, which takes a fifth of a second: a choice of groups is composed once in a process."""
    choices = [word for word in overrides if word.split("=")[0] in GROUPS]
    others = [word for word in overrides if word not in choices]
    if any(word[0] in "+~" or "@" in word.split("=")[0] for word in others):
        return composed_by_hydra(*overrides)
    config = copy.deepcopy(_of_groups(*choices))
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(others), config)
    return config


def compose_run(*overrides: str) -> Run:
    """The checked run of these overrides. Raises RequestError as the command line would."""
    return build(compose(*overrides), overrides)


def refused(*overrides: str) -> str:
    """What the command line says to these overrides, which it refuses."""
    with pytest.raises((RequestError, HydraException)) as refusal:
        compose_run(*overrides)
    return explain(refusal.value, list(overrides), CONF)


def tiny_overrides(data: Path, runs: Path) -> list[str]:
    """The smallest run: a random two-layer BERT, four ranks, four steps."""
    return [
        "model=tiny_bert",
        "task=classification",
        f"task.data_dir={data}",
        f"runs_dir={runs}",
        "adapter.r=4",
        "train.max_steps=4",
        "train.batch_size=8",
    ]


@pytest.fixture
def tiny(tiny_data: Path, tmp_path: Path) -> list[str]:
    """Overrides of the smallest run over `tiny_data`, its folder below tmp_path/runs."""
    return tiny_overrides(tiny_data, tmp_path / "runs")


@pytest.fixture
def make_run(tiny: list[str]) -> Callable[..., Run]:
    """make_run("seed=1", ...): the smallest run with these overrides."""

    def make(*overrides: str) -> Run:
        return compose_run(*tiny, *overrides)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished smallest run with accuracy and F1, shared: read it, do not change it."""
    from rankbench.runs.life import execute

    root = tmp_path_factory.mktemp("finished")
    overrides = tiny_overrides(write_tiny(root / "data"), root / "runs")
    run = compose_run(*overrides, "task.metrics=[accuracy,f1]", "train.eval_steps=2", "train.log_steps=1")
    execute(run)
    return run.folder


@dataclass(frozen=True)
class Answer:
    """What a process gave back; `cpu` is its processor time in seconds."""

    rc: int
    out: str
    err: str
    seconds: float
    cpu: float

    @property
    def said(self) -> list[str]:
        """The lines on stderr."""
        return self.err.strip().splitlines()


@pytest.fixture
def command_line(tmp_path: Path) -> Callable[..., Answer]:
    """command_line("seed=1", ...): `python -m rankbench seed=1 ...` in an empty folder, as its own process."""
    work = tmp_path / "elsewhere"
    work.mkdir()

    def call(
        *words: str, python: tuple[str, ...] = (), env: dict[str, str] | None = None, timeout: float = 180
    ) -> Answer:
        before, began = os.times(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, *python, "-m", "rankbench", *words],
            cwd=work,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        after = os.times()
        cpu = (after.children_user - before.children_user) + (after.children_system - before.children_system)
        return Answer(done.returncode, done.stdout, done.stderr, time.perf_counter() - began, cpu)

    return call


@pytest.fixture
def call_main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """As `command_line`, in this process: fast, and an error that is not answered fails the test by itself."""

    def call(*words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["rankbench", *words])
        capfd.readouterr()
        rc = 0
        try:
            rankbench.__main__.main()
        except SystemExit as stop:
            rc = stop.code if isinstance(stop.code, int) else 1
        out, err = capfd.readouterr()
        return Answer(rc, out, err, 0.0, 0.0)

    return call


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every way to a network raises at once; the list holds what was tried."""
    import socket

    tried: list[str] = []

    def refuse(name: str) -> Callable[..., Any]:
        def refused(*words: Any, **_: Any) -> Any:
            tried.append(f"{name}{words[-1:]}")
            raise OSError(f"no network in this test: {name}")

        return refused

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse(name))
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse(name))
    return tried
