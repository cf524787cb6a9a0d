"""Runs as on a card, in floats and in 4 bits: every op finds its operands in one place, in each precision.

Walked are training, going on, scoring stacked and one by one, generation, exits, packing and cuts; then `load` and
answers, `layers`, `decode`, `export`. tests/card.py says how a machine without a GPU can tell, and what it cannot see.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.optim.optimizer import Optimizer2State
from card import NAME, card
from conftest import compose_run, sample, tiny_overrides, write_jsonl, write_tiny
from places import CARD, place
from test_export import base_folder, gguf_file
from test_resume_exact import Killed, dies_at

from rankbench.models import float32
from rankbench.records.finished import finished
from rankbench.runs.life import execute
from rankbench.scoring import evaluation
from rankbench.settings.train import Optimizer
from rankbench.shipping import decode, export, layer_ranks
from rankbench.shipping.loading import load, with_exits
from rankbench.training import checkpoints

pytestmark = pytest.mark.full
After = Callable[[Path], object]


@pytest.fixture
def on_a_card() -> Iterator[None]:
    with card():
        yield


# The card itself


def there(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


MIXED: dict[str, Callable[[], Any]] = {
    "a product": lambda: there(2, 2) @ torch.ones(2, 2),
    "a sum": lambda: there(2) + torch.ones(2),
    "the card's number and a tensor of the CPU": lambda: there() + torch.ones(2),
    "a number of the CPU in a product": lambda: torch.dot(there(1), torch.ones(1)),
    "the card's number added to one of the CPU": lambda: torch.ones(()).add_(there()),
    "parts of one tensor": lambda: torch.cat([there(2), torch.ones(2)]),
    "the card's indices": lambda: torch.ones(2)[torch.zeros(2, dtype=torch.long, device="cuda")],
    "an embedding": lambda: torch.nn.Embedding(3, 2)(torch.zeros(2, dtype=torch.long, device="cuda")),
    "a layer that was not moved": lambda: torch.nn.Linear(2, 2)(there(2)),
    "a tensor that was moved back": lambda: there(2) + there(2).cpu(),
    "a tensor made from numpy": lambda: there(2) + torch.from_numpy(torch.ones(2).numpy()),
    "a tensor made like another": lambda: there(2) + torch.zeros_like(there(2), device="cpu"),
    "4 bits": lambda: bnb.nn.Linear4bit(64, 64).to("cuda")(torch.ones(1, 64)),
    "a gradient's hook": lambda: backwards(),
}


def backwards() -> None:
    weight = there(2).requires_grad_()
    weight.register_hook(lambda gradient: gradient + torch.ones(2))
    weight.sum().backward()


@pytest.mark.parametrize("how", MIXED)
def test_what_lies_apart_cannot_meet(how: str, on_a_card: None) -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        MIXED[how]()


def test_the_card_keeps_its_tensors_from_numpy(on_a_card: None) -> None:
    with pytest.raises(TypeError, match=r"can't convert cuda:0"):
        there(2).numpy()
    assert there(2).cpu().numpy().tolist() == there(2).tolist() == [1, 1]


TOGETHER: dict[str, Callable[[], torch.Tensor]] = {
    "a number of the CPU": lambda: there(2) + torch.tensor(2.0),
    "indices of the CPU": lambda: there(2)[torch.tensor([0, 1])],
    "a copy": lambda: there(2).copy_(torch.ones(2)),
    "a move": lambda: torch.ones(2).to("cuda") + torch.ones(2).cuda() + torch.ones(2).to(there(1)),
    "a layer": lambda: torch.nn.Linear(2, 2).to(CARD)(there(2)),
    "something like it": lambda: torch.zeros_like(there(2)) + there(1).new_zeros(2) + torch.as_tensor([1], device=0),
    "what C++ made of nothing": lambda: torch.nn.functional.one_hot(there(2).long()) * there(2, 2),
}


@pytest.mark.parametrize("how", TOGETHER)
def test_what_a_card_takes_stays_there(how: str, on_a_card: None) -> None:
    found = TOGETHER[how]()
    assert found.device == CARD and found.is_cuda and place(found) == "cuda"


def test_a_step_in_16_bits_is_scaled_and_stays_on_the_card(on_a_card: None) -> None:
    layer = torch.nn.Linear(2, 2).to("cuda")
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(2):
        with torch.autocast("cuda"):
            made = layer(there(1, 2))
        assert made.dtype == torch.float16
        scaler.scale(made.float().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert scaler.get_scale() > 1 and all(one.is_cuda for one in (*layer.parameters(), *moments))


# Runs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and backbones, shared: read them, do not change them."""
    folder = tmp_path_factory.mktemp("card")
    write_tiny(folder / "classes")
    for name, rows in (("train", 12), ("validation", 6)):
        lines = [{"instruction": f"Count to {i}", "input": "", "output": "la " * (i % 4 + 1)} for i in range(rows)]
        write_jsonl(folder / "answers" / f"{name}.jsonl", lines)
    for model in ("tiny_llama", "tiny_gpt2", "tiny_falcon"):
        base_folder(folder / model, model)
    gguf_file(folder / "gguf" / "tiny.gguf")
    return folder


def classes(root: Path, folder: Path, *words: str) -> list[str]:
    return [*tiny_overrides(root / "classes", folder / "runs"), *SHORT, *words]


def answers(root: Path, folder: Path, *words: str, model: str = "tiny_llama", path: str = "") -> list[str]:
    task = ["task=instruction", f"task.data_dir={root / 'answers'}", "task.metrics=[loss,exact_match]"]
    limits = ["task.max_new_tokens=3", "train.batch_size=4", "adapter.r=4", f"runs_dir={folder / 'runs'}"]
    return [f"model={model}", f"model.path={root / (path or model)}", *task, *limits, *SHORT, *words]


SHORT = ["train.max_steps=3", "train.checkpoint_steps=1", "train.log_steps=1", "evaluate.submodels=all"]


def answered(folder: Path) -> None:
    """A model that comes back answers on the card."""
    model: Any = load(folder)
    ids = torch.arange(3, 9, device=CARD)[None]
    assert model(input_ids=ids).logits.isfinite().all()
    if hasattr(model, "lm_head") or hasattr(getattr(model, "base_model", model), "lm_head"):
        assert model.generate(input_ids=ids, max_new_tokens=2, do_sample=False).is_cuda


def chosen(folder: Path) -> None:
    assert layer_ranks.choose(finished(folder), 2).ranks


def decoded(folder: Path) -> None:
    assert all(parameter.is_cuda for parameter in with_exits(folder)[0].parameters())
    assert all(way.tokens for way in decode.compare(finished(folder), 1, 3)[0])


def shipped(*options: str) -> After:
    """`rankbench export` with these options."""
    return lambda folder: export.main(
        [str(folder), "--to", str(folder.parent / "-".join(["shipped", *options])), *options]
    )


FEW = ["adapter.r=3", "adapter.target_modules=[q_proj,v_proj]"]
EXITS = "adapter.exits=[1,2]"
NF4, OTHER_BLOCKS = "quantization=nf4", "quantization.block_size=128"
PACKED, GGUF = "task.packing=true", "gguf/tiny.gguf"
# What runs, and what follows it.
WALKS: dict[str, tuple[Callable[[Path, Path], list[str]], list[After]]] = {
    "ranks": (lambda *at: classes(*at), [answered, chosen, shipped("--merge")]),
    "one rank, cut": (
        lambda *at: classes(*at, "adapter=lora", "evaluate.cuts=[svd,svd_global,alpha_over_b]"),
        [answered, chosen, shipped("--svd", "--rank=2")],
    ),
    "columns alone": (lambda *at: classes(*at, "adapter.update=frozen_strict"), [answered]),
    "ranks, late and paged": (
        lambda *at: classes(*at, "adapter=dylora_late", "train.optimizer=paged_adamw"),
        [answered],
    ),
    "every weight, checkpointed": (
        lambda *at: classes(*at, "adapter=full", "train.gradient_checkpointing=true", "train.optimizer=paged_adamw"),
        [answered],
    ),
    "factors": (lambda *at: classes(*at, "adapter=flop"), [answered, shipped()]),
    "gates": (lambda *at: answers(*at, "adapter=lora_gated", NF4), [answered, shipped("--merge")]),
    "gates, other blocks": (lambda *at: answers(*at, "adapter=lora_gated", NF4, OTHER_BLOCKS), [answered]),
    "a decoder": (lambda *at: answers(*at, PACKED), [answered, chosen]),
    "exits": (lambda *at: answers(*at, "adapter=sorted_ft", EXITS), [answered, decoded, shipped("--depth=1")]),
    "exits of a classifier": (lambda *at: classes(*at, "adapter=sorted_ft", EXITS), [answered]),
    "heads": (lambda *at: answers(*at, "adapter=early_exit", EXITS), [decoded, shipped("--depth=1")]),
    "exits and ranks, 4 bits": (lambda *at: answers(*at, "adapter=sorted_lora", EXITS, NF4), [answered, decoded]),
    "4 bits": (lambda *at: answers(*at, "adapter=qdylora", *FEW), [answered, chosen, shipped("--merge")]),
    "4 bits, packed": (lambda *at: answers(*at, "adapter=qdylora", PACKED), [answered]),
    "4 bits, checkpointed": (
        lambda *at: answers(*at, "adapter=qdylora", "train.gradient_checkpointing=true"),
        [answered],
    ),
    "4 bits, other blocks, packed": (lambda *at: answers(*at, NF4, OTHER_BLOCKS, PACKED), [answered]),
    "4 bits of a classifier": (lambda *at: classes(*at, NF4), [answered, chosen]),
    "4 bits of a GPT-2": (lambda *at: answers(*at, NF4, model="tiny_gpt2"), [answered, chosen]),
    "4 bits of a Falcon": (lambda *at: answers(*at, NF4, model="tiny_falcon"), [answered, chosen]),
    "a GGUF file in 4 bits, packed": (lambda *at: answers(*at, NF4, PACKED, path=GGUF), [answered]),
    "a GGUF file": (lambda *at: answers(*at, path=GGUF), [answered]),
    "8 bits": (lambda *at: answers(*at, "quantization=int8"), [answered, chosen]),
}
QUICK = [
    "ranks in fp16",
    "factors in fp16",
    "gates, other blocks in bf16",
    "exits in fp16",
    "heads in bf16",
    "4 bits in bf16",
    "4 bits, other blocks, packed in fp16",
]


ALL = [f"{walk} in {precision}" for walk in WALKS for precision in ("bf16", "fp16")]
ALL += [f"{walk} in fp32" for walk in ("ranks", "exits", "4 bits")]


@pytest.mark.parametrize("case", sample(ALL, *QUICK))
def test_a_run_and_what_follows_it_stay_on_the_card(case: str, root: Path, tmp_path: Path, on_a_card: None) -> None:
    walk, _, precision = case.rpartition(" in ")
    words, follow = WALKS[walk]
    run = compose_run(*words(root, tmp_path), f"train.precision={precision}")
    record = execute(run)
    assert (record["environment"]["device"], record["environment"]["precision"]) == (NAME, precision)
    assert all(math.isfinite(entry["loss"]) for entry in record["training"]["loss_curve"])
    for after in follow:
        after(run.folder)


GONE_ON = ["ranks, late and paged in bf16", "4 bits in fp16"]
IN_TURN = [f"{walk} in {('fp32', 'bf16', 'fp16')[i % 3]}" for i, walk in enumerate(WALKS)]  # one precision a walk


@pytest.mark.parametrize("case", sample([*dict.fromkeys([*GONE_ON, *IN_TURN])], *GONE_ON))
def test_a_killed_run_goes_on_as_it_would_have(
    case: str, root: Path, tmp_path: Path, on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, moments and the scale return to where they were, paged moments to their pages."""
    walk, _, precision = case.rpartition(" in ")
    words, paged = WALKS[walk][0], set[bool]()
    step = Optimizer2State.update_step

    def watched(self: Any, group: Any, parameter: Any, *place: int) -> None:
        paged.add(all(getattr(self.state[parameter][name], "is_paged", False) for name in ("state1", "state2")))
        step(self, group, parameter, *place)

    monkeypatch.setattr(Optimizer2State, "update_step", watched)
    killed, whole = (compose_run(*words(root, tmp_path / name), f"train.precision={precision}") for name in "kw")
    with pytest.MonkeyPatch.context() as patch:
        dies_at(patch, checkpoints, "save", 2, after=True)
        with pytest.raises(Killed):
            execute(killed)
    first, second = (execute(run)["training"]["loss_curve"] for run in (killed, whole))
    assert first == second
    assert paged == ({True} if killed.train.optimizer is Optimizer.paged_adamw else set())


@pytest.mark.parametrize("walk", ["ranks", *sample(["a decoder", "exits"])])
def test_the_card_computes_what_the_cpu_computes(
    walk: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, sub-models stacked and one by one."""
    monkeypatch.setattr(float32, "pays", lambda: False)  # or the CPU alone would sum in another order
    records = []
    for name, where, stacked in (("cpu", contextlib.nullcontext, None), ("many", card, None), ("single", card, 0)):
        if stacked is not None:
            monkeypatch.setitem(evaluation.STACK_TOKENS, "cuda", stacked)
        with where():
            records.append(execute(compose_run(*WALKS[walk][0](root, tmp_path / name), "train.precision=fp32")))
    there, many, single = ([sub["metrics"] for sub in record["submodels"]] for record in records)
    assert [r["training"]["loss_curve"] for r in records[1:]] == [records[0]["training"]["loss_curve"]] * 2
    for other in (many, single):
        assert all(own == pytest.approx(its, abs=1e-5) for own, its in zip(there, other, strict=True))
