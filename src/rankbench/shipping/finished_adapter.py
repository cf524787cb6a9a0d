"""The adapter of a finished run, cut to a rank, and how stock code finds the backbone under it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankbench.errors import RequestError
from rankbench.records.finished import Finished, ranks_in_words
from rankbench.settings.sources import fingerprint, hub_of, locate

if TYPE_CHECKING:
    from rankbench.shipping.adapter_files import Adapter

log = logging.getLogger("rankbench")


@dataclass(frozen=True)
class Base:
    """What transformers loads the backbone by: a folder or hub id, None for random weights that lie nowhere.

    Of its layers the first `layers`, where that is given. `here` is a folder that holds the hub's files.
    """

    name: str | None
    revision: str | None = None
    here: str | None = None
    gguf_file: str | None = None
    layers: int | None = None


def cut(found: Finished, rank: int | None, svd: bool, layers: int | None = None) -> Adapter:
    """The adapter at the asked rank: a trained prefix, or the SVD cut of the largest trained one; of the first layers.

    Raises RequestError where the run did not train the rank and no SVD is asked for.
    """
    from rankbench.shipping import adapter_files

    largest, trained = int(found.note["r"]), sorted(found.note["trained_ranks"])
    rank = largest if rank is None else rank
    if svd and not 1 <= rank <= trained[-1]:
        raise RequestError(f"--rank {rank} is outside 1 to {trained[-1]}, the trained rank that --svd cuts down")
    if not svd and rank not in trained:
        raise RequestError(
            f"rank {rank} is none that this run trained ({ranks_in_words(trained)}); choose one, or cut rank "
            f"{trained[-1]} down: rankbench export --svd"
        )
    whole = adapter_files.read(found.adapter)
    if whole.rank != largest:
        raise RequestError(f"{found.adapter} is damaged (rank {whole.rank}, not {largest}); {adapter_files.AGAIN}")
    if layers is not None:
        whole = adapter_files.first_layers(whole, layers)
    prefix = adapter_files.prefix(whole, trained[-1] if svd else rank, found.note["scale"])
    return adapter_files.svd_cut(prefix, rank) if svd else prefix


def global_cut(found: Finished, rank: int | None, layers: int | None = None) -> tuple[Adapter, dict[str, int]]:
    """The largest singular values of all layers together that rank `rank` in each pays for, and each layer's rank.

    What `evaluate.cuts=[svd_global]` measures. Raises RequestError as `cut` does.
    """
    from rankbench.methods.cuts import spread
    from rankbench.shipping import adapter_files

    largest = max(found.note["trained_ranks"])
    rank = largest if rank is None else rank
    if not 1 <= rank <= largest:
        raise RequestError(f"--rank {rank} is outside 1 to {largest}, the trained rank that --svd-global cuts down")
    turned = cut(found, largest, svd=True, layers=layers)
    factors = turned.layers()
    values = [a.norm(dim=1) * b.norm(dim=0) for a, b in factors.values()]  # each factor carries the root
    kept = spread(values, [a.shape[1] + b.shape[0] for a, b in factors.values()], rank)
    ranks = dict(zip(factors, kept, strict=True))
    return adapter_files.by_layer(turned, ranks, lambda _: 1.0), ranks


def head_width(found: Finished, adapter: Adapter) -> int | None:
    """Outputs of the head, as its last matrix has them; None for a language model."""
    task = found.run.task
    if task.kind == "causal_lm":
        return None
    matrices = {name: tensor for name, tensor in adapter.head.items() if tensor.dim() == 2}
    last = [name for name in matrices if name.endswith("out_proj.weight")] or list(matrices)
    if not last:
        raise RequestError(f"{found.adapter} holds no classification head; run it again with fresh=true")
    return int(matrices[last[-1]].shape[0])


def base_of(found: Finished, layers: int | None = None) -> Base:
    """How stock code finds the backbone that the run trained on, or its first layers."""
    return dataclasses.replace(_base_of(found), layers=layers or found.model.layers)


def _base_of(found: Finished) -> Base:
    origin = found.record.get("backbone") or {}
    model, kind = found.model, origin.get("source")
    if kind == "random":
        return Base(None)
    if kind == "hub":
        return Base(model.hub, model.revision)
    with contextlib.suppress(RequestError):
        source = locate("model", model)
        assert source.path is not None
        path = source.path.absolute()
        known = hub_of(model, source) if origin.get("fingerprint") == fingerprint(source) else None
        if known:
            return Base(*known, here=str(path))
        return Base(str(path.parent), gguf_file=path.name) if path.suffix == ".gguf" else Base(str(path))
    if origin.get("hub"):
        return Base(origin["hub"], origin["revision"])
    log.warning("the backbone is not here any more; the export names the place where the run found it")
    return Base(str(model.path or model.package))
