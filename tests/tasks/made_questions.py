"""Made-up questions with contexts that hold their answers, and some that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import write_jsonl

NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hedy")
TOWNS = ("Oslo", "Rome", "Lima", "Kyiv", "Bonn", "Turin", "Porto", "Cairo")


def question(i: int, answered: bool = True, long: bool = False) -> dict[str, Any]:
    """The i-th: where somebody lives, in a context that says so, and with `long` much else."""
    name, town = NAMES[i % 8], TOWNS[i // 8 % 8]
    before = f"Number {i} begins. " + "Nobody lives here. " * (12 if long else i % 3)
    context = f"{before}{name} lives in {town}, near the old harbour." + " That is all." * (8 if long else 0)
    start = context.index(town)
    texts = [f"{town}", f"{town}, near the old harbour"][: 1 + i % 2] if answered else []
    return {
        "id": f"q{i}",
        "question": f"Where does {name if answered else 'Zoe'} live?",
        "context": context,
        "answers": {"text": texts, "answer_start": [start] * len(texts)},
    }


def write(folder: Path, v2: bool = False, rows: int = 12, scored: int = 6) -> Path:
    """A folder of questions to train on and to score, of 2.0 every third without an answer."""
    for split, first, count in (("train", 0, rows), ("validation", 100, scored)):
        made = [question(i, not (v2 and i % 3 == 0), i % 4 == 3) for i in range(first, first + count)]
        write_jsonl(folder / f"{split}.jsonl", made)
    return folder


def words(folder: Path, runs: Path, v2: bool = False) -> list[str]:
    """The smallest run over `write`'s folder: windows of 96 bytes."""
    return [
        "model=tiny_bert",
        "task=squad_v2" if v2 else "task=squad",
        f"task.data_dir={folder}",
        f"runs_dir={runs}",
        "task.max_length=96",
        "task.doc_stride=24",
        "task.max_query_length=30",
        "adapter.r=3",
        "train.max_steps=4",
        "train.batch_size=8",
        "train.learning_rate=0.02",
    ]
