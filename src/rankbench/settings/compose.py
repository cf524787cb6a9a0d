"""From words and YAML to a checked `Run`, for the command line, Python and a launcher's job; or from a record."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from rankbench.errors import RequestError
from rankbench.settings import auto
from rankbench.settings.base import neutrals, require
from rankbench.settings.identity import ONCE_SHARED
from rankbench.settings.kinds import GROUPS, KINDS
from rankbench.settings.model import Model
from rankbench.settings.outside import conf_folders
from rankbench.settings.run import Run
from rankbench.system import gpus

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


def _found(key: str, _parent_: DictConfig) -> Any:
    """A setting of `model=auto`, for its YAML."""
    places = ("name", "path", "package", "hub", "revision", "random", "shape", "trust_remote_code")
    given = {place: _parent_[place] for place in places}
    plain: dict[str, Any] = {
        k: OmegaConf.to_container(v, resolve=True) if isinstance(v, DictConfig) else v for k, v in given.items()
    }
    return getattr(auto.look(Model(**plain)), key)


OmegaConf.register_new_resolver("rankbench.at_once", gpus.at_once, replace=True)
OmegaConf.register_new_resolver("rankbench.place", lambda path: os.path.expanduser(str(path)), replace=True)
OmegaConf.register_new_resolver("rankbench.or", lambda chosen, default: chosen or default or 1, replace=True)
OmegaConf.register_new_resolver(
    "rankbench.searchpath", lambda: [f"file://{CONF.parent}", *conf_folders()], replace=True
)
OmegaConf.register_new_resolver("rankbench.found", _found, replace=True)
ConfigStore.instance().store(name="schema", node=Run)
for _group, _kinds in KINDS.items():
    for _name, _kind in _kinds.items():
        ConfigStore.instance().store(group=f"settings/{_group}", name=_name, node=_kind)


def build(config: DictConfig, words: Sequence[str]) -> Run:
    """The checked run of a config composed from these words. Raises RequestError."""
    unknown = sorted(_unknown(config, Run()))
    if unknown:
        raise RequestError(f"{', '.join(unknown)}: no such setting; leave it out (see rankbench --cfg job)")
    try:
        run = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise RequestError(f"{error.full_key} has no value; give {error.full_key}=...") from error
    except InterpolationResolutionError as error:
        if asked := while_resolving(str(error)):
            raise RequestError(asked) from error
        raise
    assert isinstance(run, Run)
    run.runs_dir = os.path.expanduser(run.runs_dir)
    run.task.break_lines()
    if run.model.preset == auto.NAME:
        auto.settle(run)
    else:
        run.model.use(words)
    run.check()
    return run


def while_resolving(text: str) -> str | None:
    """The refusal that OmegaConf's error wraps, where a resolver of ours raised it."""
    found = re.search(r"(?s)RequestError raised while resolving interpolation: (.*?)(\n\s+full_key: .*)?$", text)
    return found[1] if found else None


def stays(chdir: bool | None) -> None:
    """Refuse that Hydra leaves the folder that the call is made in: paths and runs would be below another one."""
    require(
        not chdir,
        "hydra.job.chdir=true would read and write relative paths in a folder of Hydra's; leave it out, runs_dir says "
        "where runs lie",
    )


def composed(words: list[str]) -> Run:
    """The checked run that these settings ask for; a `--config-dir` may be among them. Raises RequestError."""
    from rankbench.settings.line import line
    from rankbench.settings.own_folders import read_first

    asked = line(words)
    name = asked.flags.pop("config_name", "config")
    if asked.flags:
        raise RequestError(
            f"--{min(asked.flags).replace('_', '-')} does not go with the settings of one run; leave it out"
        )
    with read_first(asked.folders), hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return build(hydra.compose(name, asked.settings), asked.settings)


def of_record(config: Mapping[str, Any]) -> Run:
    """The run whose settings a record holds, unchecked; what came after the record is neutral.

    Raises RequestError for a method or sampler that is not installed; OmegaConf's errors for a setting that is unknown.
    """
    values = dict(config)
    for group, kinds in KINDS.items():
        name = values[group]["name"]
        if name not in kinds:
            raise RequestError(f"{group}={name} is not installed here; install the package that brings it")
        own = {setting.name for setting in fields(kinds[name])}
        others = {s.name for kind in kinds.values() for s in fields(kind)} | set(ONCE_SHARED[group])
        values[group] = {key: value for key, value in values[group].items() if key in own or key not in others}
    run = OmegaConf.to_object(OmegaConf.merge(_before(*(values[group]["name"] for group in KINDS)), values))
    assert isinstance(run, Run)
    return run


@functools.cache
def _before(*names: str) -> DictConfig:
    """The settings of the method and sampler of these names, each that came later at its neutral value."""
    kind_of = {group: kinds[name] for (group, kinds), name in zip(KINDS.items(), names, strict=True)}
    schema = OmegaConf.structured(Run)
    schema.update({group: OmegaConf.structured(kind) for group, kind in kind_of.items()})
    found = OmegaConf.merge(schema, {group: neutrals(kind) for group, kind in (GROUPS | kind_of).items()})
    assert isinstance(found, DictConfig)
    return found


def _unknown(config: DictConfig, schema: Any, prefix: str = "") -> Iterator[str]:
    """Keys that the schema lacks: `+key=value` puts them there, and nothing would ever read them."""
    kind = OmegaConf.get_type(config)
    names = {setting.name for setting in fields(kind if is_dataclass(kind) else schema)}
    for key in map(str, config):
        if key not in names:
            yield prefix + key
        elif is_dataclass(getattr(schema, key, None)):
            yield from _unknown(config[key], getattr(schema, key), f"{prefix}{key}.")
