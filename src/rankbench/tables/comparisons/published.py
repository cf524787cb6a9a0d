"""Figures that papers printed, as blocks of their own: other models, other data, never in one table with ours."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

from rankbench.tables.layout import Block, frame

NOT_OURS = "Published, not ours"
DYLORA = "DyLoRA (Valipour et al. 2023), RoBERTa-base"
DYLORA_NLG = "DyLoRA (Valipour et al. 2023), GPT-2 medium"
QDYLORA = "QDyLoRA (Rajabzadeh et al. 2024), Falcon-40B"
LORA_NLG = "LoRA (Hu et al. 2022), GPT-2 medium"
SORTED_LLAMA = f"{NOT_OURS}: Sorted LLaMA (Kavehzadeh et al. 2024), LLaMA-2-13B"


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


def dylora(*tables: str) -> list[Block]:
    """Tables of DyLoRA by their numbers, as far as its figures are known: a row a method and rank, a column a task."""
    return [_DYLORA[table]() for table in tables]


def _grid(table: str, said: str, note: str = "", whose: str = DYLORA) -> Callable[[], Block]:
    """A paper table as rows of (method, rank) and columns of (task or metric)."""

    def made() -> Block:
        paper = whose.split()[0]
        rows = [row for row in _rows() if row["paper"] == paper and row["table"] == table]
        several = table in ("6", "9") or any(row["metric"] == "train_seconds" for row in rows)
        columns = list(dict.fromkeys(_column(row, several) for row in rows))
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            best, ranked = table in ("2 best", "5"), row["place"].isdigit()
            place = row["place"] if ranked and not best else ""
            cell = row["value"] + (f" ({row['place']})" if ranked and best else "")
            found.setdefault(f"{row['method']}{', rank ' + place if place else ''}", {})[_column(row, several)] = cell
        lines = {name: [cells.get(column, "-") for column in columns] for name, cells in found.items()}
        return Block(f"{NOT_OURS}: {whose}, {said}.{note}", frame(lines, columns, "method"))

    return made


def _column(row: dict[str, str], several: bool) -> str:
    return f"{row['task']} {row['metric'].replace('_', ' ')}" if several else row["task"]


def nlg() -> list[Block]:
    """DyLoRA's Tables 6 and 9, as far as they are known, and LoRA's own BLEU on the same tasks."""
    return [made() for made in _NLG]


def qdylora() -> list[Block]:
    """The best ranks of QDyLoRA, which are all that is known of its Table 2."""
    return [_QDYLORA()]


def integer() -> list[Block]:
    """What the abstracts of integer fine-tuning say of their widths, which is all that is known of its tables."""
    rows = {
        f"{row['method']}, {row['place']}": [row["value"]] for row in _rows() if row["paper"] == "Integer fine-tuning"
    }
    return [
        Block(
            f"{NOT_OURS}: Tayaranian et al. 2023, points that BERT in integers loses to floats on average, by "
            "its abstracts. They average SQuAD 1.1 and 2.0 with GLUE; the first version has ViT's images too, and "
            "both train every weight. No table a task, no hyper-parameter and no number of seeds is known here.",
            frame(rows, ["difference"], "width"),
        )
    ]


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
            frame(exits, ["2 epochs", "4 epochs", "against SFT", "against SFT+ICT"], "depth"),
        ),
        Block(
            f"{SORTED_LLAMA}, Table 2: decoding a SoFT model.",
            frame(decoding, ["PandaLM ms/token", "TriviaQA ms/token", "TriviaQA exact match"], "decoding"),
        ),
        Block(f"{SORTED_LLAMA}, Table 3: training on Alpaca, 8 V100s.", frame(training, ["seconds", "MB"], "method")),
    ]


_DYLORA: dict[str, Callable[[], Block]] = {
    "2": _grid("2", "Table 2, average of eight GLUE tasks, R = 8"),
    "2 best": _grid("2 best", "Table 2, the best rank of each task (in brackets)"),
    "3": _grid("3", "Table 3", " FLOP's figures are those of Wang et al., over BERT."),
    "4": _grid("4", "Table 4, average of six GLUE tasks", " The order of its rows is inferred."),
    "5": _grid("5", "Table 5, the best of several trainings and its rank (in brackets)"),
    "7": _grid("7", "Table 7, CoLA", " Which row is which is inferred."),
    "seconds": _grid("App A", "Appendix A, training seconds on MRPC"),
}

_KNOWN = " The rows of DyLoRA itself are not known here."
_NLG = (
    _grid("6", "Table 6, E2E", _KNOWN, DYLORA_NLG),
    _grid("9", "Table 9, DART and WebNLG", f"{_KNOWN} TER is a share.", DYLORA_NLG),
    _grid("NLG", "BLEU as its repository prints it", "", LORA_NLG),
)
_QDYLORA = _grid("2", "the rank that scored best, from its text", " The scores themselves are not known here.", QDYLORA)
