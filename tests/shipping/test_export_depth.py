"""A depth, alone or with a rank, leaves rankbench as a model of so many layers that stock libraries load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sample, write_jsonl, write_tiny
from peft import PeftModel
from test_export import close
from test_sorted_ft import LAYERS, words
from tiny import a_batch, a_run
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rankbench.errors import RequestError
from rankbench.runs.life import execute
from rankbench.scoring.exit_decoding import by_confidence
from rankbench.settings.run import Run
from rankbench.shipping import export
from rankbench.shipping.loading import load, with_exits

KINDS = ["bert", "gpt2", "llama", "falcon"]


def trained(tmp_path: Path, kind: str, *overrides: str) -> tuple[Run, dict[str, Any]]:
    """A short run over a random backbone of four layers that lies in a folder as the hub has it."""
    base = tmp_path / "base"
    if not base.exists():
        _four_layers(base, kind)
    data = tmp_path / "data"
    if not data.exists():
        if kind == "bert":
            write_tiny(data)
        for name in ("train", "validation") if kind != "bert" else ():
            rows = [{"instruction": f"Count to {i}", "input": "", "output": "la " * (i % 4 + 1)} for i in range(12)]
            write_jsonl(data / f"{name}.jsonl", rows)
    task = "classification" if kind == "bert" else "instruction"
    metrics = "accuracy" if kind == "bert" else "loss"
    settings = [f"model.path={base}", f"task.data_dir={data}", f"runs_dir={tmp_path / 'runs'}", "train.max_steps=3"]
    settings += ["train.batch_size=4", f"task.metrics=[{metrics}]", "adapter.r=4", "train.learning_rate=1e-2"]
    settings += ["adapter.target_modules=all-linear"]
    run = a_run(*words(kind, task, *settings, *overrides))
    return run, execute(run)


def _four_layers(base: Path, kind: str) -> None:
    from omegaconf import OmegaConf
    from transformers import AutoConfig

    from rankbench.models import backbone

    shape = dict(a_run(f"model=tiny_{kind}").model.random or {}) | {LAYERS[kind]: 4, "initializer_range": 0.2}
    tokenizer = backbone.byte_tokenizer()
    torch.manual_seed(3)
    made = AutoConfig.for_model(
        shape.pop("model_type"), vocab_size=len(tokenizer), **OmegaConf.to_object(OmegaConf.create(shape))
    )
    (AutoModelForSequenceClassification if kind == "bert" else AutoModelForCausalLM).from_config(made).save_pretrained(
        base
    )
    tokenizer.save_pretrained(base)


def stock(folder: Path, kind: str, **options: Any) -> Any:
    auto = AutoModelForSequenceClassification if kind == "bert" else AutoModelForCausalLM
    return auto.from_pretrained(folder, **options).eval()


def logits(model: Any) -> torch.Tensor:
    batch = a_batch()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return found


def at_exit(run: Run, depth: int) -> torch.Tensor:
    """What the run's own model says at an exit."""
    model, stack, _ = with_exits(run.folder)
    stack.cut(depth)
    return logits(model)


@pytest.mark.parametrize("kind", sample(KINDS, "falcon"))
def test_an_exit_of_sorted_fine_tuning_is_a_model_of_so_many_layers(kind: str, tmp_path: Path) -> None:
    run, record = trained(tmp_path, kind, "adapter=sorted_ft")
    for sub in record["submodels"]:
        depth = sub["depth"]
        said = export.export(run.folder, tmp_path / str(depth), depth=depth)
        model = stock(tmp_path / str(depth), kind)
        assert model.config.num_hidden_layers == depth
        assert sum(p.numel() for p in model.parameters()) == sub["parameters"]["total"]
        assert close(logits(model), at_exit(run, depth)) and close(logits(load(run.folder, depth=depth)), logits(model))
        card = (tmp_path / str(depth) / "README.md").read_text()
        assert f"sorted_ft, depth {depth} of 4" in said[0] and f"| **{depth}** (this one) |" in card
    assert (logits(load(run.folder, depth=2)) - logits(load(run.folder))).abs().max() > 1e-3


@pytest.mark.parametrize("kind", sample(KINDS, "llama"))
def test_a_pair_of_rank_and_depth_is_a_stock_adapter_over_a_cut_base(kind: str, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, kind, "adapter=sorted_lora")
    said = export.export(run.folder, tmp_path / "out", 2, 3)
    assert "rank 2 of 4, depth 3 of 4" in said[0] and "num_hidden_layers=3" in said[-1]
    head = {"num_labels": 2, "ignore_mismatched_sizes": True} if kind == "bert" else {}
    base = stock(tmp_path / "base", kind, num_hidden_layers=3, **head)
    base.config.pad_token_id = 0
    adapted = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert {m.r["default"] for m in adapted.modules() if hasattr(m, "lora_A")} == {2}
    expected = logits(load(run.folder, 2, 3))
    assert close(logits(adapted), expected)
    export.export(run.folder, tmp_path / "merged", 2, 3, merge=True)
    merged = stock(tmp_path / "merged", kind)
    assert merged.config.num_hidden_layers == 3 and close(logits(merged), expected)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| **2** | **3** (this one) |" in card and "first 3 of 4 layers" in card
    assert (logits(load(run.folder, 2, 2)) - expected).abs().max() > 1e-3
    assert (logits(load(run.folder, 4, 3)) - expected).abs().max() > 1e-3


def test_a_pair_gives_what_the_run_measured(tmp_path: Path) -> None:
    """The exported pair and the family member in training are one model."""
    from rankbench import methods
    from rankbench.methods.submodel import Submodel
    from rankbench.models import backbone

    run, _ = trained(tmp_path, "llama", "adapter=sorted_lora")
    tuning = methods.attach(run, backbone.load(run.model, None, False, run.seed).model)
    from safetensors.torch import load_file

    saved = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    for name, parameter in tuning.trained().items():
        parameter.data.copy_(saved[name.replace(".default", "")])
    tuning.model.eval()
    for rank, depth in ((1, 2), (3, 3), (4, 4)):
        tuning.activate(Submodel(rank, depth))
        assert close(logits(tuning.model), logits(load(run.folder, rank, depth)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [None, "sft", "lora"])
@pytest.mark.slow
def test_an_early_exit_is_exported_with_its_own_head(kind: str, start: str | None, tmp_path: Path) -> None:
    begin = []
    if start:
        first = ["adapter=sft", *(["adapter.trainable=lora"] if start == "lora" else [])]
        begin = [f"adapter.start_from={trained(tmp_path, kind, *first)[1]['run_id']}"]
    run, record = trained(tmp_path, kind, "adapter=early_exit", *begin)
    for sub in record["submodels"]:
        depth = sub["depth"]
        export.export(run.folder, tmp_path / str(depth), depth=depth)
        model = stock(tmp_path / str(depth), kind)
        assert close(logits(model), at_exit(run, depth))
        assert sum(p.numel() for p in model.parameters()) == sub["parameters"]["total"]
    assert (at_exit(run, 2) - at_exit(run, 3)).abs().max() > 1e-3


def test_heads_whose_body_changed_are_refused(tmp_path: Path) -> None:
    start = trained(tmp_path, "llama", "adapter=sft")[0]
    run, _ = trained(tmp_path, "llama", "adapter=early_exit", f"adapter.start_from={start.run_id}")
    folder = run.folder  # its name holds what it began from
    weights = start.folder / "adapter" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\x40")
    with pytest.raises(RequestError, match="holds other weights than the heads were trained over"):
        export.export(folder, tmp_path / "out", depth=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "asked", "message"),
    [
        (["adapter=sft"], {"depth": 2}, r"depth 2 is none that this run trained \(4\)"),
        (["adapter=sorted_ft"], {"depth": 1}, r"depth 1 is none that this run trained \(2, 3, 4\)"),
        (["adapter=sorted_ft"], {"depth": 2, "rank": 2}, r"no low-rank factors .*leave out --rank"),
        (["adapter=dylora"], {"depth": 2}, r"has no exits \(dylora\); leave out --depth"),
    ],
)
def test_a_depth_that_was_not_trained_is_refused(
    overrides: list[str], asked: dict[str, int], message: str, tmp_path: Path
) -> None:
    run, _ = trained(tmp_path, "bert", *overrides)
    with pytest.raises(RequestError, match=message):
        export.export(run.folder, tmp_path / "out", **asked)
    with pytest.raises(RequestError, match=message):
        load(run.folder, **asked)
    assert not (tmp_path / "out").exists()


def test_transformers_own_early_exit_runs_on_the_export(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, "llama", "adapter=sorted_ft")
    export.export(run.folder, tmp_path / "out")
    model = stock(tmp_path / "out", "llama")
    prompt = torch.randint(3, 250, (1, 9), generator=torch.Generator().manual_seed(0))
    settings = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    greedy = model.generate(prompt, **settings)
    ran: list[int] = []
    model.model.layers[1].register_forward_hook(lambda *_: ran.append(1))
    model.model.layers[3].register_forward_hook(lambda *_: ran.append(3))
    drafted = model.generate(prompt, assistant_early_exit=2, **settings)
    assert torch.equal(greedy, drafted)
    assert ran.count(1) > ran.count(3) > 0  # depth 2 drafted


@pytest.mark.parametrize("adapter", sample(["sorted_ft", "early_exit", "sorted_lora"], "early_exit"))
def test_a_finished_run_decodes_at_any_of_its_exits(adapter: str, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, "llama", f"adapter={adapter}")
    model, stack, exits = with_exits(run.folder)
    assert exits == [2, 3, 4]
    answer = by_confidence(model, stack, exits, [5, 6, 7], {2: 0.0}, max_new_tokens=6, ends=frozenset())
    expected = load(run.folder, depth=2).generate(
        torch.tensor([[5, 6, 7]]),
        attention_mask=torch.ones(1, 3),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=[],
    )
    assert answer.tokens == expected[0, 3:].tolist()


def test_an_adapter_over_the_first_layers_says_so(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, "llama", "adapter=lora", "model.layers=2")
    said = export.export(run.folder, tmp_path / "out")
    assert "num_hidden_layers=2" in said[-1]
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)
    assert code and "num_hidden_layers=2," in code[1]
    adapted = PeftModel.from_pretrained(stock(tmp_path / "base", "llama", num_hidden_layers=2), tmp_path / "out")
    assert close(logits(adapted.eval()), logits(load(run.folder)))
