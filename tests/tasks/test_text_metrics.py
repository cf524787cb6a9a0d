"""Metrics of generated texts: equal to the official scripts and packages, at the edges too."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from conftest import REAL_DATA, REPOSITORY
from made_texts import OFFICIAL, REFERENCES, TEXTS

import rankbench
from rankbench.errors import RequestError
from rankbench.settings.metrics import METRICS, meteor
from rankbench.settings.outside import load
from rankbench.tasks.metrics import meteor_java, text
from rankbench.tasks.metrics.ptb import tokenized
from rankbench.tasks.metrics.subsequence import Subsequence
from rankbench.tasks.metrics.webnlg import rate, split, words

ORACLES = REPOSITORY.parent / "shared" / "reference" / "nlg_squad_oracles.json"
GENERATED = [name for name, measure in METRICS.items() if measure.generated]
JAVA = [name for name in GENERATED if METRICS[name].java]
PLAIN = [name for name in GENERATED if name not in JAVA]


def no_java() -> str:
    try:
        return meteor() and ""
    except RequestError as error:
        return str(error)


of_java = [pytest.mark.slow, pytest.mark.skipif(bool(no_java()), reason=no_java())]


def drop(row: list[str]) -> str:
    return " ".join(word for i, word in enumerate(row[0].split()) if i % 5 != 4)


def swap(row: list[str]) -> str:
    found = row[-1].split()
    for i in range(1, len(found) - 1, 4):
        found[i], found[i + 1] = found[i + 1], found[i]
    return " ".join(found)


SYSTEMS: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "e2e_test_drop": ("e2e/test", drop),
    "e2e_test_swap": ("e2e/test", swap),
    "e2e_validation_loo": ("e2e/validation", lambda row: row[0]),
    "dart_test300_drop": ("dart/test", drop),
}
NAMED = {"bleu_e2e": "BLEU (-p)", "nist_e2e": "NIST (-p)", "meteor_e2e": "METEOR", "rouge_l_e2e": "ROUGE_L"}
NAMED |= {"cider_e2e": "CIDEr", "bleu_webnlg": "bleu_nltk", "meteor_webnlg": "meteor", "ter_webnlg": "ter"}


def system(name: str) -> tuple[list[str], list[list[str]], dict[str, Any]]:
    """Texts, references and official values of a system that is made by rule from the references."""
    source, made = SYSTEMS[name]
    file = REAL_DATA / "nlg" / f"{source}.jsonl"
    if not (file.exists() and ORACLES.exists()):
        pytest.skip("the E2E and DART files and the official values are not beside the repository")
    rows = [json.loads(line)["references"] for line in file.read_text().splitlines()]
    rows = [row for row in rows if len(row) > 1] if "loo" in name else rows[:300] if "300" in name else rows
    texts = [made(row) for row in rows]
    oracles = json.loads(ORACLES.read_text())
    values = (oracles["e2e"].get(name) or oracles["lora_route_dart300"].get(name)) or {}
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == values["sha256_texts"]
    return texts, [row[1:] if "loo" in name else row for row in rows], values.get("official_full", values)


@pytest.mark.parametrize(
    "metric", [pytest.param(name, marks=of_java) if name in JAVA else name for name in NAMED if "e2e" in name]
)
@pytest.mark.parametrize("name", [name for name in SYSTEMS if "e2e" in name])
def test_the_e2e_challenges_values_are_the_official_scripts(name: str, metric: str) -> None:
    texts, references, values = system(name)
    assert rankbench.score(metric, texts, references) == pytest.approx(values[NAMED[metric]], abs=1e-9)


@pytest.mark.parametrize("metric", ["bleu_webnlg", "ter_webnlg", pytest.param("meteor_webnlg", marks=of_java)])
def test_the_values_for_dart_are_those_of_loras_route(metric: str) -> None:
    texts, references, values = system("dart_test300_drop")
    assert rankbench.score(metric, texts, references) == pytest.approx(values[NAMED[metric]], abs=1e-9)


@pytest.mark.parametrize("metric", [pytest.param(name, marks=of_java) if name in JAVA else name for name in OFFICIAL])
def test_a_metric_of_texts_made_up_is_the_packages(metric: str) -> None:
    assert rankbench.score(metric, TEXTS, REFERENCES) == pytest.approx(OFFICIAL[metric], abs=1e-12)


def random_texts(seed: int, rows: int = 30) -> tuple[list[str], list[list[str]]]:
    """Texts of few words, some empty, with one to four references each."""
    draw = np.random.default_rng(seed)
    known = np.array(["The", "the", "café", "dog's", "sat,", "on", "3.5", "mat", ".", "x-y", '"a"', "1,000"])

    def one(least: int) -> str:
        return " ".join(draw.choice(known, draw.integers(least, 12)))

    return [one(0) for _ in range(rows)], [[one(1) for _ in range(draw.integers(1, 5))] for _ in range(rows)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("metric", "official"),
    [
        ("bleu_sacre", sacrebleu.BLEU(force=True)),
        ("bleu_e2e", sacrebleu.BLEU(force=True, lowercase=True)),
        ("chrf", sacrebleu.CHRF()),
        ("ter", sacrebleu.TER()),
    ],
)
def test_sacrebleus_metrics_are_sacrebleus(metric: str, official: Any, seed: int) -> None:
    texts, references = random_texts(seed) if seed else (TEXTS, REFERENCES)
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(4)]
    expected = official.corpus_score(texts, streams).score / 100
    assert rankbench.score(metric, texts, references) == pytest.approx(expected, abs=1e-12)


def test_nist_is_the_calculation_by_hand() -> None:
    """Of 6 reference tokens 3 are "a", so it has the information log2(6/3); the mean references have 2 + 2 tokens."""
    a, b, c, a_b = (math.log2(value) for value in (6 / 3, 6 / 1, 6 / 1, 3 / 1))
    references = [["a b"], ["a c x", "a"]]
    found = rankbench.score("nist_e2e", ["A b", "c c"], references)
    assert found == pytest.approx((a + b + c) / 4 + a_b / 2)
    short = 0.5 ** ((math.log(3 / 4) / math.log(1.5)) ** 2)
    assert rankbench.score("nist_e2e", ["A b", "c"], references) == pytest.approx(((a + b + c) / 3 + a_b / 1) * short)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("It isn't (really) £20-25; \"no\".", "it is n't -lrb- really -rrb- # 20-25 no"),
        ("Mr. O'Neill can't", "mr. o'neill ca n't"),
        ("the U.S. pub/restaurant, 3.5km off — 1,000 steps!", "the u.s. pub/restaurant 3.5 km off 1,000 steps"),
        ("No. 5 has no. But cannot: 24/7, a–b, sir...", "no. 5 has no but can not 24/7 a b sir"),
        ("  \n ", ""),
    ],
)  # fmt: skip
def test_tokens_are_those_of_the_penn_treebank(given: str, expected: str) -> None:
    assert " ".join(tokenized(given)) == expected


@pytest.mark.slow
@pytest.mark.skipif(bool(no_java()), reason=no_java())
def test_own_tokens_are_javas() -> None:
    texts = [*TEXTS, *(text for row in REFERENCES for text in row)]
    for name in ("e2e_test_swap", "e2e_validation_loo") if ORACLES.exists() else ():
        texts += system(name)[0]
    assert [" ".join(tokenized(text)) for text in texts] == meteor_java.treebank(texts)


def test_loras_splitting() -> None:
    assert split("It's 18.3 km_h (A)") == "it ' s 18 . 3 km_h ( a )"
    assert words('"Cannot" it') == ["``", "can", "not", "``", "it"]


def table(one: list[str], other: list[str], shared: Callable[..., int], start: Callable[[int, int], int]) -> int:
    """Dynamic programming over two texts as textbooks have it."""
    cells = [[start(i, j) for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            cells[i][j] = shared(cells[i - 1][j], cells[i][j - 1], cells[i - 1][j - 1], a == b)
    return cells[-1][-1]


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_common_subsequence_is_the_textbooks(seed: int) -> None:
    draw = np.random.default_rng(seed)
    one, other = (list(draw.choice(list("abcd"), draw.integers(80))) for _ in range(2))
    longest = table(one, other, lambda up, left, both, same: both + 1 if same else max(up, left), lambda i, j: 0)
    assert Subsequence(one).common(other) == Subsequence(other).common(one) == longest


def test_ter_counts_a_shift_as_one_edit() -> None:
    """The example of the package pyter, and texts that only edits mend, by the textbook's distance."""
    wanted = "SAUDI ARABIA denied THIS WEEK information published in the AMERICAN new york times"
    made = "THIS WEEK THE SAUDIS denied information published in the new york times"
    assert rate(made.split(), wanted.split()) == pytest.approx(4 / 13)
    assert rate(list("abcxyz"), list("xyzabc")) == pytest.approx(1 / 6)
    assert [rate([], ["a"]), rate(["a"], []), rate(["a"], ["b", "c"])] == [1, 1, 1]
    draw = np.random.default_rng(0)
    one, other = list(draw.choice(list("abc"), 70)), list(draw.choice(list("xyz"), 66))  # nothing to shift
    edits = table(one, other, lambda up, left, both, same: min(up + 1, left + 1, both + (not same)), lambda i, j: i + j)
    assert rate(one, other) == edits / 66


def test_distinct_words_and_pairs_are_over_all_texts() -> None:
    texts = ["a b a b", "a c", ""]
    assert rankbench.score("distinct_1", texts, ["", "", ""]) == pytest.approx(3 / 6)
    assert rankbench.score("distinct_2", texts, ["", "", ""]) == pytest.approx(3 / 4)


# At the edges


@pytest.mark.parametrize("metric", PLAIN)
def test_a_metric_of_anything_is_a_number_and_of_its_reference_the_best(metric: str) -> None:
    """Empty texts, one reference, line breaks, signs of every kind; a perfect text scores best."""
    odd = ["", "\n", "a\r\nb ||| c", "日本 語", "e\u0301 \U0001f600 \x00", "( [ {", "..."]
    references = [["x"], [""], ["a b", "c", "a\nb c"], ["日本 語"], ["é"], ["( ["], ["…", "..."]]
    assert math.isfinite(rankbench.score(metric, odd, references))
    assert math.isfinite(rankbench.score(metric, [""], [[""]]))
    assert math.isfinite(rankbench.score(metric, [""] * 3, [["a b"], ["c"], ["d", "e"]]))
    best = rankbench.score(metric, [row[-1] for row in REFERENCES], REFERENCES)
    worst = rankbench.score(metric, ["zz"] * len(REFERENCES), REFERENCES)
    assert (best > worst) == METRICS[metric].rises or metric.startswith("distinct")
    if METRICS[metric].times == 100 and METRICS[metric].rises:
        assert worst >= 0 and best <= 1 + 1e-12


@pytest.mark.parametrize("metric", [name for name in PLAIN if "exact" not in name])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "  "])
def test_a_trailing_line_break_changes_nothing(metric: str, ending: str) -> None:
    plain = [text for text in TEXTS if text]
    references = [row for text, row in zip(TEXTS, REFERENCES, strict=True) if text]
    ended = [[text + ending for text in row] for row in references]
    expected = rankbench.score(metric, plain, references)
    assert rankbench.score(metric, [text + ending for text in plain], ended) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["bleu_e2e", "rouge_l_e2e", "cider_e2e", "ter_webnlg", "bleu_webnlg"])
@pytest.mark.parametrize("mark", ["\n", "\r", "\u2028", "\t"])
def test_a_line_break_inside_a_text_is_a_blank(metric: str, mark: str) -> None:
    broken = [text.replace(" ", mark, 3) for text in TEXTS]
    expected = rankbench.score(metric, TEXTS, REFERENCES)
    assert rankbench.score(metric, broken, REFERENCES) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["bleu_webnlg", "ter_webnlg", pytest.param("meteor_webnlg", marks=of_java)])
def test_loras_route_reads_six_references(metric: str) -> None:
    many = [["nothing alike here"] * 6 + [text] for text in TEXTS if text]
    texts = [text for text in TEXTS if text]
    six = [row[:6] for row in many]
    assert rankbench.score(metric, texts, many) == rankbench.score(metric, texts, six)


@pytest.mark.parametrize("metric", [name for name in PLAIN if METRICS[name].kept])
def test_references_are_read_once_for_all_sub_models(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = load(METRICS[metric].implementation), []
    real = own.against
    monkeypatch.setattr(own, "against", staticmethod(lambda references: calls.append(1) or real(references)))
    found = text.columns([metric], [TEXTS, TEXTS[::-1], TEXTS], REFERENCES)
    assert calls == [1] and list(found) == list(METRICS[metric].kept)
    assert all(column.shape == (3, len(TEXTS)) for column in found.values())
    rows = np.array([column[0] for column in found.values()]).T
    assert text.of_sums(metric, rows) == pytest.approx(rankbench.score(metric, TEXTS, REFERENCES), abs=1e-12)


# Java


@pytest.mark.slow
@pytest.mark.skipif(bool(no_java()), reason=no_java())
def test_meteor_takes_any_text_and_says_so_when_its_program_ends() -> None:
    odd = ["", "a\r\nb ||| c", "||||", "日本 語", "\x00 (", "EVAL ||| 1.0", "a b c"]
    references = [["x"], ["a b", "c"], ["|||"], ["日本 語"], [""], ["y"], ["a b c"]]
    for metric in JAVA:
        assert 0 < rankbench.score(metric, odd, references) < 1
        assert rankbench.score(metric, ["a b c"], [["a b c"]]) == pytest.approx(1)
    process = meteor_java._meteor().process
    process.kill()
    process.wait()
    with pytest.raises(RequestError, match="METEOR's Java program"):
        rankbench.score("meteor_e2e", ["a"], ["a"])


@pytest.mark.slow
@pytest.mark.skipif(bool(no_java()), reason=no_java())
def test_meteors_program_ends_with_the_process() -> None:
    code = "import rankbench; from rankbench.tasks.metrics import meteor_java; "
    code += "rankbench.score('meteor_e2e', ['a'], ['a']); print(meteor_java._meteor().process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not Path(f"/proc/{int(done.stdout)}").exists()
