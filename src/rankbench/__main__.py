"""The command line: a bare call is a run, the first word may be a verb."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import rankbench
from rankbench.errors import RequestError, RunFailed
from rankbench.system import onednn, processes, stopping, threads
from rankbench.system.progress import speak
from rankbench.system.stopping import Stopped

# A verb that reads records needs no Hydra, which would take most of its time: what a run needs is imported by it.
if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rankbench.settings.run import Run

log = logging.getLogger("rankbench")

DEFAULTS = "adapter=dylora model=minilm task=tweets, 3 epochs (rankbench plan says what that takes)"


def job(config: DictConfig) -> None:
    """What Hydra calls for each composed config."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        _job(config)
    except Stopped as stop:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            stopping.hand_over(stop)
        raise
    except Exception as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            if processes.count() > 1 and not isinstance(error, RequestError):
                os._exit(1)  # Slurm then ends the others, who may be waiting for this one
            if not isinstance(error, RunFailed):  # that one has spoken; Hydra would name the first failed job alone
                print(f"rankbench: {error}", file=sys.stderr)
            raise
        _failures.append(error)  # Hydra would print a line of its own before ours


_failures: list[Exception] = []


def _job(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from rankbench.runs import own_process
    from rankbench.runs.life import execute, summary
    from rankbench.settings.compose import build, stays
    from rankbench.settings.words import WHERE

    words = list(HydraConfig.get().overrides.task)
    stays(HydraConfig.get().job.chdir)
    run = build(config, words)
    if HydraConfig.get().mode is not RunMode.MULTIRUN and run.cluster.name != "local":
        raise RequestError(f"cluster={run.cluster.name} takes sweeps, of one run too: rankbench -m {' '.join(words)}")
    if run.cluster.name == "slurm":
        processes.join_slurm()
    words = [*_folders(), *(word for word in words if not WHERE.match(word))]
    record = (own_process.execute if own_process.wanted(run) else execute)(run, words)
    if not processes.first():
        return
    print(summary(record))
    print(f"record: {run.folder / 'record.json'}")


def _folders() -> list[str]:
    """The folders of the user's own YAML as the command line names them, in a launcher's job too."""
    from hydra.core.hydra_config import HydraConfig

    from rankbench.settings.own_folders import PROVIDER

    sources = HydraConfig.get().runtime.config_sources
    return [word for source in sources if source.provider == PROVIDER for word in ("--config-dir", source.path)]


def table(words: list[str]) -> None:
    """`rankbench table NAME RUNS...`: a comparison of records."""
    from rankbench.tables import report

    report.main(words)


def _asked(verb: Callable[[list[str]], None], words: list[str]) -> Run:
    """The checked run of a verb that takes a run's settings; its help, where that is asked for."""
    if {"-h", "--help"} & set(words):
        print(
            f"usage: rankbench {verb.__name__} [--config-dir FOLDER] [GROUP=CHOICE ...] [KEY=VALUE ...]\n\n"
            f"{verb.__doc__}"
        )
        sys.exit(0)
    from rankbench.settings.compose import composed

    return composed(words)


def plan(words: list[str]) -> None:
    """`rankbench plan [overrides]`: what the run would take, before anything is loaded."""
    from rankbench.system.progress import quiet_libraries

    asked = _asked(plan, words)
    quiet_libraries()
    from rankbench.forecast.plan import report

    sys.exit(report(asked))


def doctor(words: list[str]) -> None:
    """`rankbench doctor [overrides]`: what this machine lacks for the run."""
    from rankbench.forecast.doctor import report

    sys.exit(report(_asked(doctor, words)))


def export(words: list[str]) -> None:
    """`rankbench export RUN --rank 4 --to DIR`: a run's rank as a stock PEFT adapter or merged weights."""
    from rankbench.shipping import export

    export.main(words)


def decode(words: list[str]) -> None:
    """`rankbench decode RUN`: early exits by confidence and self-speculation with a run's exits."""
    from rankbench.shipping import decode

    decode.main(words)


def layers(words: list[str]) -> None:
    """`rankbench layers RUN --budget 4`: a rank for each layer of a finished run."""
    from rankbench.shipping import layer_ranks

    layer_ranks.main(words)


def predict(words: list[str]) -> None:
    """`rankbench predict RUN --data FILE --to OUT`: a run's rank, or an export, on the rows of a file."""
    from rankbench.shipping import predict

    predict.main(words)


def status(words: list[str]) -> None:
    """`rankbench status RUNS`: which runs are done, running, stopped, failed or missing."""
    from rankbench.sweeps import status

    status.main(words)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "decode": decode,
    "doctor": doctor,
    "export": export,
    "layers": layers,
    "plan": plan,
    "predict": predict,
    "status": status,
    "table": table,
}


def _version() -> str:
    """rankbench's version, Python's, and those of the libraries that a result depends on."""
    from rankbench.runs.environment import versions

    lines = {"rankbench": rankbench.__version__, "python": sys.version.split()[0], **versions()}
    return "\n".join(f"{name:<14}{version or 'not installed'}" for name, version in lines.items())


def _run(words: list[str]) -> None:
    """A call without a verb: one run, or many with -m. Raises what a request may raise."""
    import hydra

    from rankbench.settings.compose import CONF
    from rankbench.settings.line import line
    from rankbench.settings.own_folders import read_first
    from rankbench.settings.refusal import near
    from rankbench.sweeps import sweep

    if words and "=" not in words[0] and not words[0].startswith(("-", "~")):
        raise RequestError(
            f"{words[0]} is no verb{near(words[0], VERBS)}; verbs are {', '.join(VERBS)}, settings are KEY=VALUE, "
            "see --help"
        )
    speak()
    asked = line(words)
    sys.argv[1:] = asked.words()
    if not words:
        log.warning("no settings are given, so this trains the defaults: %s; make demo is shorter", DEFAULTS)
    sweep.install()
    with stopping.obeyed(), read_first(asked.folders):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    if _failures:
        raise _failures.pop()


def _wrong() -> tuple[type[Exception], ...]:
    """What says that a request is wrong: asked for only where something was raised."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return RequestError, HydraException, OmegaConfBaseException


def main() -> None:
    """Exit 0: done; 2: the request is wrong, one line says how to mend it; 1: the run failed, its record says how."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises to here instead of exiting by itself
    threads.wait_politely()
    onednn.keep_few()
    words = sys.argv[1:]
    try:
        if words == ["--version"]:
            print(_version())
        elif words and words[0] in VERBS:
            VERBS[words[0]](words[1:])
        else:
            _run(words)
    except _wrong() as error:
        from rankbench.settings.compose import CONF
        from rankbench.settings.refusal import explain

        print(f"rankbench: {explain(error, words, CONF)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        _left()
    except KeyboardInterrupt:
        print("rankbench: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Stopped as stop:
        print(f"rankbench: {stop}", file=sys.stderr)
        sys.exit(stop.code)
    except RunFailed:  # said already, and written to its record
        sys.exit(1)
    finally:
        try:
            sys.stdout.flush()  # Python would do it where nobody answers
        except BrokenPipeError:
            _left()


def _left() -> None:
    """Say no more: the reader of a pipe left, as head does, and that is no failure."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
