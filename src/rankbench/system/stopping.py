"""Signals that ask a run to stop: it leaves at the next optimizer step, with a checkpoint.

SIGTERM comes from a person, from scancel and from a preemption; SIGUSR2 from Slurm before a job's time is over; SIGINT
is Ctrl-C, a second one of which leaves at once. Outside of the training there is nothing to save, and the run leaves at
once; where Python loses what a signal raised, as it does in callbacks, or a library makes an error of it, `check` and
the end of `obeyed` leave instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from rankbench.system import processes, slurm

log = logging.getLogger("rankbench")

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class Stopped(SystemExit):
    """The run was asked to stop by a signal; the same command goes on from its checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}; the same command goes on from the last checkpoint"


_held = False
_over = False
_asked: int | None = None


@contextlib.contextmanager
def obeyed() -> Iterator[None]:
    """Within the context the signals raise Stopped: at once, or while they are held in `leave` and `release`.

    Ctrl-C raises KeyboardInterrupt, as Python does. Contexts may lie in one another; a signal stops them all.
    """
    global _held, _asked, _over
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = {number: signal.signal(number, _receive) for number in SIGNALS}
    _held = _over = False
    if before[signal.SIGTERM] is not _receive:
        _asked = None
    try:
        with preferred():
            check()
            yield
            _held = False
            check()
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        _over = False
        if before[signal.SIGTERM] is not _receive:
            _asked = None  # what comes after the context was not asked to stop


@contextlib.contextmanager
def preferred() -> Iterator[None]:
    """Within the context an error that comes after a signal is taken for the stop that the signal asked for."""
    try:
        yield
    except Exception as error:
        if _asked is not None:
            raise _stop(_asked) from error
        raise


def check() -> None:
    """Raises Stopped where a signal came and is not held: what it raised when it came was lost."""
    if not _held and asked():
        leave()


@contextlib.contextmanager
def later() -> Iterator[None]:
    """Within the context a signal is only noted, and obeyed after it; raised in a callback of torch it kills Python."""
    global _held
    before, _held = _held, True
    try:
        yield
    finally:
        _held = before
    check()


def hold() -> None:
    """From here on a signal is only noted: until `release`, or the end of the context."""
    global _held
    _held = True


def over() -> None:
    """Until the end of the context SIGTERM and SIGUSR2 do nothing: the run has failed, as its record is about to say.

    Where one of a run's processes dies, Slurm sends SIGTERM to the others; that is no reason to queue the job again.
    """
    global _over
    _over = True


def asked() -> bool:
    """Whether a signal came while they were held."""
    return _asked is not None


def leave() -> None:
    """Raises Stopped for the signal that came while they were held, here or in another process of the run."""
    raise _stop(_asked or signal.SIGTERM)


def release() -> None:
    """Signals act at once again; raises Stopped where one came meanwhile."""
    global _held
    _held = False
    if asked():
        leave()


def _receive(number: int, frame: FrameType | None) -> None:
    global _asked
    if _over and number != signal.SIGINT:
        return
    first = _asked is None
    _asked = number
    if not _held or (number == signal.SIGINT and not first):
        raise _stop(number)
    if first:
        at_once = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        log.info("%s: a checkpoint at the next step, then the run stops%s", signal.Signals(number).name, at_once)


def _stop(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


def hand_over(stop: Stopped) -> None:
    """Let the launcher that waits for SIGUSR2 in this process queue the job again, unless Slurm has decided already.

    Slurm has when it cancels a job or requeues it by itself. A job that still counts as running is about to lose its
    place, by a preemption with a grace time or by its time limit. Does not return where the launcher acts. Of several
    processes the first hands over; the others leave without a failure, which would end it too early.
    """
    if not processes.first():
        raise SystemExit(0)
    waiting = signal.getsignal(signal.SIGUSR2)
    takes_over = callable(waiting) and waiting is not _receive
    if takes_over and (stop.signal is signal.SIGUSR2 or slurm.state(slurm.job()) in ("RUNNING", "")):
        os.kill(os.getpid(), signal.SIGUSR2)
