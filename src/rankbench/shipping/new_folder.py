"""The folder that `--to` names: seen to be free, and filled whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rankbench.errors import RequestError
from rankbench.system.files import expanded


def vacant(to: str | os.PathLike[str]) -> Path:
    """The place that --to names. Raises RequestError where it holds something or cannot be written."""
    place = expanded(to)
    if place.exists() and not place.is_dir():
        raise RequestError(f"--to {place} is a file; choose another folder")
    if place.is_dir() and any(place.iterdir()):
        raise RequestError(f"--to {place} holds files; choose another folder")
    if place.is_dir() and place.samefile(Path.cwd()):
        raise RequestError(f"--to {place} is the folder you are in; choose another folder")
    above = next(folder for folder in place.resolve().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise RequestError(f"--to {place} cannot be written ({above} is closed to you); choose another folder")
    return place


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """A folder beside `place` that takes its name when all is written, and goes away when anything fails.

    Not files.replace_folder: that clears what it finds, and here the user chose the name.
    """
    from safetensors import SafetensorError

    final = place.resolve()
    aside = final.with_name(f".{final.name}.{os.getpid()}")
    above = [folder for folder in final.parents if not folder.exists()]
    try:
        aside.mkdir(parents=True)
        yield aside
        os.replace(aside, final)  # fails where somebody has filled it meanwhile
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError | SafetensorError):  # safetensors has an error of its own for a full disk
            cause = getattr(error, "strerror", None) or error
            raise RequestError(
                f"--to {place} cannot be written ({cause}); make room, or choose another folder"
            ) from error
        raise
