"""Figures that papers printed, as blocks of their own: other models, other data, never in one table with ours."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pandas as pd

from rankbench.blocks import Block

SORTED_LLAMA = "Published, not ours: Sorted LLaMA (Kavehzadeh et al. 2024), LLaMA-2-13B"


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _value(paper: str, table: str, task: str, method: str, place: str, metric: str) -> str:
    """One figure as it was printed, or "-" where the paper has none."""
    asked = (paper, table, task, method, place, metric)
    found = [row["value"] for row in _rows() if tuple(row[key] for key in _KEYS) == asked]
    return found[0] if found else "-"


_KEYS = ("paper", "table", "task", "method", "place", "metric")


def sorted_llama() -> list[Block]:
    """Tables 2 to 5 of Sorted LLaMA: quality by exit as a judge saw it, decoding, and what training took."""

    def value(*key: str) -> str:
        return _value("Sorted LLaMA", *key)

    def judged(table: str, epochs: int, depth: str) -> str:
        method = f"SoFT {epochs} epochs vs SFT layer 40"
        return " / ".join(value(table, "PandaLM", method, depth, metric) for metric in ("wins", "losses", "ties"))

    depths = [str(depth) for depth in range(12, 41, 4)]
    exits = {
        depth: [
            judged("4", 2, depth),
            judged("5", 4, depth),
            value("Fig 1 right", "PandaLM", "SoFT vs SFT same depth", depth, "score"),
            value("Fig 1 left", "PandaLM", "SoFT vs SFT+ICT same depth", depth, "score"),
        ]
        for depth in depths
    }
    ways = {"whole model": ("Layer 40 autoregressive", "40"), "dynamic": ("SoFT instance-aware dynamic", "12:40")}
    ways |= {f"draft at {depth}": ("SoFT speculative draft", depth) for depth in ("12", "16", "20")}
    decoding = {
        name: [
            value("2", "PandaLM", *way, "ms_per_token"),
            value("2", "TriviaQA", *way, "ms_per_token"),
            value("2", "TriviaQA", *way, "exact_match"),
        ]
        for name, way in ways.items()
    }
    training = {
        method: [value("3", "Alpaca training", method, "40", metric) for metric in ("train_seconds", "memory_MB")]
        for method in ("SFT", "SoFT")
    }
    return [
        Block(
            f"{SORTED_LLAMA}, Tables 4 and 5, Figure 1: SoFT's exits before a judge (PandaLM, 170 instructions), "
            "wins / losses / ties against SFT's whole depth; the score (wins - losses) / 170 against the same depth.",
            _frame(exits, ["2 epochs", "4 epochs", "against SFT", "against SFT+ICT"], "depth"),
        ),
        Block(
            f"{SORTED_LLAMA}, Table 2: decoding a SoFT model.",
            _frame(decoding, ["PandaLM ms/token", "TriviaQA ms/token", "TriviaQA exact match"], "decoding"),
        ),
        Block(f"{SORTED_LLAMA}, Table 3: training on Alpaca, 8 V100s.", _frame(training, ["seconds", "MB"], "method")),
    ]


def _frame(rows: dict[str, list[str]], columns: list[str], index: str) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    frame.index.name = index
    return frame
