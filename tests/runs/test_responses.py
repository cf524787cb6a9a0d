"""Causal-LM tasks: the prompt is read, the response is learnt and scored, by tokens however they are batched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REAL_DATA, Answer, compose_run, write_jsonl
from safetensors.torch import load_file
from tiny import attached

from rankbench.errors import RequestError
from rankbench.methods import objective
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone
from rankbench.runs.life import execute
from rankbench.scoring import evaluation
from rankbench.scoring.evaluation import evaluate
from rankbench.scoring.responses import Responses
from rankbench.settings.metrics import METRICS, normalized
from rankbench.tables import choice
from rankbench.tables.measured import measure
from rankbench.tasks import data
from rankbench.tasks.encoding import IGNORED, Encoded, collate, encode_responses, packed
from rankbench.tasks.metrics import score
from rankbench.training.loop import Plan

DECODERS = ["tiny_llama", "tiny_gpt2", "tiny_falcon"]
TOKENIZER = backbone.byte_tokenizer()


def rows(n: int) -> list[dict[str, Any]]:
    return [
        {"instruction": f"Count to {i}", "input": "" if i % 2 else "loudly", "output": "la " * (1 + i % 5)}
        for i in range(n)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "data" / "train.jsonl", rows(24))
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows(9))
    return tmp_path / "data"


@pytest.fixture
def words(folder: Path, tmp_path: Path) -> list[str]:
    return [
        "model=tiny_llama",
        "task=instruction",
        f"task.data_dir={folder}",
        f"runs_dir={tmp_path / 'runs'}",
        "adapter.r=4",
        "train.max_steps=3",
        "train.batch_size=4",
        "task.max_new_tokens=5",
    ]


@pytest.fixture
def encoded(words: list[str]) -> Encoded:
    return encode_responses(data.load(compose_run(*words).task).train, TOKENIZER, 256)


# Templates


def test_a_row_uses_the_first_template_whose_columns_are_filled(words: list[str]) -> None:
    prompts = data.load(compose_run(*words).task).train.texts[0]
    assert "### Input:\nloudly\n" in prompts[0] and "### Input" not in prompts[1]
    assert prompts[1] == "### Instruction:\nCount to 1\n\n### Response:\n"


def test_numbers_stay_as_they_are_written(words: list[str], folder: Path) -> None:
    """pandas alone would train on 3.0 where a cell beside it is blank, and on 7 for 007."""
    table = "instruction,input,output\nadd one,3,4\nsay,,007\nbig,9007199254740993,1.10\ntrue?,,True\nnone?,,nan\n"
    (folder / "train.jsonl").unlink()
    (folder / "train.csv").write_text(table)
    split = data.load(compose_run(*words).task).train
    assert split.texts[1] == ["4", "007", "1.10", "True", "nan"]
    assert "9007199254740993" in split.texts[0][2] and "### Input:\n3\n" in split.texts[0][0]
    write_jsonl(
        folder / "validation.jsonl",
        [{"instruction": "a", "input": 3, "output": 1905}, {"instruction": "b", "input": None, "output": 3.5}],
    )
    split = data.load(compose_run(*words).task).validation[0]
    assert split.texts[1] == ["1905", "3.5"] and "### Input:\n3\n" in split.texts[0][0]


def test_a_line_that_is_no_object_is_named(words: list[str], folder: Path) -> None:
    with open(folder / "validation.jsonl", "a") as file:
        file.write("\n5\n")
    with pytest.raises(RequestError, match=r"validation.jsonl line 11 is no object"):
        data.load(compose_run(*words).task)


def test_aliases_may_stand_in_a_csv_as_a_list(words: list[str], folder: Path) -> None:
    (folder / "validation.jsonl").unlink()
    (folder / "validation.csv").write_text('instruction,input,output,also\nq,,a,"[""b"", ""c""]"\n')
    write_jsonl(folder / "train.jsonl", [row | {"also": []} for row in rows(4)])
    loaded = data.load(compose_run(*words, "task.aliases_column=also").task)
    assert loaded.validation[0].references == (("a", "b", "c"),) and loaded.train.references[1] == ("la la",)


def test_a_tokenizer_that_begins_with_a_mark_begins_the_prompt_with_it(words: list[str]) -> None:
    split = data.load(compose_run(*words).task).train
    marked = backbone.byte_tokenizer()
    marked.bos_token = "[CLS]"
    with_mark, without = encode_responses(split, marked, 256), encode_responses(split, TOKENIZER, 256)
    assert [ids[0] for ids in with_mark.prompts] == [1] * len(split)
    assert [ids[1:] for ids in with_mark.features["input_ids"]] == without.features["input_ids"]


def test_a_tokenizer_without_an_end_mark_is_refused(words: list[str]) -> None:
    endless = backbone.byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(RequestError, match="has no end mark; set eos_token"):
        encode_responses(data.load(compose_run(*words).task).train, endless, 256)


def test_alpacas_prompts_are_the_published_ones() -> None:
    with_input, without = compose_run("task=alpaca", "model=tiny_llama").task.prompts or []
    assert with_input.format(instruction="I", input="J") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nI\n\n### Input:\nJ\n\n### Response:\n"
    )
    assert without.endswith("### Instruction:\n{instruction}\n\n### Response:\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task.prompts=['{question}']", "no column 'question'.*task.prompts"),
        ("task.response='{answer}'", "no column 'answer'.*task.response"),
        ("task.response=fixed", "names no column"),
        ("task.prompts=['{instruction']", "cannot be read"),
        ("task.prompts=['{instruction.__class__}']", "may name columns only"),
        ("task.prompts=['{0}']", "may name columns only"),
        ("task.response='{output:d}'", "may name columns only"),
        ("task.response='{output!x}'", "may name columns only"),
        ("task.prompts=['{instruction:>1000000000}']", "may name columns only"),
        ("task.metrics=[accuracy]", "accuracy does not score a causal_lm task; use exact_match"),
        ("task.max_new_tokens=0", "at least 1"),
        ("task.aliases_column=output", "not a list of texts"),
        ("model=tiny_bert", "encoder and cannot write a response"),
        ("task.max_length=16", "leaves no room for a response in 16"),
    ],
)
def test_a_wrong_request_is_refused_with_the_mend(words: list[str], change: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        execute(compose_run(*words, change))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "", "input": "x", "output": "y"}, r"row 9 \(from 0\): instruction is empty, so no template"),
        ({"instruction": "a", "input": "", "output": None}, r"row 9 \(from 0\): 'output' is empty; correct or remove"),
        ({"instruction": "a", "input": "", "output": ["b"]}, r"row 9 \(from 0\): 'output' holds \['b'\], not text"),
    ],
)
def test_a_damaged_row_is_named(words: list[str], folder: Path, row: dict[str, Any], message: str) -> None:
    write_jsonl(folder / "validation.jsonl", [*rows(9), row])
    with pytest.raises(RequestError, match=message):
        data.load(compose_run(*words).task)


def test_one_file_is_split_by_its_templates_columns(words: list[str], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "all.jsonl", rows(60))
    task = compose_run(*words, f"task.data_dir={tmp_path / 'all.jsonl'}", "task.validation_fraction=0.3").task
    loaded = data.load(task)
    assert len(loaded.train) + len(loaded.validation[0]) == 60 and len(loaded.validation[0]) > 5


def test_answers_that_the_model_has_no_positions_for_are_refused(words: list[str]) -> None:
    with pytest.raises(RequestError, match=r"are more than the 256 that tiny_llama reads; give task.max_new_tokens="):
        execute(compose_run(*words, "task.metrics=[exact_match]", "task.max_new_tokens=250"))
    assert execute(compose_run(*words, "task.max_new_tokens=250"))["status"] == "done"  # nothing is generated


@pytest.mark.parametrize("positions", [256, 24, 12])
def test_the_speed_of_exits_is_measured_within_the_positions(words: list[str], folder: Path, positions: int) -> None:
    """A task that generates nothing may have prompts that fill the model; a model may have few positions."""
    length = positions - 2
    for split in ("train", "validation"):
        write_jsonl(folder / f"{split}.jsonl", [{"instruction": "a" * length, "input": "", "output": "b"}] * 4)
    words = [word for word in words if not word.startswith(("model=", "adapter."))]
    words += ["model=tiny_gpt2", f"model.random.n_positions={positions}", "adapter=sorted_ft", "adapter.exits=[1,2]"]
    words += ["task.prompts=['{instruction}']", f"task.max_length={positions}", "task.metrics=[loss]"]
    record = execute(compose_run(*words, "train.max_steps=1"))
    assert all(sub["tokens_per_second"] > 0 for sub in record["submodels"])


# The loss


def test_only_the_response_and_its_end_are_targets(encoded: Encoded) -> None:
    for ids, labels, prompt in zip(
        encoded.features["input_ids"], encoded.features["labels"], encoded.prompts, strict=True
    ):
        assert labels[: len(prompt)] == [IGNORED] * len(prompt) and ids[: len(prompt)] == prompt
        assert labels[len(prompt) :] == ids[len(prompt) :] and labels[-1] == TOKENIZER.eos_token_id
    assert encoded.targets.tolist() == [3 * (1 + i % 5) + 1 for i in range(24)]


def test_the_byte_tokenizers_text_comes_back(encoded: Encoded) -> None:
    answer = [label for label in encoded.features["labels"][3] if label != IGNORED]
    assert TOKENIZER.decode(answer, skip_special_tokens=True) == "la la la la "


def test_a_response_cut_at_the_limit_has_no_end_mark(words: list[str], caplog: pytest.LogCaptureFixture) -> None:
    split = data.load(compose_run(*words).task).train
    longest = max(len(prompt) for prompt in encode_responses(split, TOKENIZER, 256).prompts)
    cut = encode_responses(split, TOKENIZER, longest + 2)
    assert max(cut.lengths) == longest + 2
    assert all(
        (ids[-1] == TOKENIZER.eos_token_id) == (length < longest + 2 or ids[-1] == TOKENIZER.eos_token_id)
        for ids, length in zip(cut.features["input_ids"], cut.lengths, strict=True)
    )
    assert any(ids[-1] != TOKENIZER.eos_token_id for ids in cut.features["input_ids"])


@pytest.mark.parametrize("model", DECODERS)
def test_the_loss_is_that_of_transformers_on_the_masked_labels(model: str, encoded: Encoded) -> None:
    tuning = attached(f"model={model}", "task=instruction", num_labels=None)
    batch = collate(encoded, np.arange(6), pad_id=0)
    longest = batch["input_ids"].shape[1]
    labels = torch.full((6, longest), IGNORED)
    for i in range(6):
        row = encoded.features["labels"][i]
        labels[i, : len(row)] = torch.tensor(row)
    assert batch["labels"].shape[1] < longest
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = tuning.model(**inputs, labels=labels).loss
        assert torch.allclose(objective.loss(tuning.model, batch), expected, atol=1e-5)


def test_a_model_that_lets_packed_rows_see_each_other_is_refused(words: list[str]) -> None:
    with pytest.raises(RequestError, match=r"falcon model does not keep packed rows apart.*task.packing=false"):
        execute(compose_run(*words, "model=tiny_falcon", "task.packing=true"))
    assert execute(compose_run(*words, "task.packing=true"))["status"] == "done"


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
def test_packed_rows_do_not_see_each_other(model: str, encoded: Encoded) -> None:
    tuning = attached(f"model={model}", "task=instruction", num_labels=None)
    tight = packed(encoded, 256)
    assert len(tight) < len(encoded) and tight.targets.sum() == encoded.targets.sum()
    assert max(tight.lengths) <= 256

    def total(split: Encoded) -> float:
        with torch.no_grad():
            batches = [collate(split, np.arange(len(split)), pad_id=0)]
            return sum(float(objective.response_nll(tuning.model, batch).sum()) for batch in batches)

    assert total(tight) == pytest.approx(total(encoded), rel=1e-4)


def test_micro_batches_weigh_by_their_tokens(encoded: Encoded) -> None:
    """A step's gradient is that of the mean over all its tokens, whatever the micro-batch."""
    tuning = attached("model=tiny_llama", "task=instruction", num_labels=None)

    def gradient(*overrides: str) -> torch.Tensor:
        settings = compose_run("task=instruction", "task.data_dir=.", "model=tiny_llama", *overrides).train
        plan = Plan(encoded.lengths, settings, 0, encoded.targets)
        tuning.model.zero_grad()
        for chosen, share in plan.micro_batches(0):
            (objective.loss(tuning.model, collate(encoded, chosen, 0)) * share).backward()
        return torch.cat([p.grad.flatten() for p in tuning.trained().values()])

    whole = gradient("train.batch_size=24", "train.group_by_length=false")
    parts = gradient("train.batch_size=5", "train.gradient_accumulation_steps=5", "train.group_by_length=false")
    assert torch.allclose(whole, parts, atol=1e-6) and whole.abs().max() > 1e-3


def test_the_loop_weighs_micro_batches_by_their_tokens(words: list[str], tmp_path: Path) -> None:
    settings = ("train.max_steps=1", "train.optimizer=sgd", "train.learning_rate=1", "train.group_by_length=false")
    whole = compose_run(*words, *settings, "train.batch_size=24", "sampler.ranks=[4]")
    parts = compose_run(
        *words, *settings, "train.batch_size=5", "train.gradient_accumulation_steps=5", "sampler.ranks=[4]"
    )
    one, other = (
        load_file((execute(run), run.folder / "adapter" / "adapter_model.safetensors")[1]) for run in (whole, parts)
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert max(float(value.abs().max()) for name, value in one.items() if "lora_B" in name) > 1e-4


def test_packed_examples_are_counted_each(words: list[str]) -> None:
    found = execute(compose_run(*words, "task.packing=true", "train.max_steps=null", "train.epochs=1"))
    assert found["training"]["examples_per_second"] * found["training"]["seconds"] == pytest.approx(24)


# Scores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Chicago.", "chicago"),
        ("USA's", "usa s"),
        ("an apple, a pear", "apple pear"),
        ("Theatre", "theatre"),
        ("U.–S.–A.", "u –s –"),  # the article is a word of its own beside a dash
        ("“Côte_d'Or”".replace("“", "‘").replace("”", "’"), "côte d or"),
    ],
)
def test_normalisation_is_triviaqas(text: str, expected: str) -> None:
    assert normalized(text) == expected


def test_exact_match_keeps_case_and_takes_any_alias() -> None:
    given = {"prediction": ["Chicago", "chicago", "the Windy City", "Paris"]}
    accepted = (("Chicago", "Windy City"),) * 4
    assert score(["exact_match", "exact_match_normalized"], given, accepted) == {
        "exact_match": 0.25,
        "exact_match_normalized": 0.75,
    }


def test_bleu_takes_every_accepted_text_as_a_reference() -> None:
    given = {"prediction": ["the cat sat on the mat .", "a dog barked at the man"]}
    first, both = (
        (("The cat sat on the mat.",), ("a dog barked",)),
        (("The cat sat on the mat.",), ("x", "a dog barked at the man")),
    )
    one, two = (score(["bleu_sacre"], given, accepted)["bleu_sacre"] for accepted in (first, both))
    expected = (((6 + 6) / 13) * ((5 + 5) / 11) * ((4 + 4) / 9) * ((3 + 3) / 7)) ** (1 / 4)
    assert two == pytest.approx(expected) and one < two


def test_an_empty_answer_is_never_right() -> None:
    assert score(["exact_match_normalized"], {"prediction": [""]}, (("A",),)) == {"exact_match_normalized": 0.0}


def test_perplexity_is_over_tokens_not_rows() -> None:
    columns = {"loss": np.array([2.0, 10.0]), "tokens": np.array([2, 2])}
    found = score(["loss", "perplexity"], columns, ())
    assert found == {"loss": 3.0, "perplexity": pytest.approx(math.exp(3))}


def measured(tuning: Any, split: Encoded, **options: Any) -> list[Any]:
    answers = Responses(5, frozenset({TOKENIZER.eos_token_id}), TOKENIZER.decode)
    members = [Submodel(rank=b) for b in range(1, 9)]
    return evaluate(
        tuning.model, tuning, [split], members, ["loss"], batch_size=4, pad_id=0, responses=answers, **options
    )


def test_answers_come_without_the_space_they_begin_with(encoded: Encoded) -> None:
    tuning = attached("model=tiny_llama", "task=instruction", num_labels=None)
    answers = Responses(2, frozenset(), lambda tokens: f" yes{len(tokens)} \n")
    (found,) = evaluate(
        tuning.model, tuning, [encoded], [Submodel(rank=1)], ["exact_match"], batch_size=4, pad_id=0, responses=answers
    )
    assert set(found.predictions["train"]["prediction"]) == {"yes2"} and list(found.predictions["train"]) == [
        *("prediction", "exact_match")
    ]


def test_any_mark_that_the_models_settings_name_ends_an_answer() -> None:
    run = compose_run("model=tiny_llama", "task=instruction", "task.data_dir=.")
    body = backbone.load(run.model, None, False, 0)
    assert backbone.ends(body) == {TOKENIZER.eos_token_id}
    for named in (9, [7, 9]):
        body.model.generation_config.eos_token_id = named
        assert backbone.ends(body) == {TOKENIZER.eos_token_id, *([named] if isinstance(named, int) else named)}


@pytest.mark.parametrize("model", DECODERS)
def test_the_loss_of_stacked_ranks_is_that_of_each_alone(model: str, encoded: Encoded) -> None:
    tuning = attached(f"model={model}", "task=instruction", num_labels=None)
    alone, together = measured(tuning, encoded, stack_tokens=0), measured(tuning, encoded, stack_tokens=10**9)
    for one, other in zip(alone, together, strict=True):
        assert np.allclose(one.predictions["train"]["loss"], other.predictions["train"]["loss"], atol=1e-4)
    assert len({one.metrics["loss"] for one in alone}) == 8


def test_few_rows_go_together_where_the_vocabulary_is_wide(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:

    tuning = attached("model=tiny_llama", "task=instruction", num_labels=None)
    expected = [score.metrics for score in measured(tuning, encoded)]
    rows = []
    hook = tuning.model.register_forward_pre_hook(
        lambda _, args, named: rows.append(len(named["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(evaluation, "LOGIT_BYTES", 8 * 259 * 2 * int(encoded.lengths.max()))
    found = [score.metrics for score in measured(tuning, encoded)]
    hook.remove()
    assert max(rows) == 2 and [f["loss"] for f in found] == pytest.approx([e["loss"] for e in expected], rel=1e-5)


def test_a_loss_that_is_not_finite_is_an_error(encoded: Encoded) -> None:
    tuning = attached("model=tiny_llama", "task=instruction", num_labels=None)
    with torch.no_grad():
        next(iter(tuning.trained().values())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        measured(tuning, encoded)


# Whole runs


def test_a_run_records_losses_and_answers_of_every_rank(words: list[str]) -> None:
    texts = [name for name, own in METRICS.items() if own.generated and own.kept and not own.java]
    texts.remove("exact_number")
    run = compose_run(*words, f"task.metrics=[{','.join(texts)},distinct_2,loss,perplexity]")
    found = execute(run)
    assert [sub["rank"] for sub in found["submodels"]] == [1, 2, 3, 4]
    frame = pd.read_parquet(run.folder / "predictions.parquet")
    matches = ["exact_match", "exact_match_normalized"]
    kept = [column for name in texts for column in METRICS[name].kept]
    columns = ["rank", "depth", "split", "index", "loss", "tokens", "prediction", *kept, "reference"]
    assert list(frame.columns) == columns
    assert set(frame["reference"]) == {("la " * i).strip() for i in range(1, 6)}
    for sub in found["submodels"]:
        part = frame[frame["rank"] == sub["rank"]]
        again = part["loss"].sum() / part["tokens"].sum()
        assert sub["metrics"]["loss"] == pytest.approx(again, rel=1e-6)
        assert sub["metrics"]["perplexity"] == pytest.approx(math.exp(again), rel=1e-6)
        assert [sub["metrics"][name] for name in matches] == [part[name].mean() for name in matches]
        again = score(
            [*texts, "distinct_2"], {"prediction": part["prediction"]}, [[text] for text in part["reference"]]
        )
        assert {name: sub["metrics"][name] for name in again} == pytest.approx(again, rel=1e-9)
        assert sub["parameters"]["head"] == 0
    for metric in set(found["submodels"][0]["metrics"]) - {"distinct_2"}:
        measure({run.folder: found}, metric)  # which refuses what is kept where it does not give the record's value
    for metric in ("exact_match", "chrf", "loss"):
        assert choice.choose_rank(run.folder, metric)[0]
    with pytest.raises(RequestError, match="distinct_2 is no function of sums over examples"):
        choice.choose_rank(run.folder, "distinct_2")


def test_a_run_without_generated_metrics_generates_nothing(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(evaluation, "generate", None)
    assert execute(compose_run(*words))["status"] == "done"


def test_a_response_is_learnt(words: list[str]) -> None:
    """Twenty-four rows that all answer alike: the loss falls far, and the model says the answer."""
    folder = Path(words[2].split("=", 1)[1])
    same = [{"instruction": f"Say it, {i}", "input": "", "output": "yes"} for i in range(24)]
    for name in ("train", "validation"):
        write_jsonl(folder / f"{name}.jsonl", same)
    settings = ("task.metrics=[exact_match,loss]", "train.max_steps=150", "train.learning_rate=1e-2")
    (whole,) = execute(compose_run(*words, "adapter=full", *settings))["submodels"]
    assert whole["metrics"]["loss"] < 0.5 and whole["metrics"]["exact_match"] == 1.0


def test_the_printed_table_and_curve_leave_a_loss_as_it_is(
    words: list[str], call_main: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = call_main(*words)
    (record,) = (tmp_path / "runs").glob("*/record.json")
    loss = json.loads(record.read_text())["submodels"][0]["metrics"]["loss"]
    assert answer.rc == 0 and f"{loss:.3f}" in answer.out.splitlines()[1].split()
    table = call_main("table", "curve", str(tmp_path / "runs")).out
    assert table.startswith("loss, one seed") and f"{loss:.3f}" in table


# Real data


@pytest.mark.parametrize(("name", "train", "scored"), [("alpaca", 4500, 500), ("triviaqa", 4000, 1000)])
def test_real_instruction_data_is_read_whole(name: str, train: int, scored: int) -> None:
    folder = REAL_DATA / "instruct" / name
    if not folder.is_dir():
        pytest.skip(f"{name}'s files are not beside the repository")
    loaded = data.load(compose_run("model=tiny_llama", f"task={name}", f"task.data_dir={folder}").task)
    assert (len(loaded.train), len(loaded.validation[0])) == (train, scored)
    if name == "triviaqa":
        question, answer = (texts[0] for texts in loaded.train.texts)
        assert question == "Question: In which city were Rotary Clubs set up in 1905?\nAnswer:"
        assert answer == " Chicago" and "Windy City" not in loaded.train.references[0]
        assert loaded.train.references[0][:2] == ("Chicago", "Chicago")
