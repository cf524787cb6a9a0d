"""Pruning by gates: the arithmetic of the gates, the slice that training leaves, and what is written of it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl, write_tiny
from peft import PeftModel
from test_resume_exact import Killed, dies_at
from tiny import MODELS, a_batch, a_run, encoded, logits
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

import rankbench
from rankbench import methods
from rankbench.errors import RequestError
from rankbench.forecast import step_memory
from rankbench.methods.factors import Gated, factorise, multiply_out
from rankbench.methods.flop import Flop, GatedLora
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone
from rankbench.runs import work
from rankbench.runs.life import execute
from rankbench.scoring.evaluation import evaluate
from rankbench.shipping.export import export
from rankbench.tasks.encoding import IGNORED
from rankbench.training import loop

METHODS = ["flop", "lora_gated"]
DRAWS = 20_000


@pytest.fixture(scope="module", autouse=True)
def _without_forecast() -> Any:
    """A run's forecast takes longer than these runs; it has a test of its own below."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_forecast", lambda run: None)
        yield


def gates(tuning: methods.FineTuning) -> dict[str, Gated]:
    return {name: module for name, module in tuning.model.named_modules() if isinstance(module, Gated)}


def spread(tuning: methods.FineTuning, seed: int = 0) -> None:
    """Give gates and matrices values as if trained: all gates alike would hide which of them are kept."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tuning.model.named_parameters():
        if name.endswith("log_alpha"):
            parameter.data = 3 * torch.randn(parameter.shape, generator=generator)
        elif "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


def attached(model: str, method: str, *overrides: str, num_labels: int | None = 2) -> methods.FineTuning:
    run = a_run(f"model={model}", f"adapter={method}", *overrides)
    tuning = methods.attach(run, backbone.load(run.model, num_labels, False, run.seed).model)
    spread(tuning)
    tuning.model.eval()
    return tuning


# The gates


@pytest.fixture
def gate() -> Gated:
    made = Gated(torch.eye(9))
    made.log_alpha.data = torch.linspace(-5, 6, 9)
    return made


def test_the_expected_gates_are_those_of_a_monte_carlo_estimate(gate: Gated) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.stack([gate.draw() for _ in range(DRAWS)])
    opened = (drawn > 0).sum(1).float()
    assert abs(opened.mean() - gate.expected()) < 3 * opened.std() / math.sqrt(DRAWS)
    assert ((drawn.mean(0) - gate.mean()).abs() < 4 * drawn.std(0) / math.sqrt(DRAWS) + 1e-3).all()
    assert (drawn == 0).any() and (drawn == 1).any() and drawn.min() >= 0 and drawn.max() <= 1


def test_the_probability_of_an_open_gate_has_the_published_form(gate: Gated) -> None:
    assert torch.allclose(gate.expected(), torch.sigmoid(gate.log_alpha + math.log(1.1 / 0.1)).sum())


def test_the_kept_gates_are_the_likeliest_and_as_many_as_expected(gate: Gated) -> None:
    gate.log_alpha.data = gate.log_alpha[torch.tensor([3, 8, 0, 5, 1, 7, 2, 6, 4])]
    count = round(gate.expected().item())
    assert 0 < count < 9 and (gate.mask() > 0).sum() == count
    assert gate.log_alpha[gate.mask() > 0].min() > gate.log_alpha[gate.mask() == 0].max()
    assert torch.equal(gate.eval()(torch.eye(9)).diagonal(), gate.mask())


def test_a_forward_draws_in_training_by_the_steps_seed_alone(gate: Gated) -> None:
    x = torch.ones(2, 9)
    torch.manual_seed(5)
    first, second = gate(x), gate(x)
    torch.manual_seed(5)
    assert torch.equal(gate(x), first) and not torch.equal(first, second)
    assert torch.equal(first[0], first[1])  # one z for all rows of a batch
    before = torch.get_rng_state()
    gate.eval()(x)
    assert torch.equal(torch.get_rng_state(), before)


# The factors


@pytest.mark.parametrize("layer", [torch.nn.Linear(24, 16), Conv1D(16, 24)], ids=["Linear", "Conv1D"])
def test_the_svd_start_is_the_weight_at_full_rank_and_the_nearest_below(layer: torch.nn.Module) -> None:
    weight = layer.weight.detach().T if isinstance(layer, Conv1D) else layer.weight.detach()
    values = torch.linalg.svdvals(weight)
    for k in (16, 5):
        made, error = factorise(layer, k)
        product = (made.p.weight @ made.q.weight).detach()
        assert (weight - product).norm() == pytest.approx(values[k:].norm().item(), abs=1e-5)
        assert error == pytest.approx((values[k:].norm() / values.norm()).item(), abs=1e-6)
        assert made.p.weight.norm().item() == pytest.approx(made.q.weight.norm().item(), rel=1e-4)  # shared evenly
    x = torch.randn(3, 24)
    whole, _ = factorise(layer, 16)
    assert isinstance(whole.multiplied(), type(layer))
    assert torch.allclose(whole.multiplied()(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_with_all_gates_open_a_lossless_start_is_the_backbone(model: str) -> None:
    tuning = attached(model, "flop", "adapter.r=1000")
    for gate in gates(tuning).values():
        gate.log_alpha.data.fill_(30.0)
    run, batch = a_run(f"model={model}"), a_batch()
    with torch.no_grad():
        plain = backbone.load(run.model, 2, False, run.seed).model.eval()(**batch).logits
    assert torch.allclose(logits(tuning, batch), plain, atol=1e-5)


def test_a_layer_begins_at_break_even_at_the_rank_given_or_at_its_width() -> None:
    sizes = {}
    for r in ("0", "20", "1000"):
        tuning = attached("tiny_bert", "flop", f"adapter.r={r}")
        sizes[r] = {
            name.split("layer.0.")[1]: gate.out_features for name, gate in gates(tuning).items() if "r.0" in name
        }
    up = "intermediate.dense.q"  # 32 x 64
    assert (sizes["0"][up], sizes["20"][up], sizes["1000"][up]) == (32 * 64 // 96, 20, 32)
    assert sizes["0"]["attention.self.query.q"] == 16


def test_a_lossy_start_is_said(caplog: pytest.LogCaptureFixture) -> None:
    attached("tiny_bert", "flop", "adapter.r=1000")
    assert not caplog.records
    attached("tiny_bert", "flop")
    assert "Frobenius" in caplog.text and "adapter.r" in caplog.text


# The slice


def inputs() -> dict[str, torch.Tensor]:
    batch = a_batch()
    del batch["labels"]
    return batch


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_the_slice_is_the_masked_model_with_the_parameters_of_the_formula(model: str, method: str) -> None:
    tuning = attached(model, method)
    masked = logits(tuning, inputs())
    expected = dict(zip(tuning.factors, (round(g.expected().item()) for g in gates(tuning).values()), strict=True))
    before, old = tuning.count(tuning.active()), tuning.prunable
    report: Any = tuning.finish()
    assert not gates(tuning)
    assert torch.allclose(logits(tuning, inputs()), masked, atol=1e-5)
    ranks = [layer["rank"] for layer in report["layers"].values()]
    assert ranks == list(expected.values()) and len(set(ranks)) > 1

    found = tuning.count(tuning.active())
    body = backbone.load(a_run(f"model={model}").model, 2, False, 0).model
    shapes = {name: body.get_submodule(name.removeprefix("base_model.model.")).weight.shape for name in expected}
    assert report["parameters"] == sum(k * sum(shapes[name]) for name, k in expected.items())
    assert old == sum(layer["r"] * sum(shapes[name]) for name, layer in report["layers"].items())
    assert before.total - found.total == old - report["parameters"] > 0
    still = {id(p): p for name, p in tuning.model.named_parameters() if "original_module" not in name}
    assert found.total == sum(p.numel() for p in still.values())
    assert found.trainable == sum(p.numel() for p in still.values() if p.requires_grad)


def test_a_layer_of_the_model_may_lose_every_component() -> None:
    tuning = attached("tiny_bert", "flop")
    next(iter(gates(tuning).values())).log_alpha.data.fill_(-30.0)
    masked = logits(tuning, inputs())
    report: Any = tuning.finish()
    assert next(iter(report["layers"].values()))["rank"] == 0
    assert torch.allclose(logits(tuning, inputs()), masked, atol=1e-5)


def test_something_of_a_lora_is_left_even_where_every_gate_is_shut(tmp_path: Path) -> None:
    tuning = attached("tiny_bert", "lora_gated")
    for i, gate in enumerate(gates(tuning).values()):
        gate.log_alpha.data.fill_(-20.0 - (i != 2))
    report: Any = tuning.finish()
    assert [layer["rank"] for layer in report["layers"].values()] == [0, 0, 1, 0]
    tuning.save(tmp_path)


# Training


def words(tmp_path: Path, method: str, *overrides: str) -> list[str]:
    data = tmp_path / "data"
    if not data.exists():
        write_tiny(data)
    common = ["task=classification", f"task.data_dir={data}", f"adapter={method}", f"runs_dir={tmp_path / 'runs'}"]
    return [*common, "train.max_steps=12", "train.batch_size=8", "train.log_steps=1", *overrides]


@pytest.mark.parametrize("method", METHODS)
def test_the_multipliers_ascend_and_the_sparsity_comes_to_the_target(method: str, tmp_path: Path) -> None:
    rates = ("adapter.gate_learning_rate=0.2", "adapter.lambda_learning_rate=0.3", "adapter.target_sparsity=0.4")
    run = a_run(*words(tmp_path, method, "train.max_steps=80", *rates))
    record = execute(run)
    curve = record["training"]["loss_curve"]
    assert curve[0]["sparsity"] < 0.01
    assert curve[9]["lambda_1"] < curve[0]["lambda_1"] < 0  # below the target the gap is negative: up is downwards
    squared = [entry["lambda_2"] for entry in curve]
    assert squared == sorted(squared) and squared[-1] > squared[0] > 0
    pruning = record["pruning"]
    assert pruning["expected_sparsity"] == pytest.approx(0.4, abs=0.04)
    half = 0.5 / min(layer["r"] for layer in pruning["layers"].values())  # each layer rounds to a whole rank
    assert pruning["sparsity"] == pytest.approx(pruning["expected_sparsity"], abs=half)
    left = {name: layer["rank"] for name, layer in pruning["layers"].items()}
    note = json.loads((run.folder / "adapter" / "rankbench.json").read_text())
    assert note["ranks"] == {name: rank for name, rank in left.items() if rank or method == "flop"}
    assert "sparsity" in (run.folder / "metrics.csv").read_text()


def test_the_penalty_pushes_gates_down_the_gap_and_multipliers_up_it() -> None:
    tuning = attached("tiny_bert", "lora_gated", "adapter.target_sparsity=0.9", "adapter.sparsity_warmup=0.5")
    tuning.multipliers.data = torch.tensor([2.0, 3.0])
    gap = tuning.sparsity().item() - 0.9 * 5 / 50  # the fifth of a hundred steps, half of which warm up
    value = tuning.penalty(4, 100)
    assert value.item() == pytest.approx(2 * gap + 3 * gap**2, rel=1e-5)
    value.backward()
    assert torch.allclose(tuning.multipliers.grad, torch.tensor([-gap, -(gap**2)]))
    gate = next(iter(gates(tuning).values()))
    open_ = torch.sigmoid(gate.log_alpha + math.log(11)).detach()
    slope = -(2 + 6 * gap) * open_ * (1 - open_) * 64 / tuning.prunable
    assert torch.allclose(gate.log_alpha.grad, slope, atol=1e-7)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_the_penalty_counts_once_whatever_the_micro_batches(
    micro_batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(self: Any, _: Submodel) -> None:
        seen.append((self.multipliers.grad[0].item(), self.sparsity().item()))

    monkeypatch.setattr(GatedLora, "shape_gradients", look)
    size = [f"train.batch_size={16 // micro_batches}", f"train.gradient_accumulation_steps={micro_batches}"]
    execute(a_run(*words(tmp_path, "lora_gated", *size, "adapter.sparsity_warmup=0", "train.max_steps=2")))
    assert [gradient for gradient, _ in seen] == pytest.approx([0.5 - sparsity for _, sparsity in seen], rel=1e-5)


def test_gates_and_multipliers_keep_their_rate_and_are_neither_decayed_nor_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, clipped = [], []
    original = loop.make_optimizer

    def make(*arguments: Any) -> torch.optim.Optimizer:
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_optimizer", make)
    clip = loop.Accelerator.clip_grad_norm_
    monkeypatch.setattr(
        loop.Accelerator, "clip_grad_norm_", lambda self, p, n: (clipped.append(list(p)), clip(self, p, n))
    )
    rates = ("adapter.gate_learning_rate=0.03", "adapter.lambda_learning_rate=0.7", "train.max_steps=3")
    execute(a_run(*words(tmp_path, "flop", *rates)))
    *weights, gate, multipliers = made[0].param_groups
    assert (gate["lr"], multipliers["lr"]) == (0.03, 0.7) and weights[0]["lr"] < 4e-5
    assert gate["weight_decay"] == multipliers["weight_decay"] == 0 and len(gate["params"]) == 13
    own = {id(p) for group in (gate, multipliers) for p in group["params"]}
    assert clipped[0] and not own & {id(p) for p in clipped[0]}
    assert {id(p) for p in clipped[0]} == {id(p) for group in weights for p in group["params"]}


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_byte_identical(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("train.max_steps=9", "train.checkpoint_steps=3", "train.eval_steps=5", "train.batch_size=4")
    more += ("train.gradient_accumulation_steps=2", "adapter.gate_learning_rate=0.5")
    ends = []
    for name, kills in (("whole", ()), ("killed", ((loop, "draw", 5), (loop, "draw", 5)))):
        run = a_run(*words(tmp_path, method, *more), f"runs_dir={tmp_path / name}")
        for kill in kills:
            with monkeypatch.context() as patch:
                dies_at(patch, *kill)
                with pytest.raises(Killed):
                    execute(run)
        record = execute(run)
        weights = next((run.folder / "adapter").glob("*.safetensors")).read_bytes()
        curve, evaluations = record["training"]["loss_curve"], record["training"]["evaluations"]
        ends.append((weights, curve, evaluations, record["pruning"], record["submodels"][0]["metrics"]))
    assert ends[0] == ends[1] and len(ends[0][2]) > 0


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_leaves_state_mode_and_random_numbers(method: str) -> None:
    tuning = attached("tiny_bert", method)
    tuning.model.train()
    before = {name: p.detach().clone() for name, p in tuning.trained().items()}
    torch.manual_seed(3)
    random = torch.get_rng_state()
    options: dict[str, Any] = {"batch_size": 8, "pad_id": 0}
    first = evaluate(tuning.model, tuning, [encoded()], tuning.family, ["accuracy"], **options)
    assert torch.equal(torch.get_rng_state(), random)
    torch.manual_seed(4)
    again = evaluate(tuning.model, tuning, [encoded()], tuning.family, ["accuracy"], **options)
    assert first[0].metrics == again[0].metrics
    assert tuning.model.training and all(gate.training for gate in gates(tuning).values())
    assert all(torch.equal(p, before[name]) for name, p in tuning.trained().items())


def test_a_method_without_gates_trains_as_it_did_without_the_hooks() -> None:
    run = a_run("adapter=dylora")
    tuning = methods.attach(run, backbone.load(run.model, 2, False, 0).model)
    assert (tuning.own_rates(), tuning.penalty(0, 10), tuning.watched(), tuning.finish()) == ([], None, {}, None)
    groups = loop.make_optimizer(run.train, tuning.optimized(), tuning.own_rates()).param_groups
    assert [len(group["params"]) for group in groups] == [9, 1] and not any("constant" in group for group in groups)


# What is written


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run of each method over a BERT on disk, where stock code finds it; one layer ends at rank 0."""
    root = tmp_path_factory.mktemp("done")
    run = a_run()
    body = backbone.load(run.model, 2, False, 0)
    body.model.save_pretrained(root / "bert")
    body.tokenizer.save_pretrained(root / "bert")

    def of(method: str) -> tuple[Path, torch.Tensor]:
        made = a_run(*words(root, method), f"model.path={root / 'bert'}", "train.learning_rate=1e-2")
        seen = []
        original = {"flop": Flop, "lora_gated": GatedLora}[method].finish

        def finish(self: Any) -> Any:
            spread(self, 1)
            gates(self)[list(gates(self))[1]].log_alpha.data.fill_(-30.0)
            report = original(self)
            self.model.eval()
            seen.append(logits(self, inputs()))
            return report

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr({"flop": Flop, "lora_gated": GatedLora}[method], "finish", finish)
            execute(made)
        return made.folder, seen[0]

    return {method: of(method) for method in METHODS} | {"base": root / "bert"}


def given(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs()).logits


def test_the_gated_lora_is_a_stock_peft_adapter_with_a_rank_for_each_layer(done: Any, tmp_path: Path) -> None:
    folder, expected = done["lora_gated"]
    export(folder, tmp_path / "out")
    for place in (folder / "adapter", tmp_path / "out"):
        base = AutoModelForSequenceClassification.from_pretrained(done["base"], num_labels=2)
        plain_logits = given(base)
        loaded = PeftModel.from_pretrained(base, place)
        assert torch.allclose(given(loaded), expected, atol=1e-6)
        assert (plain_logits - expected).abs().max() > 1e-3
        config = json.loads((place / "adapter_config.json").read_text())
        ranks = json.loads((folder / "adapter" / "rankbench.json").read_text())["ranks"]
        assert config["rank_pattern"] == {n.removeprefix("base_model.model."): k for n, k in ranks.items()}
        assert len(ranks) == 3 and len(set(ranks.values())) > 1  # of four layers one has none
        scales = {name: alpha / config["rank_pattern"][name] for name, alpha in config["alpha_pattern"].items()}
        exported = place == tmp_path / "out"  # where the factors carry the scale
        assert scales == ({} if exported else dict.fromkeys(config["rank_pattern"], 2.0))
    assert torch.allclose(given(rankbench.load(folder)), expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_model_loads_with_transformers_alone(method: str, done: Any, tmp_path: Path) -> None:
    folder, expected = done[method]
    export(folder, tmp_path / "out", merge=method == "lora_gated")
    model, told = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert torch.allclose(given(model), expected, atol=1e-5)
    if method == "flop":
        assert "multiplied out" in (tmp_path / "out" / "README.md").read_text()


def test_flop_comes_back_as_factors_of_the_size_that_was_counted(done: Any) -> None:
    folder, expected = done["flop"]
    model = rankbench.load(folder)
    assert torch.equal(given(model), expected)
    record = json.loads((folder / "record.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == record["submodels"][0]["parameters"]["total"]
    assert torch.allclose(given(multiply_out(model)), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_there_is_no_rank_to_choose(method: str, done: Any, tmp_path: Path) -> None:
    for choice in ({"rank": 4}, {"rank": 4, "svd": True}):
        with pytest.raises(RequestError, match="so no ranks; leave out --rank"):
            export(done[method][0], tmp_path / "out", **choice)


def test_a_damaged_factor_is_said(done: Any, tmp_path: Path) -> None:
    shutil.copytree(done["flop"][0], tmp_path / "run")
    (tmp_path / "run" / "adapter" / "factors.safetensors").write_bytes(b"no longer")
    with pytest.raises(RequestError, match="is damaged"):
        rankbench.load(tmp_path / "run")


@pytest.mark.parametrize(("model", "method"), [("tiny_gpt2", "flop"), ("tiny_llama", "lora_gated")])
def test_a_decoder_learns_to_respond_and_comes_back(model: str, method: str, tmp_path: Path) -> None:
    rows = [{"instruction": f"say {i}", "input": "", "output": f"{i}"} for i in range(24)]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
    run = a_run(f"model={model}", *words(tmp_path, method), "task=instruction", "train.max_steps=6")
    record = execute(run)
    metrics = record["submodels"][0]["metrics"]
    batch = a_batch()
    batch["labels"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], IGNORED)
    with torch.no_grad():
        assert math.isfinite(rankbench.load(run.folder)(**batch).loss) and math.isfinite(metrics["loss"])
    export(run.folder, tmp_path / "out", merge=method == "lora_gated")


# Around it


@pytest.mark.parametrize("method", METHODS)
def test_the_forecast_counts_what_trains(method: str) -> None:
    run = a_run(f"adapter={method}", "task=tweets")
    tuning = methods.attach(run, backbone.load(run.model, 3, False, 0).model)
    found = step_memory.anatomy(run)
    weights = sum(p.numel() for p in tuning.trained().values())
    gates_and_multipliers = sum(p.numel() for _, own in tuning.own_rates() for p in own)
    assert found.trained == weights == tuning.count(Submodel()).trainable + gates_and_multipliers
    assert (found.gradients, found.optimizer) == (4 * weights, 8 * weights + 4 * len(tuning.trained()))
    assert step_memory.forecast(run).peak > found.weights


REFUSED = [
    (["adapter=flop", "adapter.target_sparsity=1"], "target_sparsity=1 must lie between 0 and 1"),
    (["adapter=lora_gated", "adapter.target_sparsity=0"], "target_sparsity=0 must lie between"),
    (["adapter=flop", "adapter.sparsity_warmup=1.5"], "sparsity_warmup=1.5 must lie in"),
    (["adapter=flop", "adapter.gate_learning_rate=0"], "gate_learning_rate=0 must be above 0"),
    (["adapter=flop", "adapter.lambda_learning_rate=nan"], "lambda_learning_rate=nan must be above 0"),
    (["adapter=flop", "quantization=nf4"], "adapter=flop ends with a whole model"),
    (["adapter=flop", "train.optimizer=sgd"], "use adamw"),
    (["adapter=flop", "evaluate.submodels=[1]"], "ends with one size"),
    (["adapter=lora_gated", "sampler=uniform"], "trains one size"),
    (["adapter=lora_gated", "adapter.r=0"], "a rank is at least 1"),
    (["adapter=flop", "adapter.r=-1"], "adapter.r=-1"),
]


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_wrong_settings_are_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said) as refusal:
        a_run(*overrides)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("[attention]", r"is no linear layer; choose from"),
        ("[qery]", "no module is called qery"),
        ("nothing.*", "no module matches"),
    ],
)
def test_targets_that_cannot_be_factorised_are_refused(targets: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        attached("tiny_bert", "flop", f"adapter.target_modules={targets}")


def test_a_tied_weight_is_not_factorised() -> None:
    with pytest.raises(RequestError, match="lm_head shares its weight with another module"):
        attached("tiny_gpt2", "flop", "task=instruction", "adapter.target_modules=[lm_head]", num_labels=None)
