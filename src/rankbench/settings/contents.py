"""The SHA-256 of every file that a run reads: what tells that one has changed since, wherever in it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.settings.identity import start_folder
from rankbench.settings.sources import Source, code_of, files_of, locate
from rankbench.system.files import sha256, write_atomic

if TYPE_CHECKING:
    from rankbench.settings.run import Run

Contents = dict[str, dict[str, str]]  # model, task, start -> file -> SHA-256
FILE = ".contents.json"  # in a run's folder until its record has them


def of(run: Run) -> Contents:
    """The SHA-256 of each file on disk that the run reads; a hub's are those of its revision and stay out.

    A file is read once for each size, time of change and inode; the sums are kept below `runs_dir`.
    """
    sums = _Sums(Path(run.runs_dir))
    found = {group: sums.of(locate(group, getattr(run, group))) for group in ("model", "task")}
    if run.adapter.begins_with is not None:
        found["start"] = sums.of(Source("path", start_folder(run) / "adapter"))
    return {group: files for group, files in found.items() if files}


def of_source(source: Source, runs: Path | None) -> dict[str, str]:
    """The SHA-256 of each file of one source; sums are kept below `runs`, a folder of runs, where there is one."""
    return _Sums(runs).of(source)


def kept(folder: Path) -> Contents | None:
    """Those that the run in a folder began with; None where that is not known."""
    for file in (folder / FILE, folder / "record.json"):
        if "contents" in (found := _read(file)):
            return found["contents"]
    return None


def _read(file: Path) -> dict[str, Any]:
    """A JSON file of names; nothing where it is not there, or damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def keep(folder: Path, contents: Contents) -> None:
    """Leave them in a run's folder, for whoever goes on with it."""
    write_atomic(folder / FILE, json.dumps({"contents": contents}))


def changed(before: Contents, now: Contents) -> list[str]:
    """The files that were there before and have another content now."""
    return [
        f"{name or 'the file'} of {group}"
        for group, files in before.items()
        for name, digest in files.items()
        if now.get(group, {}).get(name, digest) != digest
    ]


class _Sums:
    """SHA-256 by path, kept in a file for those that have not been touched since."""

    def __init__(self, runs: Path | None) -> None:
        self.file = None if runs is None else runs / ".cache" / "sums.json"
        self.known: dict[str, str] = {} if self.file is None else _read(self.file)

    def of(self, source: Source) -> dict[str, str]:
        before = len(self.known)
        found = {name: self._one(file) for name, file in (files_of(source) | code_of(source)).items()}
        if self.file is not None and len(self.known) > before:
            with contextlib.suppress(OSError):  # then they are made anew the next time
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.file, json.dumps(self.known))
        return found

    def _one(self, file: Path) -> str:
        blob = file.resolve()
        if blob.parent.name == "blobs" and len(blob.name) == 64:  # the hub's cache calls a large file by its SHA-256
            return blob.name
        at = blob.stat()
        key = f"{blob}:{at.st_size}:{at.st_mtime_ns}:{at.st_ino}"
        if key not in self.known:
            self.known[key] = sha256(file)
        return self.known[key]
