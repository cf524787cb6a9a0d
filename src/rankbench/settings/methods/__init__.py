"""The settings of each method, torch-free: what enters is YAML, what leaves is a checked `Method`.

A method of another package comes by an entry point of the group `rankbench.methods`: its name, and its settings' class.
"""

from __future__ import annotations

from rankbench.settings.methods.base import Method
from rankbench.settings.methods.dylora import DyLora
from rankbench.settings.methods.early_exit import EarlyExit
from rankbench.settings.methods.flop import Flop, LoraGated
from rankbench.settings.methods.full import Full
from rankbench.settings.methods.head import Head
from rankbench.settings.methods.lora import Lora
from rankbench.settings.methods.qdylora import QDyLora
from rankbench.settings.methods.sorted_ft import Sft, SortedFt
from rankbench.settings.methods.sorted_lora import SortedLora
from rankbench.settings.outside import installed

__all__ = ["DYLORA", "METHODS", "Method"]

METHODS: dict[str, type[Method]] = {
    "lora": Lora,
    "dylora": DyLora,
    "dylora_late": DyLora,
    "qdylora": QDyLora,
    "full": Full,
    "head": Head,
    "flop": Flop,
    "lora_gated": LoraGated,
    "sft": Sft,
    "early_exit": EarlyExit,
    "sorted_ft": SortedFt,
    "sorted_lora": SortedLora,
}
METHODS |= installed("rankbench.methods", Method, METHODS)
DYLORA = tuple(name for name, kind in METHODS.items() if kind.nested and not kind.deep)
"""The methods that train one adapter whose every rank works."""
