"""Cheap sub-models of one finished LoRA: other ways to cut rank R down than taking its first rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from rankbench.methods.lora import DyLora
from rankbench.methods.peft_model import ADAPTER


@contextlib.contextmanager
def cut(adapter: DyLora, how: str) -> Iterator[None]:
    """While open, rank b of the adapter is its rank R cut down to b in another way; after that all is as before.

    `svd`: in each layer the closest product of rank b to s B A (Eckart-Young). `svd_global`: the largest singular
    values of all layers together, as many as the parameters of rank b pay for, so layers differ in rank (PARA,
    arXiv 2604.27796). `alpha_over_b`: the first rows, at scale alpha/b instead of the one they were trained with.
    """
    active, scale_of, stacks = adapter.active(), adapter.scale_of, adapter.stacks
    weights = [(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight) for layer in adapter.layers]
    before = [(a.detach().clone(), b.detach().clone()) for a, b in weights]
    try:
        if how == "alpha_over_b":
            adapter.scale_of = lambda b: adapter.run.adapter.lora_alpha / b
        else:
            values = [_turn(a, b, scale_of(adapter.r)) for a, b in weights]
            adapter.scale_of = lambda b: 1.0
            if how == "svd_global":
                costs = [a.shape[1] + b.shape[0] for a, b in weights]
                adapter.by_layer = {m.rank or 0: spread(values, costs, m.rank or 0) for m in adapter.family}
                adapter.stacks = False
        adapter.activate(active)
        yield
    finally:
        for (a, b), (old_a, old_b) in zip(weights, before, strict=True):
            a.data.copy_(old_a)
            b.data.copy_(old_b)
        adapter.scale_of, adapter.stacks, adapter.by_layer = scale_of, stacks, {}
        adapter.activate(active)


@contextlib.contextmanager
def off(adapter: DyLora) -> Iterator[None]:
    """While open, the adapter adds nothing when its largest rank is made active; after that all is as before."""
    active, by_layer = adapter.active(), adapter.by_layer
    try:
        adapter.by_layer = {adapter.r: [0] * len(adapter.layers)}
        yield
    finally:
        adapter.by_layer = by_layer
        adapter.activate(active)


def _turn(a: torch.nn.Parameter, b: torch.nn.Parameter, scale: float) -> torch.Tensor:
    """Turn the factors so that every prefix of them is the SVD cut of scale B A; returns the singular values (R,)."""
    turned_a, turned_b = closest(a.detach(), b.detach(), scale, a.shape[0])
    a.data.copy_(turned_a)
    b.data.copy_(turned_b)
    return turned_a.norm(dim=1) * turned_b.norm(dim=0)  # each factor carries the root


def closest(a: torch.Tensor, b: torch.Tensor, scale: float, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A' (rank, in) and B' (out, rank) with B' A' the nearest to scale B A in the Frobenius norm.

    Computed in float64 through the QR of both factors, so that no matrix is larger than they are.
    """
    left, upper = torch.linalg.qr(b.double())
    right, lower = torch.linalg.qr(a.double().T)
    u, s, vt = torch.linalg.svd(scale * upper @ lower.T)
    root = s[:rank].sqrt()  # shared evenly, so that neither factor is far from the other in size
    return ((root[:, None] * vt[:rank]) @ right.T).to(a.dtype), (left @ (u[:, :rank] * root)).to(b.dtype)


def spread(values: Sequence[torch.Tensor], costs: Sequence[int], rank: int) -> list[int]:
    """The rank of each layer: singular values, largest first, as long as they cost no more than `rank` everywhere.

    `values` has each layer's (R,), falling, and `costs` what one of its components costs in parameters.
    """
    budget = rank * sum(costs)
    ranks = [0] * len(costs)
    order = sorted(((-float(value), layer) for layer, own in enumerate(values) for value in own), key=lambda p: p[0])
    for _, layer in order:
        if costs[layer] <= budget:
            budget -= costs[layer]
            ranks[layer] += 1
    return ranks
