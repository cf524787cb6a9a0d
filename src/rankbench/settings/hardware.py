"""Cards whose rules a run keeps on any other."""

from __future__ import annotations

from enum import Enum


class Hardware(Enum):
    """`v100` holds the run to a V100's rules whatever the card."""

    auto = "auto"
    v100 = "v100"
