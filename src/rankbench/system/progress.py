"""What a person sees while a run goes on: messages, and one progress line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from rankbench.system import processes
from rankbench.system.files import write_atomic

log = logging.getLogger("rankbench")


class Progress:
    """Reports the steps of a training: a line rewritten in place on a terminal, plain lines now and then elsewhere.

    `start` is where a resumed training begins. `file` is kept for those who look from outside: the step, the steps of
    the whole and the seconds left.
    """

    def __init__(self, steps: int, start: int = 0, file: Path | None = None, every_seconds: float = 30.0) -> None:
        self.steps, self.start, self.every = steps, start, every_seconds
        self.terminal = sys.stderr.isatty() and processes.first()
        self.file = file if processes.first() else None
        self.began = time.monotonic()
        self.shown = self.noted = -every_seconds
        self.note(start)

    def note(self, step: int) -> None:
        """Write the file anew where it is older than ten seconds, and after the last step."""
        elapsed = time.monotonic() - self.began
        if self.file is None or (elapsed - self.noted < 10 and step < self.steps):
            return
        self.noted = elapsed
        left = round(self._left(step)) if step > self.start else None
        with contextlib.suppress(OSError):  # a full disk is the checkpoint's to report
            self.file.parent.mkdir(exist_ok=True)
            write_atomic(self.file, json.dumps({"step": step, "steps": self.steps, "seconds_left": left}))

    def _left(self, step: int) -> float:
        return (time.monotonic() - self.began) / max(1, step - self.start) * (self.steps - step)

    def show(self, step: int, loss: float, submodel: str, rate: float) -> None:
        """Report after `step` steps; `rate` is in examples a second."""
        pace = f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
        left = clock(self._left(step))
        line = f"step {step}/{self.steps}  loss {loss:.4f}  {submodel}  {pace} examples/s  {left} left"
        self.tell(line, step == self.steps)

    def tell(self, line: str, last: bool = False) -> None:
        """Show a line now if it is the last or the time has come."""
        elapsed = time.monotonic() - self.began
        if self.terminal:
            sys.stderr.write(f"\r\x1b[2K{line[:79]}")
            sys.stderr.flush()
        elif elapsed - self.shown >= self.every or last:
            self.shown = elapsed
            log.info(line)

    def close(self) -> None:
        """End the terminal's line."""
        if self.terminal:
            sys.stderr.write("\n")


class Counted(Progress):
    """Reports work that is counted in `whole` pieces; what takes no time is not worth a line, nor is what is done."""

    def __init__(self, what: str, whole: int, every_seconds: float = 30.0, patience: float = 1.0) -> None:
        super().__init__(whole, every_seconds=every_seconds)
        self.what, self.done, self.told = what, 0, False
        self.shown = 0.0
        self.patience = patience  # seconds before a terminal's first line

    def add(self, pieces: int = 1) -> None:
        """So many more are done."""
        self.done += pieces
        if time.monotonic() - self.began >= (self.patience if self.terminal else self.every):
            self.told = True
            self.tell(f"{self.what}  {self.done}/{self.steps}  {clock(self._left(self.done))} left")

    def close(self) -> None:
        """Clear the terminal's line."""
        if self.terminal and self.told:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def clock(seconds: float) -> str:
    """Seconds as people read them: 0:42, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def speak() -> None:
    """Send rankbench's messages to stderr, without the libraries' bars: they read the environment once, at import."""
    for name, value in (
        ("TOKENIZERS_PARALLELISM", "false"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TQDM_DISABLE", "1"),
    ):
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which speaks when PEFT imports it
    log.setLevel(logging.INFO if processes.first() else logging.ERROR)
    log.propagate = False
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)


@contextlib.contextmanager
def written_to(file: Path) -> Iterator[None]:
    """Within the context messages go to `file` as well, as long as it takes them: a full disk costs the log alone."""
    handler = _Written(file, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # said already
            handler.close()


class _Written(logging.FileHandler):
    """A file of messages; that it cannot be written is said once, on stderr."""

    def handleError(self, record: logging.LogRecord) -> None:
        """What logging calls when a message could not be written."""
        log.removeHandler(self)
        log.warning("%s takes no more messages (%s)", self.baseFilename, sys.exc_info()[1])


def _grave(message: logging.LogRecord) -> bool:
    return message.levelno >= logging.ERROR


def quiet_libraries() -> None:
    """Progress bars and advice of the libraries off; their errors stay."""
    for name in ("transformers", "huggingface_hub", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").addFilter(_grave)  # PEFT loads it where it is installed, and it speaks on stdout
    import transformers

    # PEFT asks transformers by names that it deprecates; nobody who reads a run's output can mend that.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # An adapter names its base as others find it; where it lies here was compared by its content.
    warnings.filterwarnings("ignore", "The PEFT config's `base_model_name_or_path` was renamed")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
