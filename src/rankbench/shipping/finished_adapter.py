"""The adapter of a finished run, cut to a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbench.errors import RequestError
from rankbench.records.finished import Finished, ranks_in_words

if TYPE_CHECKING:
    from rankbench.shipping.adapter_files import Adapter


def cut(found: Finished, rank: int | None, svd: bool, layers: int | None = None) -> Adapter:
    """The adapter at the asked rank: a trained prefix, or the SVD cut of the largest trained one; of the first layers.

    Raises RequestError where the run did not train the rank and no SVD is asked for.
    """
    from rankbench.shipping import adapter_files

    largest, trained = int(found.note["r"]), sorted(found.note["trained_ranks"])
    if not svd:
        refuse_untrained(found, rank)
    rank = largest if rank is None else rank
    if svd and not 1 <= rank <= trained[-1]:
        raise RequestError(f"--rank {rank} is outside 1 to {trained[-1]}, the trained rank that --svd cuts down")
    whole = adapter_files.read(found.adapter)
    if whole.rank != largest:
        raise RequestError(f"{found.adapter} is damaged (rank {whole.rank}, not {largest}); {adapter_files.AGAIN}")
    if layers is not None:
        whole = adapter_files.first_layers(whole, layers)
    prefix = adapter_files.prefix(whole, trained[-1] if svd else rank, found.note["scale"])
    return adapter_files.svd_cut(prefix, rank) if svd else prefix


def refuse_untrained(found: Finished, rank: int | None) -> None:
    """Refuse a rank (None: the largest) that the run did not train. Raises RequestError."""
    rank, trained = int(found.note["r"]) if rank is None else rank, sorted(found.note["trained_ranks"])
    if rank not in trained:
        raise RequestError(
            f"rank {rank} is none that this run trained ({ranks_in_words(trained)}); choose one, or cut rank "
            f"{trained[-1]} down: rankbench export --svd"
        )


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
    heads = ("classifier.weight", "score.weight", "qa_outputs.weight")
    last = [name for name in matrices if name in heads] or last
    if not last:
        raise RequestError(f"{found.adapter} holds no head; run it again with fresh=true")
    return int(matrices[last[-1]].shape[0])
