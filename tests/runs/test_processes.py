"""Two processes train, score and record what one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator, DistributedType
from conftest import tiny_overrides, write_tiny
from made_questions import write as write_questions
from safetensors.torch import load_file
from tiny import a_run, asked, attached, encoded
from torch import distributed

from rankbench.errors import RequestError
from rankbench.methods.factors import Gated
from rankbench.runs.life import execute
from rankbench.scoring import evaluation
from rankbench.system import processes
from rankbench.training import loop

COMMON = ["task=classification", "train.max_steps=7", "train.batch_size=6", "train.log_steps=2", "adapter.r=4"]
COMMON += ["train.checkpoint_steps=3", "train.eval_steps=4", "train.eval_batch_size=7"]
COMMON += ["+model.random.hidden_dropout_prob=0", "+model.random.attention_probs_dropout_prob=0"]
ANSWERS = ["model=tiny_llama", "task=instruction", "task.metrics=[loss,exact_match]", "task.max_new_tokens=4"]
SELECTING = ["task.regression=true", "task.metrics=[pearson]", "train.keep=best", "train.eval_steps=2"]
SELECTING += ["train.learning_rate=0.01", "train.schedule=constant", "train.patience=2", "train.max_steps=16"]
QUESTIONS = ["task=squad_v2", "task.max_length=96", "task.doc_stride=24", "task.max_query_length=30"]
QUESTIONS += ["train.optimizer=sgd", "train.learning_rate=0.05"]  # no gradient reaches the head's bias but rounding
QUICK = {
    "a rank a step": [],
    "a rank a row": [
        *("sampler=sandwich", "sampler.per_row=true", "adapter.reorder_at=[0.5]", "task.class_weights=[1,5]")
    ],
    "gates": ["adapter=lora_gated"],
    "the best is kept": SELECTING,
    "integers": ["arithmetic=int8", "arithmetic.rounding.activation=stochastic"],
    "questions": QUESTIONS,
    "fewer prompts than processes": [*ANSWERS, "train.max_steps=2", "task.max_eval_examples=1"],
}
LONG = {
    "micro-batches": ["sampler=sandwich", "train.gradient_accumulation_steps=2", "train.batch_size=3"],
    "fewer rows than processes": ["train.batch_size=1", "train.gradient_accumulation_steps=3"],
    "single rows move": ["adapter.update=frozen_strict"],
    "integers of one scale": ["arithmetic=int12", "adapter=full", "train.optimizer=sgd", "train.learning_rate=0.05"],
    "exits": ["adapter=sorted_ft", "adapter.exits=[1,2]"],
    "responses": [*ANSWERS, "train.max_steps=3"],
    "beams": [*ANSWERS, "train.max_steps=2", "generation=beam", "generation.num_beams=2"],
    "draws": [*ANSWERS, "train.max_steps=2", "generation=sample"],
}
VARIANTS = QUICK | LONG


def settings(folder: Path, name: str) -> list[str]:
    words = [word for word in COMMON if "dropout" not in word or "tiny_llama" not in " ".join(VARIANTS[name])]
    where = {"task=instruction": "answers", "task=squad_v2": "questions"}
    data = folder / next((own for task, own in where.items() if task in VARIANTS[name]), "data")
    return [*words, *VARIANTS[name], f"task.data_dir={data}"]


def write(folder: Path) -> None:
    write_tiny(folder / "data")
    write_questions(folder / "questions", v2=True)
    (folder / "answers").mkdir()
    for split, rows in (("train", 20), ("validation", 9)):
        lines = [{"instruction": f"say {i}", "input": "", "output": "la" * (1 + i % 3)} for i in range(rows)]
        (folder / "answers" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick variants, done by two processes below `two`."""
    return by_two(tmp_path_factory, QUICK)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The others, too."""
    return by_two(tmp_path_factory, LONG)


def by_two(tmp_path_factory: pytest.TempPathFactory, variants: Iterable[str]) -> Path:
    """A folder in which two processes have done these below `two`."""
    folder = tmp_path_factory.mktemp("processes")
    write(folder)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    common |= {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), *variants],
            env=common | {"RANK": str(place), "LOCAL_RANK": str(place), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in range(2)
    ]
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    assert "measure" in said[0] and "measure" not in said[1], "the first alone speaks"
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_give_the_run_of_one(name: str, quick: Path) -> None:
    equals_one(name, quick)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_two_processes_give_the_run_of_one_in_every_way(name: str, long: Path) -> None:
    equals_one(name, long)


def equals_one(name: str, both: Path) -> None:
    """One process gives what two gave below `both`."""
    alone = a_run(*settings(both, name), f"runs_dir={both / 'one'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gated, "draw", Gated.mean)
        expected = execute(alone)
    folder = both / "two" / alone.run_id
    record = json.loads((folder / "record.json").read_text())
    assert record["environment"]["processes"] == 2 and expected["environment"]["processes"] == 1
    mine, theirs = (load_file(next(f.glob("adapter/*.safetensors"))) for f in (alone.folder, folder))
    assert set(mine) == set(theirs)
    for key in mine:
        np.testing.assert_allclose(theirs[key].numpy(), mine[key].numpy(), rtol=1e-4, atol=1e-5, err_msg=key)
    for sub, other in zip(expected["submodels"], record["submodels"], strict=True):
        assert other["metrics"] == pytest.approx(sub["metrics"], rel=1e-4, abs=1e-6) and other["n"] == sub["n"]
        assert (other.get("generated") or {}).get("tokens") == (sub.get("generated") or {}).get("tokens")
    frames = [pd.read_parquet(f / "predictions.parquet") for f in (alone.folder, folder)]
    pd.testing.assert_frame_equal(*frames, rtol=1e-4, atol=1e-5)
    curves = [[entry["loss"] for entry in r["training"]["loss_curve"]] for r in (expected, record)]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert record["training"]["steps"] == expected["training"]["steps"]
    for told in ("kept", "stopped_early"):
        steps = [(r["training"].get(told) or {}).get("step") for r in (expected, record)]
        assert steps[0] == steps[1] and (steps[0] is not None) == ("train.keep=best" in VARIANTS[name])
    scores = [[entry["value"] for entry in r["training"]["evaluations"]] for r in (expected, record)]
    moved = 5e-4 if name == "the best is kept" else 1e-6  # a correlation early in training hangs on little
    assert scores[1] == pytest.approx(scores[0], rel=1e-4, abs=moved)
    assert scores[0] or "task=instruction" in VARIANTS[name]


@pytest.mark.slow
def test_torchrun_starts_a_run_and_the_same_command_again_finds_it_done(tmp_path: Path) -> None:
    write_tiny(tmp_path / "data")
    words = ["model=tiny_bert", "task=classification", f"task.data_dir={tmp_path / 'data'}", "train.max_steps=2"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "rankbench"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for said in ("measure 8 sub-models", "already done"):
        done = subprocess.run(
            [*launch, *words, f"runs_dir={tmp_path / 'runs'}"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(said) == 1 and done.stdout.count("record: ") == 1
    (record,) = (tmp_path / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["environment"]["processes"] == 2


def test_a_launcher_that_no_method_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "data")
    run = a_run("task=classification", f"task.data_dir={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}")
    monkeypatch.setattr("accelerate.Accelerator.distributed_type", DistributedType.MULTI_XPU)
    with pytest.raises(RequestError, match=r"MULTI_XPU is no way .*torchrun"):
        execute(run)


def test_alone_nothing_is_added_up_or_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # some clusters leave it in every shell
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert (processes.count(), processes.place(), processes.first()) == (1, 0, True)
    processes.wait()
    assert processes.gathered(3) == [3] and processes.own(np.arange(3)).tolist() == [0, 1, 2]


def test_gradients_go_in_buckets_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """One flat copy of all of them would double their memory."""
    monkeypatch.setattr(processes, "BUCKET", 40)
    tensors = [torch.zeros(n) for n in (4, 4, 4, 30, 1)]
    found = list(processes._buckets(tensors))
    assert [[t.numel() for t in bucket] for bucket in found] == [[4, 4], [4], [30], [1]]


def test_a_step_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vote on stopping goes with the gradients, and is read a step later: nobody waits for it."""
    messages: list[int] = []
    alone = Accelerator(cpu=True)  # one made below would wait for the other process
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, *_: messages.append(tensor.numel()))
    monkeypatch.setattr(processes, "gathered", lambda value: [value])
    tuning = attached("train.batch_size=8", "train.max_steps=4", "train.log_steps=100")
    asked_for = asked(tuning.run)
    loop.train(*asked_for, tuning, encoded(40), 0, alone, tmp_path, lambda model: [])
    steps, last = messages[:4], messages[4:]
    assert last == [1], "the mean loss, once it is shown"
    assert set(steps) == {1 + sum(p.numel() for p in tuning.trained().values())}


def test_a_peak_is_of_the_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    evaluate = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *a, **k: scored.append(1) or evaluate(*a, **k))
    monkeypatch.setattr("rankbench.models.device.peak_memory", lambda device: 100 + len(scored))
    words = tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")
    record = execute(a_run(*words, "adapter=lora", "evaluate.cuts=[svd]"))
    assert record["training"]["peak_memory_bytes"] == 100 and len(scored) == 3  # rank 0 is one


if __name__ == "__main__":
    Gated.draw = Gated.mean  # as dropout, the noise of gates is each process's own
    for variant in sys.argv[2:]:
        execute(a_run(*settings(Path(sys.argv[1]), variant), f"runs_dir={Path(sys.argv[1]) / 'two'}"))
    timeout = distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout
    assert timeout == processes.PATIENCE, "the first process may take hours before the others hear of it"
