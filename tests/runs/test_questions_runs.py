"""Runs over questions: every rank scored, stacked as one by one, predicted, shipped, compared, and every method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Answer, compose_run, sample, write_jsonl
from made_questions import question, words, write
from peft import PeftModel
from safetensors import safe_open
from test_families import folder
from tiny import randomise
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import rankbench
from rankbench.errors import RequestError
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import export, predict
from rankbench.tasks.metrics import squad


@pytest.fixture(scope="module")
def v2(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of SQuAD 2.0 over a folder of weights."""
    root = tmp_path_factory.mktemp("v2")
    base = folder(root / "base", "bert")
    given = words(write(root / "data", v2=True), root / "runs", v2=True)
    run = compose_run(*given[1:], "model=auto", f"model.path={base}", "task.null_score_diff_threshold=-0.3")
    execute(run)
    return run


def kept(run: Run, rank: int | None = None) -> pd.DataFrame:
    frame = pd.read_parquet(run.folder / "predictions.parquet")
    return (frame if rank is None else frame[frame["rank"] == rank]).sort_values("index").reset_index()


def validation(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(str(run.task.data_dir)) / "validation.jsonl").read_text().splitlines()]


def test_the_command_line_trains_and_scores_every_rank(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    given = words(write(tmp_path / "data"), tmp_path / "runs")
    answer = call_main(*given)
    assert answer.rc == 0, answer.err
    assert "12 questions, in " in answer.err and "squad_f1" in answer.out + answer.err
    run = compose_run(*given)
    record = json.loads((run.folder / "record.json").read_text())
    assert [sub["rank"] for sub in record["submodels"]] == [1, 2, 3]
    assert record["data"]["splits"]["train"]["rows"] == 12 < record["data"]["splits"]["train"]["windows"]
    frame, rows = kept(run), validation(run)
    assert len(frame) == 3 * len(rows) == 3 * record["submodels"][0]["n"]
    for sub in record["submodels"]:
        own = kept(run, sub["rank"])
        answers = [row["answers"]["text"] for row in rows]
        for name, how in (("squad_f1", squad.f1), ("squad_exact_match", squad.exact)):
            each = squad.of_rows(own["prediction"].tolist(), answers, how, v2=False)
            assert own[name].tolist() == pytest.approx(each.tolist())
            assert sub["metrics"][name] == pytest.approx(each.mean())
            assert rankbench.score(name, own["prediction"].tolist(), answers) == pytest.approx(100 * each.mean())
        assert all(said and said in row["context"] for said, row in zip(own["prediction"], rows, strict=True))
    again = call_main(*given)
    assert again.rc == 0 and "done" in again.err + again.out


def test_predict_says_what_the_record_keeps_row_by_row(v2: Run, tmp_path: Path) -> None:
    """One rank by itself, where the run stacked them; of questions without answers, too."""
    rows = validation(v2)
    new = write_jsonl(tmp_path / "new.jsonl", [{k: row[k] for k in ("context", "question")} for row in rows])
    said = set()
    for rank in (1, 2, 3):
        out = tmp_path / f"{rank}.jsonl"
        predict.main([str(v2.folder), "--data", str(new), "--rank", str(rank), "--to", str(out), "--batch-size", "2"])
        found = [json.loads(line) for line in out.read_text().splitlines()]
        own = kept(v2, rank)
        assert [row["prediction"] for row in found] == own["prediction"].tolist()
        for name in ("score", "null_difference"):
            assert [row[name] for row in found] == pytest.approx(own[name].tolist(), abs=1e-4)
        said |= set(own["prediction"])
        empty = own["null_difference"] > -0.3
        assert (own["prediction"] == "").tolist() == empty.tolist()
    assert "" in said and len(said) > 2
    pairs = [(row["question"], row["context"]) for row in rows]
    model = rankbench.load(v2.folder, rank=2)
    assert model.predict(pairs) == kept(v2, 2)["prediction"].tolist()
    text, scores = model.predict(pairs[:1], scores=True)[0]
    assert text == kept(v2, 2)["prediction"][0] and set(scores) == {"score", "null_difference"}
    with pytest.raises(RequestError, match=r"the task has 2 columns \(question, context\)"):
        model.predict(["Where?"])


def test_predict_shows_answers_and_takes_the_runs_own_split(v2: Run, capsys: pytest.CaptureFixture[str]) -> None:
    predict.main([str(v2.folder), "--split", "validation"])
    shown = capsys.readouterr().out
    assert "question |" in shown and "score |" in shown and "Where does Zoe live?" in shown


def test_scores_of_version_2_are_those_of_its_script(v2: Run) -> None:
    record = json.loads((v2.folder / "record.json").read_text())
    answers = [row["answers"]["text"] for row in validation(v2)]
    answered = np.array([bool(own) for own in answers])
    for sub in record["submodels"]:
        own = kept(v2, sub["rank"])
        raw = squad.of_rows(own["prediction"].tolist(), answers, squad.f1_v2, v2=True)
        best, at = squad.best_threshold(raw, own["prediction"].tolist(), answered, own["null_difference"].to_numpy())
        expected = {
            "squad_v2_f1": raw.mean(),
            "squad_v2_f1_HasAns": raw[answered].mean(),
            "squad_v2_f1_NoAns": raw[~answered].mean(),
            "squad_v2_best_f1": best,
            "squad_v2_best_f1_thresh": at,
        }
        assert {name: sub["metrics"][name] for name in expected} == pytest.approx(expected)
        assert "squad_v2_best_f1_HasAns" not in sub["metrics"]
    assert record["data"]["splits"]["validation"]["groups"] == {"HasAns": 4, "NoAns": 2}


@pytest.mark.parametrize("metric", ["squad_v2_f1", "squad_v2_exact_match_NoAns"])
def test_ranks_are_compared_over_questions(v2: Run, metric: str) -> None:
    made = rankbench.choose_rank(v2.folder, metric)
    assert made.metric == metric
    assert "squad" in rankbench.table("curve", v2.folder).text("md")
    with pytest.raises(RequestError, match="its noise is not known"):
        rankbench.choose_rank(v2.folder, "squad_v2_best_f1")


def test_the_pages_and_the_plan_take_it(v2: Run, tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    page = tmp_path / "page.html"
    for name in ("choose_rank", "nlg", "leaderboard", "lora_search_vs_dylora"):
        answer = call_main("table", name, str(v2.folder), "--format", "html", "--to", str(page))
        assert answer.rc == 0 and "squad_v2" in page.read_text(), (name, answer.err)
    assert "a task of answers in a context, which has no classes" in call_main("table", "classes", str(v2.folder)).err
    given = words(Path(str(v2.task.data_dir)), tmp_path / "runs", v2=True)
    planned = call_main("plan", *given, "train.max_steps=null", "train.epochs=2")
    assert planned.rc == 0 and "at least 4 (2 epochs of 2; 12 questions, in windows)" in planned.out, planned.out


def stock_logits(model: Any, tokenizer: Any, row: dict[str, Any]) -> torch.Tensor:
    batch = tokenizer(row["question"], row["context"], return_tensors="pt", truncation="only_second", max_length=96)
    with torch.no_grad():
        out = model.eval()(**batch)
    return torch.stack([out.start_logits, out.end_logits])


@pytest.mark.parametrize("how", ["adapter", "merged"])
def test_stock_peft_gives_an_exports_logits(how: str, v2: Run, tmp_path: Path) -> None:
    base, to = str(v2.model.path), tmp_path / "out"
    export.export(v2.folder, to, 2, merge=how == "merged")
    tokenizer = AutoTokenizer.from_pretrained(to)
    assert "token_type_ids" not in tokenizer("a", "b")
    model = AutoModelForQuestionAnswering.from_pretrained(base if how == "adapter" else to)
    if how == "adapter":
        config = json.loads((to / "adapter_config.json").read_text())
        assert config["task_type"] == "QUESTION_ANS" and config["modules_to_save"] == ["qa_outputs"]
        with safe_open(to / "adapter_model.safetensors", "pt") as stored:
            heads = [name for name in stored.keys() if "lora_" not in name]  # noqa: SIM118
        assert sorted(heads) == [f"base_model.model.qa_outputs.{part}" for part in ("bias", "weight")]
        model = PeftModel.from_pretrained(model, to)
    ours = rankbench.load(v2.folder, rank=2)
    for row in validation(v2):
        assert torch.allclose(stock_logits(model, tokenizer, row), stock_logits(ours, tokenizer, row), atol=1e-5)
    pairs = [(row["question"], row["context"]) for row in validation(v2)]
    assert rankbench.load(to).predict(pairs) == kept(v2, 2)["prediction"].tolist()
    card = (to / "README.md").read_text()
    assert "pipeline_tag: question-answering" in card and "AutoModelForQuestionAnswering" in card
    assert "stride=24" in card and "squad_v2_f1 x 100" in card.replace("\\", "")


METHODS: dict[str, list[str]] = {
    "lora": ["adapter=lora"],
    "frozen": ["adapter=dylora", "adapter.update=frozen_grad"],
    "late": ["adapter=dylora_late"],
    "cuts": ["adapter=lora", "evaluate.cuts=[svd,svd_global]"],
    "full": ["adapter=full"],
    "head": ["adapter=head"],
    "exits": ["adapter=sorted_ft", "adapter.exits=[1,2]", "adapter.trainable=all"],
    "ranks and exits": ["adapter=sorted_lora", "adapter.exits=[1,2]"],
    "heads of exits": ["adapter=early_exit", "adapter.exits=[1,2]"],
    "flop": ["adapter=flop"],
    "gates": ["adapter=lora_gated"],
    "nf4": ["adapter=qdylora", "quantization=nf4"],
    "int8": ["adapter=dylora", "arithmetic=int8"],
    "ranks by row": ["adapter=dylora", "sampler.per_row=true", "train.gradient_accumulation_steps=2"],
    "best kept": ["adapter=dylora", "train.keep=best", "train.eval_steps=2", "task.max_eval_examples=4"],
    "llama's exits": ["model=tiny_llama", "adapter=sorted_ft", "adapter.exits=[1,2]"],
}


@pytest.mark.parametrize("name", sample(METHODS, "ranks and exits", "heads of exits"))
def test_every_method_learns_scores_and_predicts(name: str, tmp_path: Path) -> None:
    given = words(write(tmp_path / "data"), tmp_path / "runs")
    run = compose_run(*given, "adapter.r=3", *METHODS[name])
    record = execute(run)
    curve = [entry["loss"] for entry in record["training"]["loss_curve"]]
    assert record["status"] == "done" and np.isfinite(curve).all()
    frame, rows = kept(run), validation(run)
    frame = frame[frame["cut"].isna()] if "cut" in frame else frame
    pairs = [(row["question"], row["context"]) for row in rows]
    for sub in record["submodels"]:
        own = frame[frame["rank"].eq(sub["rank"]) if sub["rank"] else frame["rank"].isna()]
        own = own[own["depth"].eq(sub["depth"]) if sub["depth"] else own["depth"].isna()].sort_values("index")
        assert len(own) == sub["n"]
        if sub["rank"] in (None, record["submodels"][-1]["rank"]):
            found = rankbench.load(run.folder, sub["rank"], sub["depth"]).predict(pairs, scores=True)[: sub["n"]]
            assert [text for text, _ in found] == own["prediction"].tolist(), sub
            assert [scores["score"] for _, scores in found] == pytest.approx(own["score"].tolist(), abs=1e-3)


def test_two_exits_share_a_forward_and_have_the_gradient_of_each(tmp_path: Path) -> None:
    """Of the mean of the exits' losses, each the model's own at that depth (Sorted LLaMA Eq. 1)."""
    from rankbench import methods
    from rankbench.methods import objective
    from rankbench.models import backbone
    from rankbench.tasks import data, spans
    from rankbench.tasks.encoding import collate

    run = compose_run(*words(write(tmp_path / "data"), tmp_path), "adapter=sorted_ft", "adapter.exits=[1,2]")
    body = backbone.load(run.model, 2, False, 0, extracts=True)
    tuning = methods.attach(run, body.model)
    tuning.model.eval()
    rows = spans.encode(data.load(run.task).train, run.task, body.tokenizer, 96).inputs
    batch = collate(rows, np.arange(4), 0)
    drawn = [(member, 0.5) for member in tuning.family]
    total = tuning.accumulate(tuning.model, batch, drawn, torch.Tensor.backward)
    shared = {name: p.grad.clone() for name, p in tuning.trained().items() if p.grad is not None}
    tuning.model.zero_grad()
    alone = torch.zeros(())
    for member, weight in drawn:
        tuning.activate(member)
        loss = objective.loss(tuning.model, batch) * weight
        loss.backward()
        alone += loss.detach()
    assert total.item() == pytest.approx(alone.item(), rel=1e-6) and "qa_outputs.weight" in shared
    for name, parameter in tuning.trained().items():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, shared[name], atol=1e-6), name


def test_ranks_stacked_in_one_forward_answer_as_one_by_one(tmp_path: Path) -> None:
    from rankbench import methods
    from rankbench.models import backbone
    from rankbench.scoring.evaluation import evaluate
    from rankbench.tasks import data, spans

    run = compose_run(*words(write(tmp_path / "data", v2=True), tmp_path, v2=True))
    body = backbone.load(run.model, 2, False, 0, extracts=True)
    tuning = methods.attach(run, body.model)
    randomise(tuning.model)
    split = spans.encode(data.load(run.task).validation[0], run.task, body.tokenizer, 96)
    found = {}
    for most in (0, 10**6):
        names, how = run.task.metrics, {"batch_size": 4, "pad_id": 0, "stack_tokens": most}
        found[most] = evaluate(tuning.model, tuning, [split], tuning.family, names, **how)
    said = set()
    for alone, together in zip(*found.values(), strict=True):
        one, other = (score.predictions["validation"] for score in (alone, together))
        assert one["prediction"].tolist() == other["prediction"].tolist()
        for name in ("score", "null_difference"):
            assert other[name].tolist() == pytest.approx(one[name].tolist(), abs=1e-4)
        assert alone.metrics == pytest.approx(together.metrics, abs=1e-4)
        said.add(tuple(one["score"].tolist()))
    assert len(said) == 3


@pytest.mark.slow
def test_the_ranks_of_layers_are_chosen_by_the_loss_of_questions(tmp_path: Path) -> None:
    from rankbench.shipping import layer_ranks

    run = compose_run(*words(write(tmp_path / "data", scored=24), tmp_path / "runs"))
    execute(run)
    layer_ranks.main([str(run.folder), "--budget", "2", "--to", str(tmp_path / "layers")])
    assert (tmp_path / "layers" / "adapter_config.json").is_file()


def test_real_questions_and_contexts_longer_than_a_window(tmp_path: Path) -> None:
    """A question without an answer is learnt, and a long one is cut."""
    rows = [question(0, long=True), question(1, answered=False), question(2) | {"question": "Why? " * 40}]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
    run = compose_run(*words(tmp_path / "data", tmp_path / "runs", v2=True))
    record = execute(run)
    assert record["data"]["splits"]["train"]["cut"] == 1 and record["submodels"][0]["n"] == 3
    assert "1 without an answer" in (run.folder / "run.log").read_text()
