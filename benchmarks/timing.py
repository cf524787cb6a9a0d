"""Time several ways of doing one thing side by side, and report the figures."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rankbench.system import onednn, threads

threads.wait_politely()  # as a run does, before torch loads
onednn.keep_few()

import torch  # noqa: E402

from rankbench.runs.environment import environment  # noqa: E402
from rankbench.system.files import write_atomic  # noqa: E402

Prepare = Callable[[int], Callable[[], object]]  # repetition -> the action to time
Seconds = dict[str, list[float]]


def alternate(
    sides: Mapping[str, Prepare], repeats: int, warmup: int = 1, clock: Callable[[], float] = time.perf_counter
) -> Seconds:
    """Seconds of every side, `repeats` each, in turns A B A B ... after `warmup` turns that do not count.

    What `prepare(repetition)` does itself is not timed. Turns let a slow spell of the machine fall on all sides alike;
    where it is shared by other work, `time.process_time` counts what this process had of it. SIGTERM ends it with the
    whole turns so far, if there are any, and the benchmark with the next `report`.
    """
    global _ended
    seconds: Seconds = {name: [] for name in sides}
    before = signal.signal(signal.SIGTERM, _cut)
    try:
        for i in range(-warmup, repeats):
            for name, prepare in sides.items():
                action = prepare(i + warmup)
                _wait_for_device()
                start = clock()
                action()
                _wait_for_device()
                if i >= 0:
                    seconds[name].append(clock() - start)
    except Cut:
        _ended = True
        whole = min(map(len, seconds.values()))
        _say(f"cut off after {whole} of {repeats} repetitions")
        if not whole:
            raise SystemExit(143) from None
        return {name: values[:whole] for name, values in seconds.items()}
    finally:
        signal.signal(signal.SIGTERM, before)
    return seconds


_ended = False


class Cut(BaseException):
    """SIGTERM came."""


def _cut(*_: object) -> None:
    raise Cut


def keep_freed() -> None:
    """Have glibc keep all freed memory, as it soon does by itself where one model trains.

    Several models in a process leave gaps of each other's sizes, and whichever side is next pays for pages that come
    and go.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30) or libc.mallopt(mmap_threshold, 2**25)


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of above/below over the repetitions, each compared with its neighbour in time."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float], unit: float = 1.0) -> list[str]:
    """Minimum, median and maximum, divided by `unit`, to three digits."""
    return [_three_digits(f(values) / unit) for f in (min, statistics.median, max)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, figures to the right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        (first, width), *rest = zip(cells, widths, strict=True)
        return "| " + " | ".join([first.ljust(width), *(cell.rjust(width) for cell, width in rest)]) + " |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([line(header), rule, *map(line, rows)])


def device_name() -> str:
    """The GPU's name, or the processor's with the number of threads torch uses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def arguments(description: str, repeats: int) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="timed repetitions of each side")
    parser.add_argument("--to", type=Path, help="write the figures to this JSON file")
    return parser


def report(asked: argparse.Namespace, text: str, figures: dict[str, Any], precision: tuple[str, str]) -> None:
    """Write the figures, with every repetition, where `--to` says; print the tables with the device under them.

    Ends the process where SIGTERM cut the repetitions off.
    """
    if asked.to is not None:
        made_on = environment(device_name(), *precision, sys.argv[1:])
        made_on["command"] = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        made_on["kernels_kept"] = {name: os.environ.get(name) for name in onednn.KEPT}
        settings = {key: value for key, value in vars(asked).items() if key != "to"}
        asked.to.parent.mkdir(parents=True, exist_ok=True)
        whole = {"settings": settings, "environment": made_on, **figures}
        write_atomic(asked.to, json.dumps(whole, indent=1, default=str) + "\n")
    _say(f"{text}\n\n{device_name()}; {precision[0]}; torch {torch.__version__}")
    if _ended:
        raise SystemExit(143)


def _say(text: str) -> None:
    """Print, though whoever read it may have gone with the same signal."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # what it still holds goes nowhere, or Python's last flush makes the exit status 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
