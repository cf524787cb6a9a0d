"""The best evaluation's weights are kept and training may stop early: what is best, and that these are its weights."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import compose_run, refused, sample
from tiny import a_run, asked, attached, encoded, state

from rankbench.errors import RequestError
from rankbench.methods.submodel import Submodel
from rankbench.settings.run import Run
from rankbench.training import checkpoints, loop
from rankbench.training.selection import Judge, judge

DATA = encoded(40)
RISING, FALLING = Judge("accuracy", (Submodel(rank=1),)), Judge("loss", (Submodel(rank=1),))
PLAIN = ["train.batch_size=8", "train.max_steps=6", "train.eval_steps=1", "train.keep=best", "train.log_steps=100"]
PLAIN += ["train.learning_rate=0.01"]


def trained(folder, values, *overrides, by=RISING):
    """Train with these values for the evaluations; returns the tuning, what happened, and the weights at each."""
    tuning, run = attached(*PLAIN, *overrides), a_run(*PLAIN, *overrides)
    seen: list[dict[str, torch.Tensor]] = []

    def measure(model):
        seen.append(state(tuning))
        return [{"rank": 1, "depth": None, "metric": by.metric, "value": values[len(seen) - 1]}]

    _, past = loop.train(*asked(run), tuning, DATA, 0, Accelerator(cpu=True), folder, measure, judge=by)
    return tuning, past, seen


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


CASES = {
    "the highest": ([0.1, 0.5, 0.9, 0.3, 0.2, 0.4], RISING, 3),
    "the last": ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], RISING, 6),
    "the earlier of two alike": ([0.1, 0.5, 0.4, 0.5, 0.5, 0.2], RISING, 2),
    "the lowest loss": ([3.0, 2.0, 1.0, 2.0, 1.0, 4.0], FALLING, 3),
    "none that is no number": ([math.nan, 0.2, math.nan, 0.1, math.inf, math.nan], RISING, 2),
    "no loss that is no number": ([math.nan, -math.inf, 2.0, 1.0, math.nan, math.inf], FALLING, 4),
    "a negative correlation": ([-0.5, -0.3, -0.4, -0.6, -0.3, -0.9], Judge("pearson", RISING.members), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_the_best_of_the_evaluations_is_kept(case, tmp_path):
    values, by, step = CASES[case]
    tuning, past, seen = trained(tmp_path, values, by=by)
    assert past.best == {"step": step, "value": values[step - 1]} and past.step == 6 and not past.stopped
    assert same(state(tuning), seen[step - 1])
    assert step == 6 or not same(state(tuning), seen[-1])


def test_without_a_number_among_the_values_the_last_weights_stay(tmp_path):
    tuning, past, seen = trained(tmp_path, [math.nan] * 6)
    assert past.best is None and same(state(tuning), seen[-1])


METHODS = {
    "frozen rows": ["adapter.update=frozen_strict"],
    "turned in order before": ["adapter=dylora_late", "adapter.reorder_at=[0.3]"],
    "turned in order after": ["adapter=dylora_late", "adapter.reorder_at=[0.7]"],
    "turned in order then": ["adapter=dylora_late", "adapter.reorder_at=[0.5]"],
    "all weights": ["adapter=full"],
    "exits": ["adapter=sorted_ft"],
    "ranks and exits": ["adapter=sorted_lora"],
    "4 bits": ["adapter=qdylora", "adapter.r=4"],
}


@pytest.mark.parametrize("method", sample(METHODS, "turned in order after", "all weights", "frozen rows"))
def test_whatever_trains_the_weights_are_those_that_were_measured(method, tmp_path):
    tuning, _, seen = trained(tmp_path, [0.1, 0.5, 0.9, 0.3, 0.2, 0.4], *METHODS[method])
    assert same(state(tuning), seen[2]) and not same(seen[2], seen[5])


@pytest.mark.parametrize("method", ["flop", "lora_gated"])
def test_what_is_not_yet_pruned_is_not_the_best(method, tmp_path):
    """Fewer weights score worse, so an evaluation counts once the sparsity is what was asked for."""
    words = [f"adapter={method}", "adapter.target_sparsity=0.4", "adapter.sparsity_warmup=0.5", "train.max_steps=60"]
    words += ["adapter.gate_learning_rate=0.2", "adapter.lambda_learning_rate=0.3", "adapter.r=8"]
    sparsity = []

    class Looking(list):
        def __getitem__(self, place):
            sparsity.append(float(tuning.sparsity().detach()))
            return 1 - sparsity[-1]

    tuning = attached(*PLAIN, *words)
    values = Looking()

    def measure(model):
        return [{"rank": None, "depth": None, "metric": "accuracy", "value": values[0]}]

    by = Judge("accuracy", tuning.family)
    _, past = loop.train(*asked(tuning.run), tuning, DATA, 0, Accelerator(cpu=True), tmp_path, measure, judge=by)
    there = [step for step, s in enumerate(sparsity, 1) if step >= 30 and s >= 0.38]
    assert there and min(sparsity) < 0.3  # it was less pruned before, and so "better"
    assert past.best["step"] == min(there, key=lambda step: (sparsity[step - 1], step))
    assert float(tuning.sparsity().detach()) == pytest.approx(sparsity[past.best["step"] - 1])


@pytest.mark.parametrize(
    ("values", "patience", "stop"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.9, 0.9], 2, 4),
        ([0.1, 0.5, 0.5, 0.9, 0.2, 0.1], 2, 6),
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], 1, 2),
        ([math.nan, math.nan, math.nan, 0.4, 0.4, 0.4], 3, 3),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6),
    ],
)
@pytest.mark.parametrize("keep", ["last", "best"])
def test_patience_ends_with_the_evaluation_that_is_one_too_many(values, patience, stop, keep, tmp_path):
    tuning, past, seen = trained(tmp_path, values, f"train.patience={patience}", f"train.keep={keep}")
    assert past.step == stop and past.stopped == (stop < 6)
    assert past.losses[-1]["step"] == stop
    kept = past.best["step"] if keep == "best" and past.best else stop
    assert same(state(tuning), seen[kept - 1] if kept <= len(seen) else state(tuning))
    assert (past.kept is None) == (keep == "last" or past.best is None)


def test_the_schedule_is_that_of_all_steps(tmp_path):
    rates = []
    for words in ([], ["train.patience=1"]):
        values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
        _, past, _ = trained(tmp_path / str(len(words)), values, *words, "train.log_steps=1")
        rates.append([entry["learning_rate"] for entry in past.losses])
    assert len(rates[1]) == 2 and rates[1] == rates[0][:2]


def test_the_best_weights_take_bounded_room(tmp_path):
    """Beside the two checkpoints lie the best so far and those that a checkpoint goes on with."""
    most = 0
    before = checkpoints._drop

    def watched(*words):
        nonlocal most
        before(*words)
        most = max(most, len(list(tmp_path.glob("best-*"))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_drop", watched)
        trained(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "train.checkpoint_steps=2")
    assert most == 3 and sorted(place.name for place in tmp_path.glob("best-*")) == ["best-00000004", "best-00000006"]
    assert {file.name for place in tmp_path.glob("*-*") for file in place.iterdir()} == {
        "tensors.safetensors",
        "state.json",
        "manifest.json",
    }


def test_damaged_best_weights_are_named_and_the_same_command_makes_them_anew(tmp_path):
    values = [0.1, 0.5, 0.9, 0.3, 0.2, 0.4]
    _, _, seen = trained(tmp_path / "whole", values)
    folder = tmp_path / "damaged"
    put_back = checkpoints.put_back

    def damage(place, *words):
        (place / "best-00000003" / "tensors.safetensors").write_bytes(b"no longer")
        put_back(place, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "put_back", damage)
        with pytest.raises(checkpoints.DamagedBest, match=r"step 3, the best, are damaged .*same command again"):
            trained(folder, values, "train.checkpoint_steps=2")
    tuning, past, again = trained(folder, values, "train.checkpoint_steps=2")  # both checkpoints went on with them
    assert len(again) == 6
    assert past.best["step"] == 3 and same(state(tuning), seen[2])


def deciding(*words: str) -> Judge:
    run: Run = compose_run("model=tiny_bert", "task=classification", "train.eval_steps=1", "train.keep=best", *words)
    ranks = [Submodel(rank=b) for b in range(1, 5)]
    measured = [m for m in ranks if run.evaluate.measures(m.rank, m.depth)]
    return judge(run.train, run.sampler, "accuracy", measured, ranks)


@pytest.mark.parametrize(
    ("words", "ranks", "said"),
    [
        ([], [1, 2, 3, 4], "accuracy, the mean of 4 sub-models"),
        (["evaluate.submodels=[2,4]"], [2, 4], "accuracy, the mean of 2 sub-models"),
        (["sampler.ranks=[1,4]"], [1, 4], "accuracy, the mean of 2 sub-models"),
        (["train.keep_by=2"], [2], "accuracy of rank 2"),
        (["adapter=lora"], [4], "accuracy of rank 4"),  # its prefixes are measured and do not train
        (["adapter=lora", "evaluate.submodels=[1,2]"], [1, 2], "accuracy, the mean of 2 sub-models"),
        (["adapter=lora", "train.keep_by=2"], [2], "accuracy of rank 2"),
    ],
)
def test_the_mean_is_over_what_trains_and_is_measured(words, ranks, said):
    found = deciding("adapter.r=4", *words)
    assert [member.rank for member in found.members] == ranks and str(found) == said


def test_the_mean_takes_one_metric_of_the_members_alone():
    evaluation = [
        {"rank": rank, "depth": None, "metric": metric, "value": value}
        for rank, metric, value in [(1, "loss", 1.0), (2, "loss", 2.0), (4, "loss", 9.0), (1, "bleu_sacre", 50.0)]
    ]
    assert Judge("loss", (Submodel(rank=1), Submodel(rank=2))).value(evaluation) == 1.5


PAIRS = [Submodel(rank, depth) for depth in (1, 2) for rank in (1, 4)]


@pytest.mark.parametrize(
    ("by", "chosen"), [("2", PAIRS[2:]), ("[4,1]", [Submodel(4, 1)]), ("[1,2]", [Submodel(1, 2)]), ("null", PAIRS)]
)
def test_an_exit_or_a_pair_of_a_rank_and_an_exit_may_decide(by, chosen):
    words = ["model=tiny_llama", "task=instruction", "adapter=sorted_lora", "adapter.r=4"]
    run = compose_run(*words, "train.eval_steps=1", "train.keep=best", f"train.keep_by={by}")
    assert list(judge(run.train, run.sampler, "loss", PAIRS, PAIRS).members) == chosen


@pytest.mark.parametrize("by", ["3", "[4,3]", "[2,1]"])
def test_a_pair_that_is_not_measured_is_refused_by_name(by):
    words = ["model=tiny_llama", "task=instruction", "adapter=sorted_lora", "adapter.r=4"]
    run = compose_run(*words, "train.eval_steps=1", "train.keep=best", f"train.keep_by={by}")
    with pytest.raises(RequestError, match=r"train.keep_by=.* is no sub-model .* exits are 1, 2"):
        judge(run.train, run.sampler, "loss", PAIRS, PAIRS)


def test_a_family_of_one_has_nothing_to_name():
    run = compose_run("model=tiny_bert", "adapter=full", "train.eval_steps=1", "train.keep=best", "train.keep_by=1")
    with pytest.raises(RequestError, match=r"train.keep_by=1 .* one size alone: leave it out"):
        judge(run.train, run.sampler, "accuracy", [Submodel()], [Submodel()])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.keep=best"], ["train.keep=best", "train.eval_steps=100"]),
        (["train.patience=3"], ["train.patience=3", "train.eval_steps=100"]),
        (["train.keep=best", "train.eval_steps=5", "train.patience=0"], ["train.patience=0", "at least 1"]),
        (["train.keep=first"], ["keep", "last"]),
        (["train.load_best_model_at_end=true"], ["did you mean train.keep?"]),
        (["train.early_stopping_patience=3"], ["did you mean train.patience?"]),
        (["train.keep_by=2"], ["train.keep_by=2", "train.keep=best"]),
        (["train.keep_by=2", "train.eval_steps=5"], ["train.keep_by=2", "train.patience"]),
        (["train.keep=best", "train.eval_steps=5", "train.keep_by=9"], ["train.keep_by=9", "1..8"]),
        (["train.keep=best", "train.eval_steps=5", "train.keep_by=0"], ["train.keep_by=0"]),
        (["train.keep=best", "train.eval_steps=5", "train.keep_by=best"], ["train.keep_by=best", "rank"]),
        (["train.keep=best", "train.eval_steps=5", "train.keep_by=true"], ["train.keep_by=True"]),
        (["train.keep=best", "train.eval_steps=5", "train.keep_by=[2,4]"], ["train.keep_by=[2, 4]"]),
        (
            ["train.keep=best", "train.eval_steps=5", "train.keep_by=3", "evaluate.submodels=[1,8]"],
            ["train.keep_by=3", "evaluate.submodels=[1, 8]"],
        ),
    ],
)
def test_what_cannot_decide_is_refused_by_name(words, said):
    answer = refused("model=tiny_bert", "adapter.r=8", *words)
    assert all(part in answer for part in said), answer


def test_the_settings_are_part_of_a_run_and_their_defaults_of_none():
    words = ["model=tiny_bert", "task=sst2"]
    plain, looked = compose_run(*words), compose_run(*words, "train.eval_steps=5")
    assert plain.run_id == looked.run_id == compose_run(*words, "train.keep=last", "train.patience=null").run_id
    own = {
        compose_run(*words, *more).run_id
        for more in (
            ["train.eval_steps=5", "train.keep=best"],
            ["train.eval_steps=6", "train.keep=best"],
            ["train.eval_steps=5", "train.keep=best", "train.keep_by=2"],
            ["train.eval_steps=5", "train.patience=3"],
            ["train.eval_steps=5", "train.patience=4"],
            ["train.eval_steps=5", "train.patience=4", "train.keep=best"],
        )
    }
    assert len(own | {plain.run_id}) == 7


def test_a_checkpoint_of_an_older_rankbench_goes_on(tmp_path):
    trained(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "train.keep=last", "train.checkpoint_steps=3")
    for place in tmp_path.glob("step-*"):
        told = json.loads((place / "state.json").read_text())
        for key in ("best", "without", "stopped", "kept"):
            del told["progression"][key]
        manifest = json.loads((place / "manifest.json").read_text())
        del manifest["best"]
        (place / "state.json").write_text(json.dumps(told))
        manifest["files"]["state.json"] = {
            "size": (place / "state.json").stat().st_size,
            "sha256": checkpoints.sha256(place / "state.json"),
        }
        (place / "manifest.json").write_text(json.dumps(manifest))
    _, past, seen = trained(tmp_path, [], "train.keep=last")
    assert past.step == 6 and seen == [] and np.isfinite(past.losses[-1]["loss"])
