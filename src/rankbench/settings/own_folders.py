"""Folders of YAML of the user's own, by `--config-dir`: a file there comes before the packaged one of its name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from yaml import YAMLError

from rankbench.errors import RequestError
from rankbench.settings.base import require
from rankbench.settings.compose import CONF
from rankbench.settings.outside import conf_folders
from rankbench.system.files import expanded

log = logging.getLogger("rankbench")

PROVIDER = "command-line"  # what Hydra calls what comes from --config-dir


class OwnFolders(SearchPathPlugin):
    """Where Hydra looks first; its own `--config-dir` comes after the packaged YAML."""

    folders: ClassVar[list[Path]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """What Hydra calls before it composes."""
        for folder in self.folders:
            search_path.prepend(PROVIDER, f"file://{folder}", anchor=SearchPathQuery(provider="main"))


Plugins.instance().register(OwnFolders)


@contextlib.contextmanager
def read_first(folders: Sequence[str]) -> Iterator[None]:
    """Within the context what these folders hold comes before what is packaged, the first folder's before the next's.

    Raises RequestError where one is no folder, or holds what only rankbench can, or what is no YAML.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise RequestError("the folder that you are in is not there any more; go to one that is") from error
    places = [expanded(folder).absolute() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        require(
            place.is_dir(), f"--config-dir {folder} is no folder; give the one that holds model/, task/ and the like"
        )
        _free(place)
    for place, later in _covers(places):
        log.warning("%s is read in place of %s", place, later)
    OwnFolders.folders = places
    try:
        yield
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else ", ".join(folders)
        raise RequestError(f"{where}: no YAML ({getattr(error, 'problem', None) or error}); correct it") from error
    except UnicodeDecodeError as error:
        if not places:
            raise
        raise RequestError(f"{_no_text(places)}: no text in UTF-8 ({error}); save it as UTF-8") from error
    except RecursionError as error:
        if not places:
            raise
        raise RequestError(
            f"YAML in {', '.join(folders)} builds on itself; a file cannot build on the packaged one of its name: "
            "give it another name"
        ) from error
    finally:
        OwnFolders.folders = []


def _no_text(places: Sequence[Path]) -> str:
    """The first file of YAML that is not in UTF-8."""
    for file in (file for place in places for file in sorted(place.rglob("*.yaml")) if file.is_file()):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return str(file)
    return "a file of YAML"


def _free(place: Path) -> None:
    for taken in (place / "config.yaml", place / "schema.yaml", place / "settings"):
        copied = (CONF / taken.name).is_file() and taken.is_file() and _same(taken, CONF / taken.name)
        mend = "put what you set into a file of a group, such as experiment/mine.yaml with +experiment=mine"
        require(copied or not taken.exists(), f"{taken}: rankbench alone has this name; {mend}")


def _covers(places: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each file that hides another one, and which."""
    packaged = [CONF, CONF.parent, *(Path(folder.removeprefix("file://")) for folder in conf_folders())]
    for number, place in enumerate(places):
        for file in sorted(place.glob("*/**/*.yaml")):
            inside = file.relative_to(place)
            later = [(folder, str(folder / inside)) for folder in places[number + 1 :]]
            later += [(folder, f"the packaged {inside.parent.as_posix()}={inside.stem}") for folder in packaged]
            hidden = [(folder / inside, name) for folder, name in later if (folder / inside).is_file()]
            if hidden and not _same(file, hidden[0][0]):
                yield file, hidden[0][1]


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()
