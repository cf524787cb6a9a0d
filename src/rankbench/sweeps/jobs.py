"""The jobs that a multirun's words ask for: composed and checked, every one done or refused, none left out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rankbench.errors import RequestError
from rankbench.settings import names
from rankbench.settings.base import require
from rankbench.settings.compose import build, stays
from rankbench.settings.identity import settings
from rankbench.settings.log import Log
from rankbench.settings.run import Run
from rankbench.settings.words import WHERE
from rankbench.sweeps.status import apart_by

Split = Callable[[Sequence[str]], list[list[str]]]


@dataclass(frozen=True)
class Job:
    """One run of a sweep and the settings that ask for it."""

    words: tuple[str, ...]
    run_id: str
    folder: Path
    fresh: bool
    log: Log


class WrongJob(RequestError):
    """One job of a sweep is wrong, so none is started; `cause` says why, `which` names the job."""

    def __init__(self, cause: Exception, which: str) -> None:
        super().__init__(f"{cause} ({which})")
        self.cause, self.which = cause, which


class Asked:
    """What a multirun asks for: `config` is the call's own, without its lists, and decides where all jobs are done."""

    def __init__(self, config: DictConfig, loader: Any, split: Split) -> None:
        self.config, self.loader, self.split = config, loader, split

    def jobs(self, words: Sequence[str]) -> list[Job]:
        """Every run once; words that ask for the same in all share it. Raises WrongJob for the first that is wrong."""
        found: dict[str, tuple[int, Job, Run]] = {}
        asked = list(self._every(words, _lists(self.config)))
        telling = apart_by([job_words for job_words, _ in asked])
        for number, (job_words, run) in enumerate(asked, 1):
            try:
                if isinstance(run, Exception):
                    raise run
                job = Job(tuple(job_words), run.run_id, run.folder, run.fresh, run.log)
                first, _, same = found.setdefault(run.run_id, (number, job, run))
                _one(same, run, first)
            except (RequestError, HydraException, OmegaConfBaseException) as error:
                place = f"job {number} of {len(asked)}: {telling[number - 1]}; " if asked[1:] else ""
                raise WrongJob(error, f"{place}nothing was started") from error
        return [job for _, job, _ in found.values()]

    def _every(self, words: Sequence[str], lists: Mapping[str, str]) -> Iterator[tuple[list[str], Run | Exception]]:
        """The words of each job, and its run or why there is none.

        Where jobs choose between files that bring lists of their own (`+sweeps=a,b`), each brings all of its jobs.
        """
        for job_words in self.split([*(f"{key}={value}" for key, value in lists.items()), *words]):
            try:
                config = self.loader.load_sweep_config(self.config, job_words)
                if (own := _lists(config)) != lists:
                    yield from self._every(job_words, own)
                    continue
                yield job_words, self._run(config, job_words)
            except (RequestError, HydraException, OmegaConfBaseException) as error:
                yield job_words, error

    def _run(self, config: DictConfig, words: Sequence[str]) -> Run:
        """The job's run. Raises RequestError where it is not to be done where the call does its runs."""
        stays(config.hydra.job.chdir)
        launcher, others = (OmegaConf.to_container(of.hydra.launcher) for of in (config, self.config))
        with open_dict(config):
            del config["hydra"]
        run = build(config, words)
        cluster: Any = OmegaConf.to_object(self.config.cluster)
        _alike("folder of runs", "", {"runs_dir": (run.runs_dir, os.path.expanduser(self.config.runs_dir))})
        _alike("launcher", "", {"cluster": (run.cluster.name, cluster.name)})
        _alike("launcher", "cluster.", _pairs(vars(run.cluster), vars(cluster)))
        _alike("launcher", "hydra.launcher.", _pairs(launcher, others))
        return run


def split(sweeper: Any, loader: Any) -> Split:
    """How a sweeper takes words apart: those of each job, a job for every combination of their lists."""

    def apart(words: Sequence[str]) -> list[list[str]]:
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
        for word in parsed:
            key = word.key_or_group
            require(
                not isinstance(word.value(), IntervalSweep),
                f"{word.input_line}: an interval names no values to try; give some of it, {key}=A,B,C",
            )
        (jobs,) = sweeper.split_arguments(parsed, None)
        return [list(job) for job in jobs]

    return apart


def group(words: Sequence[str]) -> str:
    """What W&B groups a multirun's runs by: the sweep files' names where there is room, or a hash of the settings."""
    named = [word.split("=", 1)[1].replace(",", "+") for word in words if word.lstrip("+").startswith("sweeps=")]
    asked = " ".join(["-m", *(word for word in words if not WHERE.match(word))])
    return (
        named[0]
        if named and len(named[0]) <= names.LONGEST
        else "sweep-" + hashlib.sha256(asked.encode()).hexdigest()[:8]
    )


def _lists(config: DictConfig) -> dict[str, str]:
    """The lists of values that files bring along: a sweep file has them in `hydra.sweeper.params`."""
    return dict(config.hydra.sweeper.get("params") or {})


def _pairs(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    return {key: (one.get(key), other.get(key)) for key in one | other}


def _alike(what: str, prefix: str, pairs: Mapping[str, tuple[Any, Any]]) -> None:
    """Nothing where a job's values are the call's. Raises RequestError: the call has one launcher, one folder."""
    for key, (own, calls) in pairs.items():
        require(
            own == calls,
            f"this job asks for {prefix}{key}={own}, the call itself for {prefix}{key}={calls}, and a sweep has one "
            f"{what}; start such jobs by a call of their own, with {prefix}{key}={own}",
        )


def _one(run: Run, again: Run, number: int) -> None:
    """Nothing where two jobs with one id ask for the same. Raises RequestError where one of them would be lost."""
    differ = [
        f"{group}.{key}" if key else group
        for group, (here, there) in _pairs(settings(run), settings(again)).items()
        for key, pair in (_pairs(here, there) if isinstance(here, dict) else {"": (here, there)}).items()
        if pair[0] != pair[1]
    ]
    require(
        not differ,
        f"{', '.join(differ)} cannot change a result, so this job is the same run as job {number} and one of the two "
        "would be lost; give one value",
    )
