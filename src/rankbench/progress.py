"""One progress line: rewritten in place on a terminal, plain lines every half minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time

log = logging.getLogger("rankbench")


class Progress:
    """Reports steps of a training; `start` is where a resumed one begins."""

    def __init__(self, steps: int, start: int = 0, every_seconds: float = 30.0) -> None:
        self.steps, self.start, self.every = steps, start, every_seconds
        self.terminal = sys.stderr.isatty()
        self.began = time.monotonic()
        self.shown = -every_seconds

    def show(self, step: int, loss: float, submodel: str, rate: float) -> None:
        """Report after `step` steps; `rate` is in examples a second."""
        elapsed = time.monotonic() - self.began
        left = elapsed / max(1, step - self.start) * (self.steps - step)
        line = f"step {step}/{self.steps}  loss {loss:.4f}  {submodel}  {rate:.0f} examples/s  {_clock(left)} left"
        if self.terminal:
            sys.stderr.write(f"\r\x1b[2K{line[:79]}")
            sys.stderr.flush()
        elif elapsed - self.shown >= self.every or step == self.steps:
            self.shown = elapsed
            log.info(line)

    def close(self) -> None:
        """End the terminal's line."""
        if self.terminal:
            sys.stderr.write("\n")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
