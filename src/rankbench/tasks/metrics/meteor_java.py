"""The Java programs of the package pycocoevalcap: METEOR 1.5, kept running, and the tokeniser of the Penn Treebank."""

from __future__ import annotations

import atexit
import functools
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from rankbench.errors import RequestError
from rankbench.settings.metrics import meteor
from rankbench.tasks.metrics.ptb import PUNCTUATION

UTF8 = ["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Dsun.stdout.encoding=UTF-8"]
MARK = "|||"  # between the fields of a line for METEOR


def statistics(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[float]]:
    """METEOR's 23 numbers of each text against the reference by which it scores best. Raises RequestError."""
    return [_meteor().numbers(text, row) for text, row in zip(texts, references, strict=True)]


def treebank(texts: Sequence[str]) -> list[str]:
    """Texts as the E2E challenge's script has them: lower case, tokens of the Penn Treebank without punctuation.

    A line break inside a text is a blank here; that script would score all following rows against others.
    """
    if not texts:
        return []
    java, package = meteor()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        file.write_text("\n".join(_line(text) for text in texts), encoding="utf-8", errors="replace")
        jar = package / "tokenizer" / "stanford-corenlp-3.4.1.jar"
        words = [java, *UTF8, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        done = subprocess.run([*words, "-preserveLines", "-lowerCase", str(file)], capture_output=True, check=False)
    lines = done.stdout.decode("utf-8").split("\n")[: len(texts)]
    if done.returncode or len(lines) < len(texts):
        raise RequestError(f"METEOR's tokeniser, a Java program, failed: {_last(done.stderr)}")
    return [" ".join(word for word in line.split() if word not in PUNCTUATION) for line in lines]


class _Meteor:
    """The program, which answers a line by a line."""

    def __init__(self) -> None:
        java, package = meteor()
        self.lock = threading.Lock()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe that nobody reads would stop the program)
        jar = package / "meteor" / "meteor-1.5.jar"
        words = [java, "-Xmx2G", *UTF8, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        atexit.register(self.end)

    def numbers(self, text: str, references: Sequence[str]) -> list[float]:
        """The statistics of a text."""
        fields = ["SCORE", *map(_field, references), _field(text)]
        answer = self._asked(f" {MARK} ".join(fields))
        try:
            found = [float(word) for word in answer.split()]
        except ValueError:
            found = []
        if len(found) != 23:
            self.end()
            self.errors.seek(0)
            said = answer.strip() or _last(self.errors.read())
            raise RequestError(f"METEOR's Java program answered no numbers, or ended: {said or 'it said nothing'}")
        return found

    def _asked(self, line: str) -> str:
        assert self.process.stdin and self.process.stdout
        with self.lock:
            try:
                self.process.stdin.write(f"{line}\n".encode(errors="replace"))
                self.process.stdin.flush()
            except OSError:  # it has ended; what it said tells why
                return ""
            return self.process.stdout.readline().decode("utf-8", "replace")

    def end(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.wait()
        atexit.unregister(self.end)
        _meteor.cache_clear()


@functools.cache
def _meteor() -> _Meteor:
    return _Meteor()


def _line(text: str) -> str:
    return " ".join(text.replace("\0", " ").split())


def _field(text: str) -> str:
    """A text that can be a field of METEOR's line."""
    while MARK in text:
        text = text.replace(MARK, " ")
    return _line(text)


def _last(errors: bytes) -> str:
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
