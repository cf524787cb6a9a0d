"""SQuAD's metrics against values of the official scripts, and at the edges of their definitions."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from conftest import REAL_DATA

from rankbench.tasks.metrics import squad

ORACLES = REAL_DATA.parent / "reference" / "nlg_squad_oracles.json"


def said(row: dict, way: str, place: int) -> str:
    """What a made-up system answers."""
    texts = row["answers"]["text"]
    first = texts[0] if texts else ""
    words = first.split()
    ways = {
        "gold": first,
        "words": "the " + " ".join(words[:-1] if len(words) > 1 else words) if texts else "",
        "context": " ".join(row["context"].split()[:3]),
    }
    return ways[("gold", "words", "context")[place % 3] if way == "mixed" else way]


def chance(row: dict) -> float:
    """A made-up no-answer probability."""
    drawn = int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) / 2**32 * 0.6
    return drawn + 0.4 * (not row["answers"]["text"])


@pytest.mark.skipif(not ORACLES.is_file(), reason="the official values lie beside the repository")
@pytest.mark.parametrize("way", ["gold", "words", "mixed"])
@pytest.mark.parametrize("split", ["validation", "validation_v2"])
def test_the_official_scripts_values(split: str, way: str) -> None:
    official = json.loads(ORACLES.read_text())["squad"][f"{split} {way}"]
    rows = [json.loads(line) for line in (REAL_DATA / "squad" / f"{split}.jsonl").read_text().splitlines()]
    predictions = [said(row, way, place) for place, row in enumerate(rows)]
    answers = [row["answers"]["text"] for row in rows]
    if split == "validation":
        for name, how in (("exact_match", squad.exact), ("f1", squad.f1)):
            mean = 100 * squad.of_rows(predictions, answers, how, v2=False).mean()
            assert mean == pytest.approx(official[name], abs=1e-9)
        return
    chances = np.array([chance(row) for row in rows])
    strict = official.pop("with -t 0.5")
    assert squad.summary(predictions, answers, chances) == pytest.approx(official, abs=1e-9)
    answered = np.array([bool(own) for own in answers])
    for name, how in (("exact", squad.exact), ("f1", squad.f1_v2)):
        raw = squad.of_rows(predictions, answers, how, v2=True)
        mean = 100 * squad.thresholded(raw, answered, chances, 0.5).mean()
        assert mean == pytest.approx(strict[name], abs=1e-9)


@pytest.mark.parametrize(
    ("said", "accepted", "exact", "f1", "f1_v2"),
    [
        ("The cat.", ["a cat", "dog"], 1, 1, 1),
        ("state-of-the-art", ["state of the art"], 0, 0, 0),  # punctuation is deleted and not replaced
        ("cat cat dog", ["cat dog dog"], 0, 2 / 3, 2 / 3),
        ("the", ["a"], 1, 0, 1),  # two answers without a word: 1.1 sees none in common
        ("", ["x"], 0, 0, 0),
        ("“x”", ["x"], 0, 0, 0),  # typographic quotes stay
        (" Über  Nacht\n", ["über nacht"], 1, 1, 1),
    ],
)
def test_an_answer_by_hand(said: str, accepted: list[str], exact: float, f1: float, f1_v2: float) -> None:
    for how, v2, value in ((squad.exact, False, exact), (squad.f1, False, f1), (squad.f1_v2, True, f1_v2)):
        assert squad.of_rows([said], [accepted], how, v2)[0] == pytest.approx(value)


def test_a_question_without_an_answer() -> None:
    with pytest.raises(ValueError, match="take squad_v2_f1"):
        squad.of_rows(["x"], [[]], squad.f1, v2=False)
    found = squad.summary(["", "x", "."], [[], [], ["."]], [0.9, 0.1, 0.5])
    assert [found[key] for key in ("exact", "NoAns_exact", "NoAns_total")] == [pytest.approx(200 / 3)] * 2 + [3]
    assert "HasAns_exact" not in found and found["best_exact"] == pytest.approx(100)
