"""A compiled step: one graph for every rank, layer and shape; the same gradients; and what it does not reach."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from conftest import compose_run, refused, sample
from tiny import a_batch, a_run, asked, attached, encoded

from rankbench.errors import RequestError
from rankbench.methods import FineTuning
from rankbench.runs.life import execute
from rankbench.training import compiled, loop

STILL = ["+model.random.hidden_dropout_prob=0", "+model.random.attention_probs_dropout_prob=0"]
LAYERS = 2  # of tiny_bert; the first one's input has no gradient, so there are two graphs


class Counted:
    """A backend that runs a graph as it is, and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def gradients(tuning: FineTuning, drawn: list[tuple[Any, float]], batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    tuning.model.zero_grad()
    torch.manual_seed(0)  # of FLOP's gates
    tuning.accumulate(tuning.model, batch, drawn, torch.Tensor.backward)
    return [p.grad.clone() for p in tuning.trained().values() if p.grad is not None]


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "method",
    sample(
        [
            ("adapter=dylora", "adapter.r=4"),
            ("adapter=dylora", "adapter.r=4", "train.gradient_checkpointing=true"),
            ("adapter=dylora", "adapter.r=4", "adapter.update=frozen_grad"),
            ("adapter=lora", "adapter.r=4"),
            ("adapter=full",),
            ("adapter=sorted_ft", "adapter.exits=[1,2]"),
            ("adapter=sorted_lora", "adapter.exits=[1,2]", "adapter.r=4"),
            ("adapter=flop",),
        ],
        ("adapter=dylora", "adapter.r=4"),
        ("adapter=sorted_ft", "adapter.exits=[1,2]"),
    ),
)
def test_every_rank_and_shape_has_one_graph_and_the_gradients_of_an_uncompiled_step(method: tuple[str, ...]) -> None:
    tuning = attached(*method, *STILL)
    run = a_run(*method)
    if run.train.gradient_checkpointing:
        loop._checkpoint_activations(tuning)
    tuning.model.train()
    counted = Counted()
    layers = compiled.Layers(tuning, True, counted)
    trained = tuning.family[-1:] if run.adapter.name == "lora" else tuning.family
    for place, member in enumerate(trained * 2):
        batch = a_batch(3 + place, 9 + 2 * place, place)
        expected = gradients(tuning, [(member, 1.0)], batch)
        layers.start()
        found = gradients(tuning, [(member, 1.0)], batch)
        layers.stop()
        assert len(found) == len(expected) > 0
        for own, its in zip(found, expected, strict=True):
            torch.testing.assert_close(own, its, rtol=1e-4, atol=1e-6)
        assert 1 <= counted.graphs <= LAYERS, "a rank, a depth or a shape has a graph of its own"


def test_ranks_by_row_share_a_graph_too() -> None:
    tuning = attached("adapter=dylora", "adapter.r=4", *STILL)
    counted = Counted()
    layers = compiled.Layers(tuning, True, counted)
    for place in range(3):
        batch, members = a_batch(4, 10 + place, place), [tuning.family[(place + i) % 4] for i in range(4)]
        tuning.activate_rows(members)
        expected = tuning.model(**batch).logits
        layers.start()
        tuning.activate_rows(members)
        torch.testing.assert_close(tuning.model(**batch).logits, expected, rtol=1e-4, atol=1e-5)
        layers.stop()
    assert 1 <= counted.graphs <= LAYERS


def test_several_exits_of_one_forward_are_compiled_and_tapped() -> None:
    tuning = attached("adapter=sorted_ft", "adapter.exits=[1,2]", *STILL)
    drawn = [(member, 0.5) for member in tuning.family]
    batch = a_batch()
    expected = gradients(tuning, drawn, batch)
    layers = compiled.Layers(tuning, True, Counted())
    layers.start()
    for own, its in zip(gradients(tuning, drawn, batch), expected, strict=True):
        torch.testing.assert_close(own, its, rtol=1e-4, atol=1e-6)
    layers.stop()


def test_an_evaluation_between_steps_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    made = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **kw: made(f, **kw | {"backend": counted, "options": None})
    )  # the graphs as they are
    tuning = attached("train.compile=true", "train.batch_size=8", "train.max_steps=4", "train.eval_steps=2", *STILL)
    seen = []

    def measure(model: Any) -> list[dict[str, Any]]:
        seen.append([vars(layer).get("forward") for layer in compiled.layers_of(tuning)])
        return []

    loop.train(*asked(tuning.run), tuning, encoded(40), 0, Accelerator(cpu=True), tmp_path, measure)
    assert counted.graphs and len(seen) == 1 and seen[0] == [None] * LAYERS
    assert all("forward" not in vars(layer) for layer in compiled.layers_of(tuning))
    tuning.activate(tuning.family[0])
    assert tuning.prefix.gates is None  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is here")
@pytest.mark.parametrize("further", [[], ["train.gradient_checkpointing=true"]])  # with dropout, too
def test_a_compiled_run_ends_where_an_uncompiled_one_does(further: list[str], tiny_data: Path, tmp_path: Path) -> None:
    words = ["model=tiny_bert", "task=classification", f"task.data_dir={tiny_data}", "adapter=dylora", "adapter.r=2"]
    words += [*further, f"runs_dir={tmp_path}", "train.max_steps=6", "train.batch_size=8", "train.log_steps=1"]
    plain, other = compose_run(*words), compose_run(*words, "train.compile=true")
    assert plain.folder != other.folder
    losses = [[entry["loss"] for entry in execute(run)["training"]["loss_curve"]] for run in (plain, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["quantization=nf4"], "does not reach into the layers of quantization=nf4"),
        (["arithmetic=int8"], "does not reach into arithmetic=int8"),
    ],
)
def test_what_compiling_does_not_reach_is_refused(words: list[str], told: str) -> None:
    assert told in refused("model=tiny_bert", "train.compile=true", *words)


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RequestError, match=r"needs a compiler \(g\+\+ or clang\+\+\)"):
        compiled.Layers(attached(), True)
    with pytest.raises(RequestError, match="is for CPUs and NVIDIA's GPUs, and this is mps"):
        compiled._refuse_without_compiler("mps")


def test_kinds_of_batches_beyond_torchs_own_limit_are_compiled_too() -> None:
    """With and without padding, of one row and more, ranks by row and of a batch: what needs a graph of its own."""
    tuning = attached("adapter=dylora", "adapter.r=4", *STILL)
    counted = Counted()
    layers = compiled.Layers(tuning, True, counted)
    tuning.model.train()
    graphs = []
    for rows in (4, 1):
        for padded in (True, False):
            for each in (True, False):
                batch = a_batch(rows, 10 + rows)
                batch["attention_mask"] = batch["attention_mask"] if padded else torch.ones_like(batch["input_ids"])
                layers.start()
                if each:
                    tuning.activate_rows([tuning.family[i % 4] for i in range(rows)])
                else:
                    tuning.activate(tuning.family[1])
                tuning.model(**batch).loss.backward()
                layers.stop()
                graphs.append(counted.graphs)
    assert graphs[-1] > 8, "the limit is not reached, so nothing is shown"
    assert graphs[-1] > graphs[-4]  # those after the eighth were compiled as well
    assert torch._dynamo.config.recompile_limit == 8
