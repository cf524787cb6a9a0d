"""Runs in integer arithmetic: every method trains, and stops, batches and ranks change nothing of a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import sample, write_tiny
from test_resume_exact import Killed, dies_at, settings
from tiny import a_batch, a_run, attached

import rankbench
from rankbench.errors import RequestError
from rankbench.models.integer import kernels
from rankbench.models.integer.layers import Integer
from rankbench.models.integer.products import has_int8
from rankbench.runs.life import execute
from rankbench.training import loop

METHODS = {
    "dylora": [],
    "lora": ["adapter=lora"],
    "rows": ["sampler=sandwich", "sampler.per_row=true"],
    "full": ["adapter=full", "~adapter.lora_dropout"],
    "full, one scale": ["adapter=full", "arithmetic.scale=tensor"],
    "exits": ["adapter=sorted_ft", "adapter.exits=[1,2]"],
    "early exits": ["adapter=early_exit", "adapter.exits=[1,2]"],
    "gates": ["adapter=lora_gated"],
}


def words(tmp_path: Path, name: str, *more: str) -> list[str]:
    """The command line of a method over integers, on whatever settings it has."""
    lora = name in ("dylora", "lora", "rows", "gates")
    given = [word for word in settings(tmp_path, *METHODS[name], *more) if lora or "adapter.lora" not in word]
    return [word for word in given if lora or word != "adapter.r=3"]


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on whether the run was killed."""
    record = json.loads((folder / "record.json").read_text())
    files = [*(folder / "adapter").glob("*.safetensors"), folder / "metrics.csv", folder / "predictions.parquet"]
    return {"metrics": [row["metrics"] for row in record["submodels"]]} | {f.name: f.read_bytes() for f in files}


@pytest.mark.parametrize("name", sample(METHODS, "rows", "full"))
def test_killed_and_started_again_it_ends_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    every = ["arithmetic=int8", "arithmetic.rounding.activation=stochastic", "arithmetic.rounding.weight=stochastic"]
    killed, whole = (a_run(*words(tmp_path, name, *every), f"runs_dir={tmp_path / at}") for at in ("killed", "whole"))
    with monkeypatch.context() as patch:
        dies_at(patch, loop, "collate", 8)
        with pytest.raises(Killed):
            execute(killed)
    execute(killed)
    execute(whole)
    assert outcome(killed.folder) == outcome(whole.folder)
    record = json.loads((whole.folder / "record.json").read_text())
    assert record["config"]["arithmetic"]["bits"] == {"weight": 8, "activation": 8, "gradient": 8}


@pytest.mark.parametrize("name", ["full", "rows"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_run_without_a_compiler_says_so_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, bits: int
) -> None:
    asked = ["arithmetic=int8", *(f"arithmetic.bits.{role}={bits}" for role in ("weight", "activation", "gradient"))]
    built, alone = (a_run(*words(tmp_path, name, *asked), f"runs_dir={tmp_path / at}") for at in ("built", "alone"))
    execute(built)
    capsys.readouterr()
    monkeypatch.setattr(kernels, "library", lambda: None)
    execute(alone)
    assert ("no C compiler" if has_int8("cpu") else "no products of bytes") in "".join(capsys.readouterr())
    assert outcome(built.folder) == outcome(alone.folder)


@pytest.mark.slow
def test_16_bits_train_as_floats_do_and_four_do_not(tmp_path: Path) -> None:
    def losses(*asked: str) -> np.ndarray:
        found = []
        for seed in (0, 1, 2):
            own = [word for word in words(tmp_path, "full", *asked) if not word.startswith("seed=")]
            run = a_run(*own, f"seed={seed}", f"runs_dir={tmp_path / 'runs'}")
            execute(run)
            curve = json.loads((run.folder / "record.json").read_text())["training"]["loss_curve"]
            found.append(curve[-1][-1] if isinstance(curve[-1], list) else curve[-1]["loss"])
        return np.array(found)

    floats, most = losses(), losses("arithmetic=int16")
    few = losses("arithmetic=int8", *(f"arithmetic.bits.{role}=4" for role in ("weight", "activation", "gradient")))
    assert np.abs(most - floats).max() < 0.1 * np.ptp(floats), "beside the spread over seeds it is nothing"
    assert np.abs(few - floats).max() > 10 * np.abs(most - floats).max()


MODELS = {"tiny_bert": [], "tiny_gpt2": ["task=instruction"], "tiny_llama": ["task=instruction"]}


@pytest.mark.parametrize("model", MODELS)
def test_a_rows_result_does_not_depend_on_what_is_beside_it(model: str) -> None:
    """So stacked ranks answer as single ones, any batch as any other."""
    tuning = attached(
        f"model={model}", *MODELS[model], "arithmetic=int8", "adapter.r=4", num_labels=None if MODELS[model] else 2
    )
    assert any(isinstance(module, Integer) for module in tuning.model.modules())
    batch = a_batch(rows=6)
    batch.pop("labels")
    tuning.activate_rows([tuning.family[0]] * 6 + [tuning.family[-1]] * 6)
    with torch.no_grad():
        stacked = tuning.model(**{k: v.repeat(2, 1) for k, v in batch.items()}).logits
    for place, member in enumerate((tuning.family[0], tuning.family[-1])):
        tuning.activate(member)
        with torch.no_grad():
            together = tuning.model(**batch).logits
            alone = torch.cat([tuning.model(**{k: v[i : i + 1] for k, v in batch.items()}).logits for i in range(6)])
        torch.testing.assert_close(together, stacked[6 * place : 6 * place + 6], rtol=0, atol=1e-6)
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["dylora", "full"])
def test_predict_gives_the_records_answers(tmp_path: Path, name: str) -> None:
    run = a_run(*words(tmp_path, name, "arithmetic=int8"), f"runs_dir={tmp_path / 'runs'}")
    execute(run)
    kept = pd.read_parquet(run.folder / "predictions.parquet")
    rank = None if name == "full" else 2
    kept = kept if rank is None else kept[kept["rank"] == rank]
    rows = [json.loads(line) for line in (tmp_path / "data" / "validation.jsonl").read_text().splitlines()]
    model = rankbench.load(run.folder, rank=rank)
    said = model.predict([row["text"] for row in rows], scores=True)
    theirs = kept[["score_0", "score_1"]].to_numpy()
    np.testing.assert_allclose([list(own.values()) for _, own in said], theirs, rtol=0, atol=1e-6)
    assert any(isinstance(module, Integer) for module in model.modules())


def test_it_is_in_the_identity_and_floats_are_what_they_were(tmp_path: Path) -> None:
    write_tiny(tmp_path / "data")
    given = [f"task.data_dir={tmp_path / 'data'}", "task=classification", f"runs_dir={tmp_path}"]
    ids = {a_run(*given, *more).run_id for more in ([], ["arithmetic=float"])}
    assert len(ids) == 1
    ids |= {a_run(*given, f"arithmetic={name}").run_id for name in ("int8", "int10", "int12", "int16")}
    more = ("arithmetic.bits.activation=12", "arithmetic.scale=tensor", "arithmetic.rounding.gradient=nearest")
    ids |= {a_run(*given, "arithmetic=int8", word).run_id for word in more}
    assert len(ids) == 8


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["arithmetic=int8", "arithmetic.bits.weight=2"], "arithmetic.bits.weight=2 must be 4 to 16"),
        (
            ["arithmetic=int8", "arithmetic.rounding.weight=up"],
            "arithmetic.rounding.weight=up must be nearest or stochastic",
        ),
        (["arithmetic=int8", "+arithmetic.bits.wieght=9"], "and not wieght"),
        (["arithmetic=int8", "quantization=nf4"], "quantization=nf4 stores weights that bitsandbytes multiplies"),
        (["arithmetic=int8", "train.precision=bf16"], "keeps everything between its layers in float32"),
        (["arithmetic=int8", "adapter=flop", "sampler=fixed"], "adapter=flop replaces the layers by factors"),
        (["arithmetic.bits.weight=10"], "arithmetic=float has no bits"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, given: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        a_run("task=classification", f"task.data_dir={write_tiny(tmp_path / 'data')}", *given)
