"""SQuAD's metrics against values of the official scripts, and at the edges of their definitions."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from conftest import REAL_DATA

import rankbench
from rankbench.errors import RequestError
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
def test_score_gives_the_official_scripts_values(split: str, way: str) -> None:
    official = json.loads(ORACLES.read_text())["squad"][f"{split} {way}"]
    rows = [json.loads(line) for line in (REAL_DATA / "squad" / f"{split}.jsonl").read_text().splitlines()]
    predictions = [said(row, way, place) for place, row in enumerate(rows)]
    answers = [row["answers"]["text"] for row in rows]
    names = ("squad_v2_exact_match", "squad_v2_f1") if "v2" in split else ("squad_exact_match", "squad_f1")
    for name, its in zip(names, ("exact" if "v2" in split else "exact_match", "f1"), strict=True):
        assert rankbench.score(name, predictions, answers) == pytest.approx(official[its], abs=1e-9)


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
    with pytest.raises(RequestError, match=r"references 0 has no text .*take squad_v2_f1"):
        rankbench.score("squad_f1", ["x"], [[]])
    assert rankbench.score("squad_v2_exact_match", ["", "x", "."], [[], [], ["."]]) == pytest.approx(200 / 3)
    raw = squad.of_rows(["", "x", "."], [[], [], ["."]], squad.exact, v2=True)
    best = squad.best_threshold(raw, ["", "x", "."], np.array([False, False, True]), np.array([0.9, 0.1, 0.5]))
    assert best == (pytest.approx(2 / 3), 0.0)  # answers nothing: what is said of the second costs as much


@pytest.mark.parametrize("name", ["squad_v2_best_f1", "squad_v2_best_exact_match_thresh"])
def test_what_is_over_thresholds_wants_a_run(name: str) -> None:
    with pytest.raises(RequestError, match=r"a run of task=squad_v2 scores it"):
        rankbench.score(name, ["x"], [["x"]])


def test_score_takes_texts_as_it_does_elsewhere() -> None:
    assert rankbench.score("squad_f1", ["The cat!", "dogs"], ["cat", ["a dog", "dogs"]]) == 100
    for wrong in (None, [None], [5]):
        with pytest.raises(RequestError):
            rankbench.score("squad_f1", ["x"], [wrong])
