"""Spans decoded as an independent slow reader decodes them, and scored as SQuAD's scripts score them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REAL_DATA, compose_run
from test_squad_metrics import ORACLES, chance, said

from rankbench.methods import objective
from rankbench.models import backbone
from rankbench.scoring import spans as decoding
from rankbench.scoring.values import of_splits
from rankbench.settings.task import Task
from rankbench.tasks import spans
from rankbench.tasks.encoding import Encoded, collate
from rankbench.tasks.metrics import text
from rankbench.tasks.splits import Split

CONTEXTS = [
    " ".join(f"word{i:02d}" for i in range(40)),
    "short one",
    "  blanks   at\n both  ends  ",
    "日本の首都は東京です。 " * 12,
    "x",
]


class Drawn(torch.nn.Module):
    """A model of random logits that hang on the token, its place and what stands before it, with ties."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        places = torch.arange(input_ids.shape[1])
        mixed = (input_ids * 31 + places * 17 + input_ids.cumsum(1) * 7 + self.seed * 101) % 257
        found = type("Out", (), {})()
        found.start_logits = (mixed % 23).float() / 2 - 3 + (places > 6) * (self.seed % 3)
        found.end_logits = (mixed % 19).float() / 2 - 2
        return found


def task_of(*further: str, v2: bool = False) -> Task:
    small = ("task.max_length=64", "task.doc_stride=16", "task.max_query_length=12", *further)
    return compose_run("model=tiny_bert", f"task={'squad_v2' if v2 else 'squad'}", *small).task


def encoded(task: Task) -> Encoded:
    asked = [f"what {i}?" + " why" * i for i in range(len(CONTEXTS))]
    none = np.full((len(CONTEXTS), 2), -1)
    split = Split("validation", (asked, CONTEXTS), none, np.arange(len(CONTEXTS)), ((),) * len(CONTEXTS))
    return spans.encode(split, task, backbone.byte_tokenizer(), task.max_length)


def ours(data: Encoded, model: Any, batch_size: int) -> dict[str, np.ndarray]:
    assert data.windows is not None
    columns: dict[str, list[np.ndarray]] = {}
    for begin in range(0, len(data.inputs), batch_size):
        rows = np.arange(begin, min(begin + batch_size, len(data.inputs)))
        found, _ = decoding.candidates(model, collate(data.inputs, rows, 0), data.windows.task.n_best_size)
        for name, values in found.items():
            columns.setdefault(name, []).append(values.numpy())
    return decoding.answered(data.windows, {name: np.concatenate(own)[None] for name, own in columns.items()})


def slow(task: Task, question: str, context: str, model: Any) -> tuple[str, float, float]:
    """The answer, its score and the null difference, as BERT's run_squad writes n-best lists, by Python loops."""
    tokenizer = backbone.byte_tokenizer()
    question = question[: task.max_query_length]
    found = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=task.max_length,
        stride=task.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for number, ids in enumerate(found["input_ids"]):
        held = [i for i, part in enumerate(found.sequence_ids(number)) if part == 1]
        first = found["offset_mapping"][number][held[0]]
        windows.append((torch.tensor([ids]), held, found["offset_mapping"][number], first))
    begins, total = [], 0
    for _, held, _, _ in windows:
        begins.append(total)
        total += len(held) - task.doc_stride
    pairs, nulls = [], []
    for number, (ids, held, places, _) in enumerate(windows):
        out = model(ids, torch.ones_like(ids))
        start, end = out.start_logits[0].tolist(), out.end_logits[0].tolist()
        nulls.append(start[0] + end[0])
        best = [sorted(range(len(own)), key=lambda i: (-own[i], i))[: task.n_best_size] for own in (start, end)]
        for s in best[0]:
            for e in best[1]:
                if s not in held or e not in held or e < s or e - s + 1 > task.max_answer_length:
                    continue
                if not context[slice(*places[s])].strip() or not context[slice(*places[e])].strip():
                    continue
                at = begins[number] + held.index(s)
                most = [
                    (min(at - begin, begin + len(own) - 1 - at) + 0.01 * len(own), -other)
                    for other, (begin, (_, own, _, _)) in enumerate(zip(begins, windows, strict=True))
                    if begin <= at < begin + len(own)
                ]
                if -max(most)[1] == number:
                    pairs.append((start[s] + end[e], context[places[s][0] : places[e][1]]))
    score, answer = max(pairs, key=lambda pair: pair[0], default=(0.0, ""))
    difference = min(nulls) - score
    empty = task.version_2_with_negative and difference > task.null_score_diff_threshold
    return "" if empty else answer, score, difference


@pytest.mark.parametrize(
    "further", [[], ["task.n_best_size=3"], ["task.max_answer_length=2"], ["task.n_best_size=200"]]
)
@pytest.mark.parametrize("v2", [False, True])
def test_an_answer_is_that_of_a_slow_reader_over_all_windows(v2: bool, further: list[str]) -> None:
    task = task_of(*further, *(["task.null_score_diff_threshold=-4"] if v2 else []), v2=v2)
    data = encoded(task)
    several = set()
    for seed in range(12):
        found = ours(data, Drawn(seed), batch_size=3)
        for row, context in enumerate(CONTEXTS):
            answer, score, difference = slow(task, f"what {row}?" + " why" * row, context, Drawn(seed))
            assert found["prediction"][0, row] == answer and answer in context, (seed, row)
            assert found["score"][0, row] == pytest.approx(score)
            if v2:
                assert found["null_difference"][0, row] == pytest.approx(difference)
            several.add(answer)
        whole = ours(data, Drawn(seed), batch_size=100)
        assert all((whole[name] == found[name]).all() for name in found)
    assert len(several) > 8 and (not v2 or "" in several)


def test_a_window_part_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(task_of())
    before = ours(data, Drawn(1), 50)
    monkeypatch.setattr(decoding, "PART", 2)
    after = ours(data, Drawn(1), 50)
    assert all((before[name] == after[name]).all() for name in before)


def test_without_a_pair_there_is_no_answer() -> None:
    """All of the best starts are in the question."""
    data = encoded(task_of("task.n_best_size=1"))

    class First(Drawn):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            found = super().forward(input_ids, attention_mask)
            found.start_logits[:, 1] = 99
            return found

    found = ours(data, First(0), 4)
    assert set(found["prediction"][0]) == {""} and not found["score"].any()


def test_padding_changes_no_loss_and_no_candidate() -> None:
    data = encoded(task_of()).inputs
    order = np.argsort(data.lengths)
    together = objective.span_nll(Drawn(3), collate(data, order, 0))
    alone = [objective.span_nll(Drawn(3), collate(data, order[i : i + 1], 0)).item() for i in range(len(order))]
    assert len(set(data.lengths)) > 3 and together.tolist() == pytest.approx(alone)


def test_the_loss_is_transformers_own() -> None:
    """Of windows of one length, which need no padding."""
    from transformers import BertConfig, BertForQuestionAnswering

    data = encoded(task_of()).inputs
    rows = np.flatnonzero(data.lengths == 64)
    data.labels[rows] = [[20 + i, 22 + i] for i in range(len(rows))]
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertForQuestionAnswering(BertConfig(vocab_size=300, **shape)).eval()
    batch = collate(data, rows, 0)
    assert len(rows) > 3
    assert objective.loss(model, batch).item() == pytest.approx(model(**batch).loss.item(), rel=1e-6)
    each, targets = objective.row_losses(model, batch)
    assert each.mean().item() == pytest.approx(model(**batch).loss.item(), rel=1e-6) and targets.sum() == len(rows)


@pytest.mark.skipif(not ORACLES.is_file(), reason="the official values lie beside the repository")
@pytest.mark.parametrize("way", ["gold", "words", "mixed"])
@pytest.mark.parametrize("name", ["squad", "squad_v2"])
def test_a_tasks_scores_are_the_official_scripts(name: str, way: str) -> None:
    v2 = name == "squad_v2"
    split = "validation_v2" if v2 else "validation"
    official = json.loads(ORACLES.read_text())["squad"][f"{split} {way}"]
    rows = [json.loads(line) for line in (REAL_DATA / "squad" / f"{split}.jsonl").read_text().splitlines()]
    task = compose_run("model=tiny_bert", f"task={name}", f"task.data_dir={REAL_DATA / 'squad'}").task
    references = tuple(tuple(row["answers"]["text"]) for row in rows)
    groups = tuple("HasAns" if own else "NoAns" for own in references) if v2 else ()
    empty, n = np.zeros(0, np.int64), np.arange(len(rows))
    data = Encoded("validation", {}, empty, n, n, references=references, groups=groups)
    made = np.array([[said(row, way, place) for place, row in enumerate(rows)]], dtype=object)
    nulls = np.array([[chance(row) for row in rows]])
    columns = {"prediction": made, "null_difference": nulls} | text.columns(task.metrics, made, references)
    found = of_splits([data], {"validation": {key: own[0] for key, own in columns.items()}}, task.metrics)
    if not v2:
        assert found == pytest.approx(
            {"squad_f1": official["f1"] / 100, "squad_exact_match": official["exact_match"] / 100}
        )
        return
    names = {"exact": "squad_v2_exact_match", "f1": "squad_v2_f1"}
    wanted = {
        f"{ours}{end}": official[f"{end[1:]}_{its}".lstrip("_")]
        for its, ours in names.items()
        for end in ("", "_HasAns", "_NoAns")
    }
    wanted |= {
        f"squad_v2_best_{ours.removeprefix('squad_v2_')}": official[f"best_{its}"] for its, ours in names.items()
    }
    wanted = {key: value / 100 for key, value in wanted.items()}
    wanted |= {
        f"squad_v2_best_{ours.removeprefix('squad_v2_')}_thresh": official[f"best_{its}_thresh"]
        for its, ours in names.items()
    }
    assert found == pytest.approx(wanted, abs=1e-11)
    strict = official["with -t 0.5"]  # above it nothing is answered
    cut = np.where(nulls > 0.5, "", made)
    columns = text.columns(["squad_v2_f1", "squad_v2_exact_match"], cut, references)
    assert 100 * columns["squad_v2_f1"].mean() == pytest.approx(strict["f1"], abs=1e-9)
    assert 100 * columns["squad_v2_exact_match"].mean() == pytest.approx(strict["exact"], abs=1e-9)
