"""Files and folders written whole or not at all, and checksums."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rankbench.errors import RequestError

log = logging.getLogger("rankbench")


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path as a person gives it, `~` taken for the home; where nobody knows the home it stays as written.

    Raises RequestError for what is no path, which Python's callers may give.
    """
    if not isinstance(path, str | os.PathLike):
        raise RequestError(f"{path!r} is no path; give one as a text, such as 'runs', or as a pathlib.Path")
    return Path(os.path.expanduser(path))


def walk(place: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, and through links to folders; each folder once, under the name that no link gave it if it has one.

    A folder that cannot be read is named in the log and left out.
    """

    def closed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # a run in progress makes folders and removes them
            log.warning("%s cannot be read (%s), so what is in it is not counted", error.filename, error.strerror)

    seen, starts = set(), [place]
    while starts:
        for name, inside, files in os.walk(starts.pop(0), onerror=closed):
            root = Path(name)
            try:
                at = root.stat()
            except FileNotFoundError:
                continue
            if (at.st_dev, at.st_ino) in seen:
                inside.clear()
                continue
            seen.add((at.st_dev, at.st_ino))
            yield root, inside, files
            starts += [root / folder for folder in inside if (root / folder).is_symlink()]


def write_atomic(file: Path, text: str) -> None:
    """Replace a file's content whole or not at all."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(text)
        flush(aside)
        os.replace(aside, file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush(file.parent)


def flush(path: Path) -> None:
    """Push a file or a folder's entries to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(*files: Path) -> str:
    """The SHA-256 of the files' content, one after the other, in hex."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then put it in the place of `folder`; a fault leaves no half-written one."""
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        write(aside)
        remove(folder)
        os.replace(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link, and say then where what it led to still lies."""
    if path.is_symlink():
        log.info("%s was a link; what it led to, %s, is left as it is", path, os.readlink(path))
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def empty(folder: Path, but: tuple[str, ...] = ()) -> None:
    """Remove everything in a folder but its lock and what is named."""
    for item in folder.iterdir():
        if not item.name.startswith(".lock") and item.name not in but:
            remove(item)
