"""A home that cannot be written costs no run: libraries keep what they write there beside the runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rankbench.system.files import expanded

LIBRARIES = {
    "MPLCONFIGDIR": "matplotlib",
    "WANDB_CACHE_DIR": "wandb",
    "WANDB_CONFIG_DIR": "wandb",
    "WANDB_DATA_DIR": "wandb",
}


def refusal(folder: Path) -> OSError | None:
    """Why no file can be made in a folder, or in the first above it that is there; None where one can."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        error.filename = str(there)
        return error


def spare(runs_dir: Path) -> None:
    """Where the home cannot be written, give libraries a place beside the runs, unless the environment does."""
    home = expanded("~")
    if any(refusal(place) for place in (home, home / ".cache", home / ".config", home / ".local" / "share")):
        for variable, library in LIBRARIES.items():
            place = runs_dir.absolute() / ".cache" / library
            if not os.environ.get(variable) and refusal(place) is None:
                place.mkdir(parents=True, exist_ok=True)
                os.environ[variable] = str(place)
