"""What rankbench raises where a person has to act: a wrong request, a folder in use, a run that failed."""

from __future__ import annotations


class RequestError(Exception):
    """The request is wrong; the message says what to change. The command line exits with 2."""


class InUse(RequestError):
    """A live run holds the folder."""


class RunFailed(Exception):
    """The run failed; its record says how. The command line exits with 1."""
