"""adapter=head trains a classifier's head alone: the baseline of what the frozen backbone knows by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Answer, compose_run, refused, sample, tiny_overrides, write_tiny
from safetensors.torch import load_file

from rankbench import methods
from rankbench.models import backbone
from rankbench.runs.life import execute
from rankbench.shipping.export import export
from rankbench.shipping.loading import load
from rankbench.tables import curve, plots

WORDS = ["adapter=head", "train.learning_rate=0.05", "train.max_steps=40"]


@pytest.mark.parametrize(
    "model", sample(["tiny_bert", "tiny_llama", "tiny_gpt2", "tiny_falcon"], "tiny_bert", "tiny_llama")
)
def test_the_head_alone_trains_and_it_is_the_one_beside_a_lora(tmp_path: Path, model: str) -> None:
    words = [f"model={model}", *tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")[1:]]
    run = compose_run(*words, *WORDS)
    record = execute(run)
    before = backbone.load(run.model, 2, False, run.seed).model.state_dict()
    after = load_file(run.folder / "adapter" / "model.safetensors")
    head = [name for name in after if not torch.equal(after[name], before[name])]
    lora = methods.attach(compose_run(*words, "adapter=lora"), backbone.load(run.model, 2, False, run.seed).model)
    beside = {
        name.replace("base_model.model.", "").replace(".modules_to_save.default", "")
        for name in lora.trained()
        if "lora_" not in name
    }
    assert set(head) == beside
    (sub,) = record["submodels"]
    trained = sum(after[name].numel() for name in head)
    assert sub["parameters"] == {
        "adapter": 0,
        "head": trained,
        "trainable": trained,
        "total": sum(tensor.numel() for tensor in before.values() if tensor.is_floating_point()),
    }
    assert (sub["rank"], sub["depth"]) == (None, None)


def test_it_is_exported_predicts_and_stands_beside_ranks(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    words = tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")
    run = compose_run(*words, *WORDS)
    execute(run)
    said = export(run.folder, tmp_path / "out")
    assert "its head alone trained" in said[0] and "over a frozen backbone" in (tmp_path / "out/README.md").read_text()
    texts = pd.read_json(tmp_path / "data" / "validation.jsonl", lines=True)["text"].tolist()
    rows = pd.read_parquet(run.folder / "predictions.parquet").sort_values("index")
    for place in (run.folder, tmp_path / "out"):
        frame = load(place).predict(texts)
        assert [int(one) for one in frame] == rows["prediction"].tolist()
    execute(compose_run(*words))
    table = curve.curve(tmp_path / "runs")
    assert table.loc["whole", "head"] != "-" and table.loc["whole", "dylora"] == "-"
    long = curve.curve_long(tmp_path / "runs")
    (axes,) = plots.curve(long, "accuracy", "").axes
    legend = axes.get_legend()
    assert legend is not None and any(text.get_text().startswith("head") for text in legend.get_texts())
    chosen = call_main("table", "choose_rank", str(tmp_path / "runs"), "--margin", "50")
    assert chosen.rc == 0 and "head" in chosen.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=instruction", "model=tiny_llama"], "adapter=head trains a classifier's head, and task=instruction"),
        (["quantization=nf4"], "adapter=head ends with a whole model in floats"),
    ],
)
def test_what_has_no_head_to_train_alone_is_refused_by_name(tiny: list[str], words: list[str], said: str) -> None:
    assert said in refused(*tiny, "adapter=head", *words)
