"""Comparisons over records, each a list of blocks: ours first, then the papers' figures apart."""

from __future__ import annotations

from collections.abc import Callable

from rankbench.records.record import Paths
from rankbench.tables.comparisons.budgets import budget
from rankbench.tables.comparisons.depth import soft_vs_early_exit
from rankbench.tables.comparisons.integer import integer
from rankbench.tables.comparisons.nlg import nlg
from rankbench.tables.comparisons.ranks import (
    distribution,
    flop,
    glue,
    leaderboard,
    lora_search_vs_dylora,
    loss,
    qdylora_vs_qlora,
)
from rankbench.tables.layout import Block

COMPARISONS: dict[str, Callable[[Paths, str | None], list[Block]]] = {
    "lora_search_vs_dylora": lora_search_vs_dylora,
    "glue": glue,
    "nlg": nlg,
    "qdylora_vs_qlora": qdylora_vs_qlora,
    "integer": integer,
    "distribution": distribution,
    "loss": loss,
    "flop": flop,
    "soft_vs_early_exit": soft_vs_early_exit,
    "leaderboard": leaderboard,
    "budget": budget,
}
