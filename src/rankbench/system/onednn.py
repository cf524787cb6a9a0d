"""How many of its kernels oneDNN keeps."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# oneDNN writes a kernel of up to a MiB for each shape that it multiplies, and a batch of another length is another
# shape. It keeps 1,024, its users in torch as many again. A float32 step of a transformer asks for 6 to 15; pruned
# layers, each of its own shape, for more, which are then written again at every batch.
KERNELS = 32
KEPT = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's own store, and that of torch's ideep


def keep_few(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have oneDNN keep few kernels, where the user has not said how many. It reads that at its first product."""
    for name in KEPT:
        environ.setdefault(name, str(KERNELS))
