"""A command line taken apart: Hydra's flags, folders of YAML of the user's own, and settings, in any order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser

from rankbench.errors import RequestError
from rankbench.settings.base import require
from rankbench.settings.words import check, typed


@dataclass(frozen=True)
class Line:
    """A command line taken apart: settings, folders of YAML of the user's own, and Hydra's other flags by name."""

    settings: list[str]
    folders: list[str]
    flags: dict[str, Any]

    @property
    def several(self) -> bool:
        """Whether many runs are asked for. A file may ask for them too, which the sweep sees."""
        return "multirun" in self.flags or "hydra.mode=MULTIRUN" in self.settings

    def words(self) -> list[str]:
        """The line as Hydra reads it: its flags, then all settings together."""
        told = (
            [f"--{name.replace('_', '-')}", *([] if value is True else [value])] for name, value in self.flags.items()
        )
        return [*(word for words in told for word in words), *self.settings]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; settings are KEY=VALUE, see --help")


def line(words: Sequence[str]) -> Line:
    """A command line taken apart, its settings as `typed` and checked. Raises RequestError."""
    parser = _Parser(parents=[get_args_parser()], conflict_handler="resolve", add_help=False)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    flags = vars(parser.parse_intermixed_args(list(words)))
    settings, folders = flags.pop("overrides"), flags.pop("config_dir")
    found = Line(settings, folders, {name: value for name, value in flags.items() if value})
    settings[:] = typed(settings, found.several)
    ways = [name for name in ("multirun", "run", "cfg", "info", "shell_completion") if name in found.flags]
    if found.several and (shows := {"cfg", "info"} & found.flags.keys()):
        raise RequestError(f"--{min(shows)} shows the settings of one run; leave -m and the lists out")
    require(not ways[1:], f"--{' and --'.join(ways)} do not go together; give one of them")
    bare = "resolve" in found.flags and not {"cfg", "help"} & found.flags.keys()
    require(not bare, "--resolve says how --cfg shows the settings; give --cfg job with it, or leave it out")
    check(settings, found.several)
    return found
