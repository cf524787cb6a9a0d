"""A rank for each layer: chosen on half of the rows under a budget, scored on the other half, shipped as stock PEFT."""

from __future__ import annotations

import itertools
import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Answer, write_jsonl
from peft import PeftModel
from safetensors.torch import load_file, save_file
from test_export import Done, inputs, train
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rankbench.errors import RequestError
from rankbench.methods import objective
from rankbench.records.finished import finished
from rankbench.shipping import adapter_files, layer_choice, layer_ranks, rank_search
from rankbench.shipping.loading import load

ALL = "adapter.target_modules=all-linear"


@pytest.fixture(scope="module")
def dylora(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A finished DyLoRA over a tiny BERT, shared: read it, do not change it."""
    return train(tmp_path_factory.mktemp("dylora"), "tiny_bert", "task.metrics=[accuracy,f1]")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A finished LoRA over a tiny BERT, of layers that cost unlike, shared: read it, do not change it."""
    return train(tmp_path_factory.mktemp("lora"), "tiny_bert", "adapter=lora", ALL)


@pytest.fixture(autouse=True)
def _own_log() -> None:
    """The shared runs leave a log that writes to the stderr they were made under."""
    log = logging.getLogger("rankbench")
    log.handlers.clear()
    log.propagate = True


def stock(done: Done, folder: Path) -> torch.nn.Module:
    """The exported adapter over its backbone, by PEFT alone."""
    if done.labels is None:
        base = AutoModelForCausalLM.from_pretrained(done.base)
    else:
        base = AutoModelForSequenceClassification.from_pretrained(
            done.base, num_labels=done.labels, ignore_mismatched_sizes=True
        )
    base.config.pad_token_id = AutoTokenizer.from_pretrained(folder).pad_token_id
    return PeftModel.from_pretrained(base, folder).eval()


def answers(done: Done, folder: Path, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The stock model's logits and the labels of these rows of the validation file."""
    lines = (done.base.parent / "data" / "validation.jsonl").read_text().splitlines()
    chosen = [json.loads(lines[row]) for row in rows]
    batch = AutoTokenizer.from_pretrained(folder)([row["text"] for row in chosen], return_tensors="pt", padding=True)
    with torch.no_grad():
        return stock(done, folder)(**batch).logits, torch.tensor([row["label"] for row in chosen])


def asked(done: Done, rank: int, **words: object) -> layer_choice.Choice:
    return layer_ranks.choose(finished(done.folder), rank, **words)  # type: ignore[arg-type]


def command(done: Done, to: Path, *words: str) -> None:
    layer_ranks.main([str(done.folder), "--to", str(to), *words])


# The search


def separable(worth: Sequence[Sequence[float]]) -> rank_search.Loss:
    """A loss to which the components of each layer, in their order, add what they are worth."""
    return lambda ranks: -sum(sum(own[:rank]) for own, rank in zip(worth, ranks, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_the_ranks_never_cost_more_than_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.integers(1, 50, 9).tolist()
    worth = rng.normal(0.3, 1, (9, 8)).tolist()
    for budget in (1, 3, 8):
        grid = rank_search.steps(8, budget)
        found = rank_search.choose(costs, grid, budget * sum(costs), separable(worth))
        assert found.cost == sum(cost * rank for cost, rank in zip(costs, found.ranks, strict=True))
        assert found.cost <= budget * sum(costs) and set(found.ranks) <= set(grid)
        assert found.loss == pytest.approx(separable(worth)(found.ranks))


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_the_best_ranks_where_components_are_worth_less_and_less(seed: int) -> None:
    """As many layers as can be tried out; equal costs and steps of one rank leave no rest."""
    worth = -np.sort(-np.random.default_rng(seed).random((4, 3)), axis=1)
    loss = separable(worth.tolist())
    every = [ranks for ranks in itertools.product(range(4), repeat=4) if sum(ranks) <= 6]
    found = rank_search.choose([1] * 4, range(4), 6, loss)
    assert found.loss == pytest.approx(min(map(loss, every)))


def test_layers_that_are_worth_nothing_pay_for_the_others() -> None:
    worth = [[0.0] * 8 if layer in (1, 4) else [1.0] * 8 for layer in range(6)]
    found = rank_search.choose([5, 9, 5, 5, 1, 5], rank_search.steps(8, 6), 8 * 20, separable(worth))
    assert found.ranks == [8, 0, 8, 8, 0, 8] and found.loss == -32


def test_what_is_left_of_the_budget_is_spent_where_it_helps() -> None:
    """Down from 8 to 4 frees more than was wanted: a layer that gives up less fills the rest."""
    worth = [[1.0] * 8, [0.0] * 4 + [0.1] * 4, [0.1] * 2 + [0.0] * 6]
    found = rank_search.choose([10, 10, 1], [0, 4, 8], 125, separable(worth))
    assert found.ranks == [8, 4, 4] and found.cost == 124
    assert rank_search.choose([10, 10, 1], [0, 4, 8], 125, separable([[1.0] * 8, [0.0] * 8, [0.0] * 8])).ranks[0] == 8


def test_most_candidates_are_asked_for_once_or_twice() -> None:
    worth = -np.sort(-np.random.default_rng(0).random((60, 16)), axis=1)
    found = rank_search.choose([1] * 60, rank_search.steps(16, 4), 240, separable(worth.tolist()))
    taken = 4 * 60  # steps down from 16 to about 2
    assert found.evaluations < 2 * taken, "asking all 60 again for every step would be 60 a step"


def test_a_loss_that_is_no_number_is_never_chosen() -> None:
    def loss(ranks: Sequence[int]) -> float:
        return math.inf if ranks[0] < 4 else -float(sum(ranks))

    assert rank_search.choose([1, 1], rank_search.steps(4, 2), 4, loss).ranks == [4, 0]


def test_a_layer_takes_powers_of_two_the_budget_and_what_was_trained() -> None:
    assert rank_search.steps(8, 3) == [0, 1, 2, 3, 4, 8] and rank_search.steps(6, 1) == [0, 1, 2, 4, 6]
    assert rank_search.steps(8, 3, trained=[1, 3, 8]) == [0, 1, 3, 8] and rank_search.steps(1, 1) == [0, 1]


# The halves


def test_the_halves_share_no_row_and_leave_none_out(dylora: Done) -> None:
    first, second = (half.index.tolist() for half in asked(dylora, 2).halves)
    assert sorted(first + second) == list(range(24)) and len(first) == 12
    again, other = asked(dylora, 2), asked(dylora, 2, seed=1)
    assert again.halves[0].index.tolist() == first != other.halves[0].index.tolist()
    assert again.ranks == asked(dylora, 2).ranks
    few = [half.index.tolist() for half in asked(dylora, 2, examples=7).halves]
    assert list(map(len, few)) == [3, 4] and not set(few[0]) & set(few[1])


def test_the_score_is_that_of_the_second_half_alone(dylora: Done, tmp_path: Path) -> None:
    command(dylora, tmp_path / "out", "--budget", "2")
    choice = asked(dylora, 2)
    scores = {row.metric: row.values["chosen"] for row in choice.scores}

    def measured(rows: np.ndarray) -> tuple[float, float]:
        logits, labels = answers(dylora, tmp_path / "out", rows)
        return float(torch.nn.functional.cross_entropy(logits, labels)), float(
            (logits.argmax(-1) == labels).float().mean()
        )

    first, second = (half.index for half in choice.halves)
    assert (scores["loss"], scores["accuracy"]) == pytest.approx(measured(second), abs=1e-5)
    assert choice.seen[0] == pytest.approx(measured(first)[0], abs=1e-5)
    assert abs(measured(first)[0] - scores["loss"]) > 1e-4


def test_labels_of_the_second_half_change_the_score_and_not_the_choice(dylora: Done, tmp_path: Path) -> None:
    before = asked(dylora, 2)
    data = shutil.copytree(dylora.base.parent / "data", tmp_path / "data")
    rows = [json.loads(line) for line in (data / "validation.jsonl").read_text().splitlines()]
    for row in before.halves[1].index:
        rows[row]["label"] = 1 - rows[row]["label"]
    write_jsonl(data / "validation.jsonl", rows)
    found = finished(dylora.folder)
    found.run.task.data_dir = str(data)
    after = layer_ranks.choose(found, 2)
    assert (after.ranks, after.seen) == (before.ranks, before.seen)
    accuracy, other = (choice.scores[1].values["chosen"] for choice in (before, after))
    assert other == pytest.approx(1 - accuracy)


# The choice


def without_layer(done: Done, folder: Path, part: str) -> Done:
    """A copy of the run in which one layer's adapter adds nothing."""
    shutil.copytree(done.folder, folder)
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    (name,) = (name for name in tensors if part in name and "lora_B" in name)
    save_file(tensors | {name: torch.zeros_like(tensors[name])}, file, {"format": "pt"})
    return Done(done.run, done.base, folder, done.labels)


@pytest.mark.parametrize("method", ["dylora", "lora"])
def test_a_layer_that_adds_nothing_is_left_to_the_backbone(
    method: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a loss that every other cut is sure to raise: the distance from the whole adapter's logits."""
    part = "layer.1.attention.self.value"
    done = without_layer(request.getfixturevalue(method), tmp_path / "run", part)
    whole = load(done.folder)

    def distance(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        words = {key: value for key, value in batch.items() if key != "labels"}
        return (model(**words).logits - whole(**words).logits).square().sum(1), torch.ones(len(batch["labels"]))

    monkeypatch.setattr(objective, "row_losses", distance)
    choice = asked(done, 3)
    (planted,) = (name for name in choice.ranks if part in name)
    alike = [name for name in choice.ranks if "attention.self" in name and name != planted]
    assert choice.ranks[planted] == 0 and all(choice.ranks[name] for name in alike)
    command(done, tmp_path / "out", "--budget", "3")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert set(config["rank_pattern"]) == {
        adapter_files.inside_base(name) for name, rank in choice.ranks.items() if rank
    }
    model = stock(done, tmp_path / "out")
    assert type(model.get_submodule(planted.removesuffix("."))) is torch.nn.Linear
    assert type(model.get_submodule(alike[0].removesuffix("."))) is not torch.nn.Linear


@pytest.mark.parametrize("budget", [1, 2, 4])
def test_the_adapter_has_no_more_parameters_than_one_rank_everywhere(lora: Done, budget: int) -> None:
    choice = asked(lora, budget)
    stored = sum(a.numel() + b.numel() for a, b in choice.adapter.layers().values())
    assert stored == choice.cost <= choice.budget
    whole = adapter_files.read(lora.folder / "adapter").layers().values()
    assert choice.budget == budget * sum(a.shape[1] + b.shape[0] for a, b in whole)
    assert len(set(choice.ranks.values())) > 1 or budget == 4


def test_a_choice_no_better_than_one_rank_everywhere_is_not_made(dylora: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(dylora, 2).seen[0] < asked(dylora, 2).seen[1]
    real = rank_search.choose

    def worse(costs: list[int], grid: list[int], budget: int, loss: rank_search.Loss) -> rank_search.Chosen:
        return real(costs, grid, budget, lambda ranks: -loss(ranks))

    monkeypatch.setattr(rank_search, "choose", lambda *words: rank_search.Chosen(worse(*words).ranks, 99.0, 0, 1))
    choice = asked(dylora, 2)
    assert set(choice.ranks.values()) == {2} and choice.seen[0] == choice.seen[1] and choice.cost == choice.budget
    assert [row.values["chosen"] == row.values["rank 2"] for row in choice.scores] == [True] * 3
    assert all((row.low, row.high) == (0, 0) for row in choice.scores)


def test_one_rank_everywhere_scores_what_its_export_scores(dylora: Done, lora: Done, tmp_path: Path) -> None:
    from rankbench.shipping.export import export

    for done, svd in ((dylora, False), (lora, True), (dylora, True)):
        choice = asked(done, 2, svd=svd)
        for rank in (2, 4):
            folder = tmp_path / f"{done.folder.name}-{rank}-{svd}"
            export(done.folder, folder, rank, svd=svd)
            logits, labels = answers(done, folder, choice.halves[1].index)
            loss = float(torch.nn.functional.cross_entropy(logits, labels))
            assert choice.scores[0].values[f"rank {rank}"] == pytest.approx(loss, abs=1e-5)
        assert ("global" in choice.scores[0].values) == svd and choice.svd == svd


def test_a_plain_lora_is_ordered_by_svd_and_says_so(lora: Done, tmp_path: Path) -> None:
    choice = asked(lora, 2)
    assert choice.svd and "rank 4 was trained alone" in choice.said and "singular values" in choice.said
    command(lora, tmp_path / "out", "--budget", "2")
    assert "closest product of rank b to its whole update (SVD)" in (tmp_path / "out" / "README.md").read_text()


# What is shipped


@pytest.mark.parametrize(
    ("model", "words", "svd"),
    [
        ("tiny_bert", ("adapter=dylora",), False),
        ("tiny_bert", ("adapter=dylora",), True),
        ("tiny_bert", ("adapter=dylora", "adapter.scale=alpha_over_sqrt_b", "adapter.lora_alpha=6"), False),
        ("tiny_bert", ("adapter=dylora", "sampler.ranks=[1,2]", "adapter.scale=alpha_over_r"), False),
        ("tiny_gpt2", ("adapter=dylora",), False),
        ("tiny_llama", ("adapter=lora",), False),
    ],
)
@pytest.mark.slow
def test_stock_peft_gives_the_logits_that_were_measured(
    model: str, words: tuple[str, ...], svd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was chosen: here every rank of the grid in turn, 0 too."""
    done = train(tmp_path, model, *words, ALL)
    rank = 1 if "sampler.ranks=[1,2]" in words else 2
    seen = []
    real = layer_ranks._ways

    def in_turn(costs: list[int], grid: list[int], budget: int, loss: rank_search.Loss) -> rank_search.Chosen:
        return rank_search.Chosen([grid[i % len(grid)] for i in range(len(costs))], -1.0, 0, 1)

    monkeypatch.setattr(rank_search, "choose", in_turn)

    def look(tuning, rank, svd, chosen, costs):  # type: ignore[no-untyped-def]
        from rankbench.shipping import heldout

        for ranks in (chosen, None):
            heldout.hold(tuning, rank, ranks)
            with torch.no_grad():
                seen.append(tuning.model(**inputs()).logits)
        return real(tuning, rank, svd, chosen, costs)

    monkeypatch.setattr(layer_ranks, "_ways", look)
    command(done, tmp_path / "out", "--budget", str(rank), *(["--svd"] if svd else []))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert len(set(config["rank_pattern"].values())) > 1 and config["use_rslora"] is False
    names = {adapter_files.inside_base(name) for name in adapter_files.read(done.folder / "adapter").layers()}
    assert set(config["rank_pattern"]) < names, "the layers of rank 0 are the backbone's"
    with torch.no_grad():
        found = stock(done, tmp_path / "out")(**inputs()).logits
    assert torch.allclose(found, seen[0], atol=1e-5, rtol=1e-5)
    assert (seen[0] - seen[1]).abs().max() > 1e-3, "the ranks by layer differ from one rank everywhere"


def test_merged_it_is_a_whole_model_with_the_adapters_logits(dylora: Done, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    command(dylora, tmp_path / "adapter", "--budget", "2")
    command(dylora, tmp_path / "merged", "--budget", "2", "--merge")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        found, expected = (model(**inputs()).logits for model in (merged, stock(dylora, tmp_path / "adapter")))
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "merged" in card and layer_choice.text(asked(dylora, 2)).strip() in card
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


@pytest.mark.slow
def test_a_quantized_run_is_chosen_from_as_it_was_stored(tmp_path: Path) -> None:
    done = train(tmp_path, "tiny_llama", "adapter=qdylora", "quantization=nf4", "train.precision=fp32")
    command(done, tmp_path / "out", "--budget", "2")
    assert "BitsAndBytesConfig" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_says_what_chose_the_ranks_and_what_they_score(dylora: Done, tmp_path: Path) -> None:
    command(dylora, tmp_path / "out", "--budget", "2")
    card, choice = (tmp_path / "out" / "README.md").read_text(), asked(dylora, 2)
    assert layer_choice.text(choice).strip() in card and "(this one)" not in card
    low, high = min(choice.ranks.values()), max(choice.ranks.values())
    assert f"ranks {low} to {high} of 4, the parameters of rank 2" in card and "s = 16 / b" in card


@pytest.mark.parametrize("model", ["tiny_llama"])
def test_a_language_model_is_chosen_by_the_loss_of_its_responses(tmp_path: Path, model: str) -> None:
    rows = [{"instruction": f"repeat {word}", "input": "", "output": word * 2} for word in ("sun", "moon", "sky") * 8]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "lm" / f"{split}.jsonl", rows)
    words = ("task=instruction", f"task.data_dir={tmp_path / 'lm'}", "task.metrics=[loss,perplexity,exact_match]")
    done = train(tmp_path, model, *words, ALL, "train.max_steps=10", "task.max_new_tokens=8")
    choice = asked(done, 2)
    assert [row.metric for row in choice.scores] == ["loss", "perplexity", "exact_match"]
    loss, perplexity, exact = choice.scores
    for way in ("chosen", "rank 2", "rank 4"):
        assert perplexity.values[way] == pytest.approx(math.exp(loss.values[way]), rel=1e-4)
    between = loss.values["chosen"] - loss.values["rank 2"]
    assert loss.low <= between <= loss.high and loss.low < loss.high
    assert exact.low <= exact.values["chosen"] - exact.values["rank 2"] <= exact.high


def test_a_regression_is_chosen_by_its_squared_error(tmp_path: Path) -> None:
    done = train(tmp_path, "tiny_bert", "task.regression=true", "task.metrics=[pearson]", "train.max_steps=10")
    done = Done(done.run, done.base, done.folder, labels=1)
    command(done, tmp_path / "out", "--budget", "2")
    choice = asked(done, 2)
    values, labels = answers(done, tmp_path / "out", choice.halves[1].index)
    assert choice.scores[0].values["chosen"] == pytest.approx(float(((values[:, 0] - labels) ** 2).mean()), abs=1e-5)


# The command


def test_the_command_fits_the_screen_and_counts_its_evaluations(dylora: Done, call_main: Callable[..., Answer]) -> None:
    said = call_main("layers", str(dylora.folder), "--budget", "2")
    assert said.rc == 0 and max(map(len, said.out.splitlines())) <= 80
    choice = asked(dylora, 2)
    assert f"in {choice.evaluations} evaluations" in " ".join(said.out.split())
    assert f"chosen in {choice.evaluations} evaluations" in said.err
    assert "the same command with --to DIR" in said.out
    assert f"- attention.self.value: {' '.join(str(r) for n, r in choice.ranks.items() if 'value' in n)}" in said.out


def refused(call_main: Callable[..., Answer], *words: str) -> str:
    said = call_main("layers", *words)
    assert said.rc == 2 and 1 <= len(said.said) <= 2 and "Traceback" not in said.err, said.err
    return said.err


@pytest.mark.parametrize("budget", ["0", "-1", "5"])
def test_a_budget_outside_the_ranks_is_refused(dylora: Done, call_main: Callable[..., Answer], budget: str) -> None:
    assert f"--budget {budget} is outside 1 to 4" in refused(call_main, str(dylora.folder), f"--budget={budget}")


def test_a_budget_whose_rank_was_not_trained_is_refused(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    done = train(tmp_path, "tiny_bert", "sampler.ranks=[1,2,4]", "train.max_steps=1")
    assert "none that this run trained (1, 2, 4); choose one of them, or add --svd" in refused(
        call_main, str(done.folder), "--budget", "3"
    )
    assert set(asked(done, 2).ranks.values()) <= {0, 1, 2, 4}
    assert set(asked(done, 3, svd=True).ranks.values()) <= {0, 1, 2, 3, 4}


def test_a_folder_that_holds_files_is_refused_before_the_search(
    dylora: Done, tmp_path: Path, call_main: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.setattr(layer_ranks, "choose", lambda *_: pytest.fail("searched"))
    words = (str(dylora.folder), "--budget", "2", "--to", str(tmp_path))
    assert "holds files; choose another folder" in refused(call_main, *words)


def test_a_run_that_is_not_there_or_not_done_is_refused(
    dylora: Done, tmp_path: Path, call_main: Callable[..., Answer]
) -> None:
    assert "is no folder" in refused(call_main, str(tmp_path / "none"), "--budget", "2")
    shutil.copytree(dylora.folder, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    (tmp_path / "run" / "record.json").write_text(json.dumps(record | {"status": "failed"}))
    assert "is not done (status failed)" in refused(call_main, str(tmp_path / "run"), "--budget", "2")


@pytest.mark.parametrize(
    "words", [("adapter=full",), ("adapter=lora_gated",), ("adapter=sorted_lora", "adapter.exits=[1,2]")]
)
def test_a_run_without_ranks_to_choose_is_refused(
    tmp_path: Path, call_main: Callable[..., Answer], words: tuple[str, ...]
) -> None:
    done = train(tmp_path, "tiny_bert", *words, "train.max_steps=2")
    said = refused(call_main, str(done.folder), "--budget", "2")
    assert "no ranks to choose by layer; give a run of adapter=lora, dylora, dylora_late or qdylora" in said


def test_too_few_examples_are_refused(dylora: Done, call_main: Callable[..., Answer]) -> None:
    said = refused(call_main, str(dylora.folder), "--budget", "2", "--examples", "3")
    assert "--examples 3 must be at least 4" in said


@pytest.mark.parametrize("rows", [1, 3])
def test_too_few_rows_are_refused(dylora: Done, tmp_path: Path, call_main: Callable[..., Answer], rows: int) -> None:
    data = shutil.copytree(dylora.base.parent / "data", tmp_path / "data")
    lines = (data / "validation.jsonl").read_text().splitlines(keepends=True)
    (data / "validation.jsonl").write_text("".join(lines[:rows]))
    words = (str(dylora.folder), "--budget", "2", "--data-dir", str(data))
    said = call_main("layers", *words)
    assert said.rc == 2 and f"validation has too few rows ({rows}) to" in said.err and "give 4 (--data-dir)" in said.err
    assert "is not what the run was scored on" in said.err


def test_other_prompts_that_leave_no_room_to_answer_are_refused(tmp_path: Path) -> None:
    rows = [{"instruction": "short", "input": "", "output": "b"}] * 8
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "lm" / f"{split}.jsonl", rows)
    words = ("task=instruction", f"task.data_dir={tmp_path / 'lm'}", "task.metrics=[exact_match]", "train.max_steps=1")
    found = finished(train(tmp_path, "tiny_gpt2", *words, "task.max_new_tokens=8", "task.max_length=512").folder)
    write_jsonl(tmp_path / "lm" / "validation.jsonl", [{"instruction": "a" * 200, "input": "", "output": "b"}] * 8)
    found.run.task.prompts = ["{instruction}" + " " * 50]
    with pytest.raises(RequestError, match=r"250 tokens and task.max_new_tokens=8 are more than the 256"):
        layer_ranks.choose(found, 2)


def test_data_that_moved_are_asked_for(dylora: Done, tmp_path: Path) -> None:
    found = finished(dylora.folder)
    found.run.task.data_dir = str(tmp_path / "gone")
    with pytest.raises(RequestError, match=r"cannot be read: .*gone does not exist.*or say where: --data-dir"):
        layer_ranks.choose(found, 2)
