"""Two processes that split the frozen weights (FSDP, DeepSpeed) train and record what one does that holds them all."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Answer, write_tiny
from safetensors.torch import load_file
from test_processes import write
from tiny import a_run

from rankbench.errors import RequestError
from rankbench.methods.factors import Gated
from rankbench.models import sharding
from rankbench.runs.life import execute
from rankbench.system import processes

pytestmark = pytest.mark.full

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
NO_DEEPSPEED = [
    *([] if importlib.util.find_spec("deepspeed") else ["DeepSpeed is not installed (the extra deepspeed)"]),
    *([] if shutil.which("c++") else ["no C++ compiler, with which DeepSpeed makes an operator for CPUs"]),
]
WAYS = [
    pytest.param(FSDP, id="FSDP"),
    pytest.param(
        DEEPSPEED,
        id="DeepSpeed",
        marks=[pytest.mark.slow, pytest.mark.skipif(bool(NO_DEEPSPEED), reason="; ".join(NO_DEEPSPEED))],
    ),
]
PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "0"}
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: {way}
{settings}
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: true
"""
ZERO = "deepspeed_config: {zero_stage: 3}"
COMMON = ["task=classification", "train.max_steps=6", "train.batch_size=5", "train.log_steps=2", "adapter.r=4"]
COMMON += ["train.checkpoint_steps=3", "train.eval_steps=4", "train.eval_batch_size=7"]
BERT = ["+model.random.hidden_dropout_prob=0", "+model.random.attention_probs_dropout_prob=0"]
LLAMA = ["model=tiny_llama"]
ANSWERS = [*LLAMA, "task=instruction", "task.metrics=[loss,exact_match]", "task.max_new_tokens=4", "train.max_steps=3"]
VARIANTS = {
    "lora and its cuts": [*BERT, "adapter=lora", "evaluate.cuts=[svd,svd_global,alpha_over_b]"],
    "a rank a row": [*BERT, "sampler=sandwich", "sampler.per_row=true", "adapter.reorder_at=[0.5]"],
    "fewer rows than processes": [
        *BERT,
        "sampler=sandwich",
        "train.batch_size=1",
        "train.gradient_accumulation_steps=3",
    ],
    "activations computed again": [*LLAMA, "train.gradient_checkpointing=true"],
    "tied embeddings": [
        "model=tiny_gpt2",
        *ANSWERS[1:],
        *(f"+model.random.{part}_pdrop=0" for part in ("attn", "embd", "resid")),
    ],
    "exits": [*BERT, "adapter=sorted_ft", "adapter.trainable=lora", "adapter.exits=[1,2]"],
    "exits of all ranks": [*ANSWERS, "adapter=sorted_lora", "adapter.exits=[1,2]"],
    "heads": [*BERT, "adapter=early_exit", "adapter.exits=[1,2]"],
    "many steps": [*BERT, "train.max_steps=100", "train.eval_steps=50"],
    "gates": [*BERT, "adapter=lora_gated"],
    "responses": ANSWERS,
    "beams": [*ANSWERS, "generation=beam", "generation.num_beams=2", "generation.no_repeat_ngram_size=3"],
    "packed responses": [*ANSWERS, "task.packing=true"],
}


def settings(folder: Path, name: str) -> list[str]:
    data = folder / ("answers" if "task=instruction" in VARIANTS[name] else "data")
    return [*COMMON, *VARIANTS[name], f"task.data_dir={data}"]


def two(way: dict[str, str], *words: str) -> list[subprocess.Popen[str]]:
    """Two processes `python ...`, as a launcher that was told to split so would start them."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    common = os.environ | way | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    common |= {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=common | {"RANK": str(place), "LOCAL_RANK": str(place), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in range(2)
    ]


def weight(parameter: torch.nn.Parameter) -> dict[str, Any]:
    """How many numbers it is, how many this process holds, whether it is split and whether it trains."""
    part = sharding.held(parameter)
    held = parameter.numel() if part is None else part.numel()
    whole, trained = sharding.size(parameter), parameter.requires_grad
    return {"whole": whole, "held": held, "split": part is not None, "trained": trained}


def ended(workers: list[subprocess.Popen[str]], code: int) -> list[str]:
    """What they said, once all have left with this code."""
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:  # one that waits for another would wait for ever
            worker.kill()
    assert [worker.returncode for worker in workers] == [code] * len(workers), "\n".join(said)
    return said


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, str]:
    """What a launcher tells its processes."""
    return dict(request.param)


@pytest.fixture(scope="module")
def both(way: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant, done by two processes below `two`, whose split weights are in `weights.PLACE.json`."""
    folder = tmp_path_factory.mktemp("sharding")
    write(folder)
    ended(two(way, __file__, str(folder)), 0)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.slow
def test_split_over_two_processes_a_run_is_that_of_one(name: str, both: Path) -> None:
    alone = a_run(*settings(both, name), f"runs_dir={both / 'one'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gated, "draw", Gated.mean)
        expected = execute(alone)
    folder = both / "two" / alone.run_id
    record = json.loads((folder / "record.json").read_text())
    assert record["environment"]["sharded"] and not expected["environment"]["sharded"]
    mine, theirs = (load_file(next(f.glob("adapter/*.safetensors"))) for f in (alone.folder, folder))
    assert set(mine) == set(theirs)
    for key in mine:
        np.testing.assert_allclose(theirs[key].numpy(), mine[key].numpy(), rtol=1e-4, atol=1e-5, err_msg=key)
    for sub, other in zip(expected["submodels"], record["submodels"], strict=True):
        assert other["metrics"] == pytest.approx(sub["metrics"], rel=1e-4, abs=1e-6)
        assert (other["n"], other["parameters"]) == (sub["n"], sub["parameters"])
    frames = [pd.read_parquet(f / "predictions.parquet") for f in (alone.folder, folder)]
    pd.testing.assert_frame_equal(*frames, rtol=1e-4, atol=1e-5)
    curves = [[entry["loss"] for entry in r["training"]["loss_curve"]] for r in (expected, record)]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    scores = [[entry["value"] for entry in r["training"]["evaluations"]] for r in (expected, record)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_each_process_holds_its_part_of_the_frozen_weights_of_layers_and_no_more(both: Path) -> None:
    parts = [json.loads((both / f"weights.{place}.json").read_text()) for place in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(VARIANTS)
    for name, mine, other in zip(VARIANTS, *parts, strict=True):
        for key, found in mine.items():
            inside = any(part in key for part in (".layer.", ".layers.", ".h."))
            assert found["split"] == (inside and not found["trained"]), f"{name}: {key}"
            both_hold = found["whole"] if found["split"] else 2 * found["whole"]
            assert found["held"] + other[key]["held"] == both_hold, f"{name}: {key}"
        split = [found for found in mine.values() if found["split"]]
        assert sum(found["held"] for found in split) == sum(found["whole"] for found in split) / 2 > 0, name


@pytest.mark.slow
def test_the_model_is_read_by_one_process_after_the_other_and_a_wrong_one_seen_by_all(both: Path) -> None:
    assert (both / "turns").read_text().split() == ["0", "0", "1", "1"]


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(model_type="albert", num_hidden_layers=2)
    with pytest.raises(RequestError, match=r"albert .*use torchrun"):
        sharding.shard(model, [], None, "FSDP")


@pytest.mark.slow
def test_stopped_at_any_moment_the_same_command_ends_as_if_nothing_had_been(
    way: dict[str, str], both: Path, tmp_path: Path
) -> None:
    run = a_run(*settings(both, "many steps"), f"runs_dir={tmp_path}")
    command = ["-m", "rankbench", "model=tiny_bert", *settings(both, "many steps"), f"runs_dir={tmp_path}"]
    workers = two(way, *command)
    until = time.monotonic() + 120
    while not list(run.folder.glob("checkpoints/*")) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3 * random.random())
    workers[1].send_signal(signal.SIGTERM)  # the other one hears of it at the end of the step
    ended(workers, 143)
    assert not (run.folder / "record.json").exists()
    assert "resumed at step" in ended(two(way, *command), 0)[0]
    mine, whole = (next(f.glob("adapter/*.safetensors")) for f in (run.folder, both / "two" / run.run_id))
    assert mine.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.slow
def test_accelerate_launch_with_a_config_file_splits_the_weights(way: dict[str, str], tmp_path: Path) -> None:
    write_tiny(tmp_path / "data")
    name, settings = ("FSDP", "fsdp_config: {fsdp_version: 2}") if way == FSDP else ("DeepSpeed", ZERO)
    (tmp_path / "split.yaml").write_text(CONFIG.format(way=name.upper(), settings=settings))
    words = ["model=tiny_bert", "task=classification", f"task.data_dir={tmp_path / 'data'}", "train.max_steps=2"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "split.yaml")]
    with socket.socket() as free:
        free.bind(("", 0))
        launch += ["--main_process_port", str(free.getsockname()[1])]
    done = subprocess.run(
        [*launch, "-m", "rankbench", *words, f"runs_dir={tmp_path / 'runs'}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"{name}: of 17,088 weights in 2 layers this process holds 8,544") == 1
    (record,) = (tmp_path / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["environment"]["sharded"]


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        ([], {"FSDP_VERSION": "1"}, "set fsdp_version: 2"),
        ([], {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "train.gradient_checkpointing=true"),
        ([], {"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM would split the weights.*use FSDP"),
        ([], {"ACCELERATE_USE_DEEPSPEED": "true"}, "zero_stage: 2 does not split.*set zero_stage: 3"),
        (
            [],
            DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "a.json"},
            "deepspeed_config_file is not read; give zero_",
        ),
        (
            [],
            DEEPSPEED | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"},
            "nvme is not supported; set none or cpu",
        ),
        (["adapter=full"], {}, "adapter=full ends with a whole model.*torchrun"),
        (["adapter=flop"], {}, "adapter=flop ends with a whole model.*torchrun"),
        (["adapter=sft"], {}, "adapter.trainable=lora"),
        (["adapter=sorted_ft"], {}, "adapter.trainable=lora"),
        (["adapter=qdylora", "quantization=nf4"], {}, "quantization=nf4 .*quantization=none"),
        (["arithmetic=int8"], {}, "integer layers keep whole weights.*arithmetic=float"),
    ],
)
def test_what_cannot_be_split_is_refused_with_the_way_out(
    words: list[str],
    environment: dict[str, str],
    said: str,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_main: Callable[..., Answer],
) -> None:
    for name, value in (FSDP | PLACE | environment).items():
        monkeypatch.setenv(name, value)
    answer = call_main(*tiny, *words)
    assert answer.rc == 2 and len(answer.said) == 1 and re.search(said, answer.err), answer.err
    assert not (tmp_path / "runs").exists()


def test_deepspeed_that_is_not_there_is_named(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, call_main: Callable[..., Answer]
) -> None:
    for name, value in (DEEPSPEED | PLACE).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sharding.importlib.util, "find_spec", lambda name: None)
    answer = call_main(*tiny)
    assert answer.rc == 2 and "DeepSpeed is not installed; pip install 'rankbench[deepspeed]'" in answer.err


def test_alone_a_process_has_nothing_to_split(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    assert not execute(a_run(*tiny, "adapter=full"))["environment"]["sharded"]


if __name__ == "__main__":
    Gated.draw = Gated.mean  # as dropout, the noise of gates is each process's own
    shard, models = sharding.shard, []

    def watched(model: Any, *words: Any) -> None:
        models.append(model)
        shard(model, *words)

    sharding.shard = watched
    for variant in VARIANTS:
        execute(a_run(*settings(Path(sys.argv[1]), variant), f"runs_dir={Path(sys.argv[1]) / 'two'}"))
    found = [{name: weight(p) for name, p in model.named_parameters()} for model in models]
    (Path(sys.argv[1]) / f"weights.{os.environ['RANK']}.json").write_text(json.dumps(found))
    with contextlib.suppress(RequestError), processes.in_turn():
        for _ in range(2):
            with (Path(sys.argv[1]) / "turns").open("a") as turns:
                turns.write(f"{processes.place()}\n")
            time.sleep(0.3)
        raise RequestError("wrong in every process")
