"""What a run may ask of the network, found out without waiting: whether a host answers, whether W&B has a key."""

from __future__ import annotations

import contextlib
import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

WANDB_HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}  # wandb's versions note a key under one or the other


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a connection to the host of `url` opens in time; through a proxy nothing can be said, so True."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    parts = urlsplit(url)
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)), timeout=seconds
        ).close()
    except OSError:
        return False
    return True


def look_for_key() -> str:
    """Where W&B's key was found, never the key itself; '' where there is none."""
    hosts = {urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc} - {""} or WANDB_HOSTS
    file, noted = Path(os.environ.get("NETRC") or "~/.netrc").expanduser(), False
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        noted = bool(hosts & set(netrc.netrc(file).hosts))
    return "WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else str(file) if noted else ""
