"""The lock of a run's folder: one live run in it, on whatever machine and file system."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rankbench.errors import InUse, RequestError
from rankbench.system import slurm

BEAT = 15.0  # seconds between two signs of life
SILENCE = 120.0  # seconds without one after which a run on another machine counts as dead
NAME = ".lock-"


@dataclass(frozen=True)
class Owner:
    """Who holds a folder: a process on a machine, and the Slurm job that it belongs to."""

    token: str
    host: str
    machine: str
    pid: int
    started: float
    slurm_job: str | None
    restarts: int
    since: str

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job}" if self.slurm_job else ""
        return f"pid {self.pid} on {self.host}{job} since {self.since}"


class Held:
    """A folder that this process holds."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def check(self) -> None:
        """Raises InUse when another run has taken the folder over, as after a stall that looked like a death."""
        found = newest(self.place.parent)
        if found and found[0] > _number(self.place):
            raise InUse(f"{self.place.parent} was taken over by another run ({found[1]}) while this one stood still")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Held]:
    """Hold the folder's lock. Raises InUse when a live run holds it, RequestError where it cannot be written.

    The kernel's locks do not serve here: over NFS and Lustre they hold within one machine only, or not at all, as the
    mount says. So the lock is a folder `.lock-N` with its owner's name inside, put there by a rename, which fails on
    every file system when that folder is there. N only grows: whoever finds the newest lock free or its owner dead
    takes N + 1, and of several that try one succeeds; nobody ever removes a lock that may be another's.

    A process of this machine is dead when the kernel has no such process; an earlier life of this Slurm job is dead
    since Slurm started the next; anybody else when there was no sign of life for two minutes and Slurm does not say
    that the job runs.
    """
    try:
        place = _take(folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written ({error.strerror}); choose another runs_dir") from error
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(place / "owner.json", over), daemon=True)
    beating.start()
    try:
        yield Held(place)
    finally:
        over.set()
        with contextlib.suppress(OSError):  # a refused run has removed its folder
            os.rename(place / "owner.json", place / "released.json")


def newest(folder: Path) -> tuple[int, Owner | None, float] | None:
    """The newest lock of a folder: its number, its owner (None once released) and when that gave a sign of life."""
    try:
        number = max((_number(Path(name)) for name in os.listdir(folder) if name.startswith(NAME)), default=0)
        file = folder / f"{NAME}{number}" / "owner.json"
        if not number:
            return None
        with open(file) as stream:
            return number, Owner(**json.load(stream)), os.fstat(stream.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return (number, None, 0.0) if folder.is_dir() else None
    except (ValueError, TypeError):  # of another version; its heart may still beat
        unknown = Owner("", "another machine", "", 0, 0.0, None, 0, "an unknown time")
        return number, unknown, file.stat().st_mtime


def holder(folder: Path, ask_slurm: bool = False) -> Owner | None:
    """The live owner of a folder's lock, or None."""
    found = newest(folder)
    if found is None or found[1] is None:
        return None
    return found[1] if alive(found[1], time.time() - found[2], ask_slurm) else None


def alive(owner: Owner, silent: float, ask_slurm: bool = False) -> bool:
    """Whether an owner that gave no sign of life for `silent` seconds still runs."""
    if owner.machine == machine():
        return _process_lives(owner)
    if owner.slurm_job and owner.slurm_job == slurm.job() and owner.restarts < slurm.restarts():
        return False
    return silent < SILENCE or (ask_slurm and slurm.state(owner.slurm_job) in slurm.LIVES)


def myself() -> Owner:
    """This process as an owner."""
    import psutil

    return Owner(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=machine(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        slurm_job=slurm.job(),
        restarts=slurm.restarts(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


@functools.cache
def machine() -> str:
    """What process ids are unique in: the host, since its last boot, within its namespace of processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _take(folder: Path) -> Path:
    owner, aside = myself(), folder / f".claim-{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        (aside / "owner.json").write_text(json.dumps(asdict(owner)))
        now = (aside / "owner.json").stat().st_mtime  # by the clock that stamps the others' signs of life
        number, other, seen = newest(folder) or (0, None, 0.0)
        if other and alive(other, now - seen, ask_slurm=True):
            raise _in_use(folder, other)
        place = folder / f"{NAME}{number + 1}"
        try:
            os.rename(aside, place)
        except OSError as error:  # somebody was faster, or the answer of a file server was lost
            found = newest(folder)
            if found is None or found[0] < number + 1:
                raise
            if found[1] is None or found[1].token != owner.token:
                raise _in_use(folder, found[1]) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    last, other, _ = newest(folder) or (0, None, 0.0)
    if last != number + 1:  # an old list of the folder named a lock that had long been followed by others
        shutil.rmtree(place, ignore_errors=True)
        raise _in_use(folder, other)
    for name in os.listdir(folder):
        if name.startswith(NAME) and _number(Path(name)) <= number:
            shutil.rmtree(folder / name, ignore_errors=True)
    return place


def _in_use(folder: Path, owner: Owner | None) -> InUse:
    return InUse(f"{folder} is in use by a live run ({owner or 'another process'}); wait for it, or stop it")


def _beat(file: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(file)


def _process_lives(owner: Owner) -> bool:
    import psutil

    try:
        process = psutil.Process(owner.pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - owner.started) < 2
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _number(place: Path) -> int:
    digits = place.name.removeprefix(NAME)
    return int(digits) if digits.isdigit() else 0
