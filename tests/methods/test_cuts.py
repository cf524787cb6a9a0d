"""One finished LoRA cut down in other ways: what each cut is, and that measuring it leaves the run as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_tiny
from peft.tuners.lora.layer import LoraLayer
from tiny import MODELS, a_batch, a_run, attached, encoded

from rankbench import load_runs
from rankbench.errors import RequestError
from rankbench.methods.cuts import cut, spread
from rankbench.methods.peft_model import ADAPTER
from rankbench.methods.submodel import Submodel
from rankbench.runs.life import execute
from rankbench.scoring.evaluation import evaluate
from rankbench.shipping import adapter_files, export
from rankbench.shipping.loading import load
from rankbench.tables import choice, curve

R = 4


def tuned(model: str, adapter: str = "lora", *overrides: str):
    labels = 2 if model == "tiny_bert" else None
    task = [] if labels else ["task=instruction"]
    words = [f"model={model}", *task, f"adapter={adapter}", f"adapter.r={R}", "adapter.target_modules=all-linear"]
    return attached(*words, *overrides, num_labels=labels)


def logits(tuning) -> torch.Tensor:
    batch = a_batch()
    with torch.no_grad():
        return tuning.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def updates(tuning) -> list[torch.Tensor]:
    """s B A of each layer at rank R, as the run has it."""
    scale = tuning.run.adapter.lora_alpha / R
    return [scale * m.lora_B[ADAPTER].weight.detach() @ m.lora_A[ADAPTER].weight.detach() for m in tuning.layers]


def with_updates(tuning, wanted: list[torch.Tensor]) -> torch.Tensor:
    """Logits with these updates added to the frozen weights, the adapter out of the way."""
    bases = [m.get_base_layer() for m in tuning.layers]
    with torch.no_grad():
        for base, update in zip(bases, wanted, strict=True):
            base.weight += update.T if type(base).__name__ == "Conv1D" else update
    kept = [m.lora_B[ADAPTER].weight.detach().clone() for m in tuning.layers]
    for m in tuning.layers:
        m.lora_B[ADAPTER].weight.data.zero_()
    found = logits(tuning)
    with torch.no_grad():
        for base, update, m, b in zip(bases, wanted, tuning.layers, kept, strict=True):
            base.weight -= update.T if type(base).__name__ == "Conv1D" else update
            m.lora_B[ADAPTER].weight.copy_(b)
    return found


def best(update: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, vt = torch.linalg.svd(update.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vt[:rank]).float()


@pytest.mark.parametrize("adapter", ["lora", "dylora"])
@pytest.mark.parametrize("model", MODELS)
def test_the_svd_cut_is_the_closest_product_of_its_rank(model: str, adapter: str) -> None:
    tuning = tuned(model, adapter)
    wanted = updates(tuning)
    expected = {rank: with_updates(tuning, [best(w, rank) for w in wanted]) for rank in (1, 2, R)}
    tuning.activate(tuning.family[-1])
    whole = logits(tuning)
    with cut(tuning, "svd"):
        for rank, found in expected.items():
            tuning.activate(Submodel(rank=rank))
            assert torch.allclose(logits(tuning), found, atol=1e-4)
        assert torch.allclose(logits(tuning), whole, atol=1e-4)
    assert (expected[1] - expected[R]).abs().max() > 1e-3


def test_the_global_cut_keeps_the_largest_singular_values_of_all_layers() -> None:
    tuning = tuned("tiny_bert")
    with torch.no_grad():  # layers that matter more and less
        for i, layer in enumerate(tuning.layers):
            layer.lora_B[ADAPTER].weight *= 1 + i
    wanted = updates(tuning)
    costs = [m.in_features + m.out_features for m in tuning.layers]
    with cut(tuning, "svd_global"):
        for rank in (1, 2, R):
            tuning.activate(Submodel(rank=rank))
            ranks = tuning.by_layer[rank]
            spent = sum(r * cost for r, cost in zip(ranks, costs, strict=True))
            assert tuning.count(Submodel(rank=rank)).adapter == spent <= rank * sum(costs)
            assert rank * sum(costs) - spent < max(costs)
            found = logits(tuning)
            tuning.activate(tuning.family[-1])
            with_own = [best(w, r) for w, r in zip(wanted, ranks, strict=True)]
            tuning.prefix.ranks = dict.fromkeys(tuning.layers, 0)
            assert torch.allclose(with_updates(tuning, with_own), found, atol=1e-4)
        assert tuning.by_layer[R] == [R] * len(costs) and len(set(tuning.by_layer[1])) > 1
        assert not tuning.stacks
    assert tuning.stacks and not tuning.by_layer


def test_a_budget_is_spent_on_the_largest_values_first() -> None:
    values = [torch.tensor([5.0, 4.0, 1.0]), torch.tensor([3.0, 2.0, 0.5])]
    assert spread(values, [1, 1], 1) == [2, 0]
    assert spread(values, [1, 1], 2) == [2, 2]
    assert spread(values, [1, 1], 3) == [3, 3]
    assert spread(values, [3, 1], 1) == [1, 1]  # a second of the first layer costs more than is left


def test_alpha_over_b_is_the_prefix_at_another_scale() -> None:
    tuning = tuned("tiny_bert")
    alpha = tuning.run.adapter.lora_alpha
    layers = [(m.lora_A[ADAPTER].weight.detach(), m.lora_B[ADAPTER].weight.detach()) for m in tuning.layers]
    expected = with_updates(tuning, [alpha / 2 * b[:, :2] @ a[:2] for a, b in layers])
    with cut(tuning, "alpha_over_b"):
        tuning.activate(Submodel(rank=2))
        assert torch.allclose(logits(tuning), expected, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("alpha", [R, 4 * R])
def test_cuts_of_an_rslora_have_their_own_scale_at_rank_r(alpha: int, model: str, batch: int) -> None:
    split = encoded(20, seed=5, name="validation")

    def scores(tuning) -> np.ndarray:
        members = [Submodel(rank=R)]
        settings = {"batch_size": batch, "pad_id": 0, "stack_tokens": 0}
        (found,) = evaluate(tuning.model, tuning, [split], members, ["accuracy"], **settings)
        return found.predictions["validation"]["scores"]

    where = (f"model={model}", "adapter.target_modules=all-linear")
    words = (*where, "adapter=lora", f"adapter.r={R}", f"adapter.lora_alpha={alpha}")
    stabilized = attached(*words, "adapter.scale=alpha_over_sqrt_b")
    whole, plain = scores(stabilized), scores(attached(*words))
    assert abs(whole - plain).max() > 1e-3, "alpha/sqrt(R) is not alpha/R"
    for how, expected in (("svd", whole), ("svd_global", whole), ("alpha_over_b", plain)):
        with cut(stabilized, how):
            assert scores(stabilized) == pytest.approx(expected, abs=1e-5), how
    assert scores(stabilized).tobytes() == whole.tobytes()


@pytest.mark.parametrize("how", ["svd", "svd_global", "alpha_over_b"])
@pytest.mark.parametrize("adapter", ["lora", "dylora"])
def test_after_a_cut_the_run_is_as_it_was(adapter: str, how: str) -> None:
    tuning = tuned("tiny_bert", adapter)
    tuning.activate(Submodel(rank=3))
    weights = {name: value.clone() for name, value in tuning.model.state_dict().items()}
    before = logits(tuning)
    with pytest.raises(KeyError), cut(tuning, how):
        tuning.activate(Submodel(rank=1))
        raise KeyError
    assert tuning.active() == Submodel(rank=3) and torch.equal(logits(tuning), before)
    assert all(torch.equal(value, weights[name]) for name, value in tuning.model.state_dict().items())


def test_stacking_changes_no_cut() -> None:
    tuning, split = tuned("tiny_bert"), encoded(20)

    def scored(budget: int) -> list[list[int]]:
        found = evaluate(
            tuning.model, tuning, [split], tuning.family, ["accuracy"], batch_size=8, pad_id=0, stack_tokens=budget
        )
        return [score.predictions["train"]["prediction"].tolist() for score in found]

    with cut(tuning, "svd"):
        assert scored(0) == scored(10**9)


def test_a_run_measures_its_cuts_at_the_same_ranks(tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "data")
    common = ["model=tiny_bert", "task=classification", f"task.data_dir={data}", "adapter=lora", f"adapter.r={R}"]
    common += ["adapter.target_modules=all-linear", "train.max_steps=8", "train.batch_size=8", f"runs_dir={tmp_path}"]
    common += ["train.learning_rate=5e-2"]
    plain = a_run(*common)
    record = execute(plain)
    assert "cuts" not in record and "cut" not in pd.read_parquet(plain.folder / "predictions.parquet")
    run = a_run(*common, "evaluate.cuts=[svd,svd_global,alpha_over_b]")
    assert run.run_id != plain.run_id
    measured = execute(run)
    assert [s["metrics"] for s in measured["submodels"]] == [s["metrics"] for s in record["submodels"]]
    places = [(row["cut"], row["rank"]) for row in measured["cuts"]]
    assert places == [(how, b) for how in ("svd", "svd_global", "alpha_over_b") for b in range(1, R + 1)]
    for row in measured["cuts"]:
        assert ("ranks_by_layer" in row) == (row["cut"] == "svd_global")
        if row["rank"] == R:
            assert row["metrics"] == measured["submodels"][-1]["metrics"]
    frame = load_runs(run.folder)
    assert list(dict.fromkeys(frame["adapter"])) == ["lora", "lora+svd", "lora+svd_global", "lora+alpha_over_b"]
    columns = ["lora", "lora alpha_over_b", "lora svd", "lora svd_global"]
    assert sorted(curve.curve(run.folder).columns) == columns  # which stands first is by their numbers
    assert len(choice.choose_rank(run.folder)[0][0].frame) == R + 3 * (R - 1)  # a cut to R is rank R itself
    seen = pd.read_parquet(run.folder / "predictions.parquet")
    assert len(seen) == 4 * R * record["submodels"][0]["n"]
    export.export(run.folder, tmp_path / "out", 2, svd=True)
    assert adapter_files.read(tmp_path / "out").rank == 2
    assert any(isinstance(m, LoraLayer) for m in load(run.folder, R).modules())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.cuts=[half]"], r"evaluate.cuts has 'half'; known are svd, svd_global, alpha_over_b"),
        (["adapter=full", "evaluate.cuts=[svd]"], "cut a LoRA down, and adapter=full is none"),
    ],
)
def test_cuts_that_cannot_be_made_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        a_run(*overrides)
