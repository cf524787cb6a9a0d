"""What the runs of a sweep share is done once, and no run can tell: kept token ids, data, forecasts, GGUF weights."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Answer, compose_run, sentences, write_jsonl, write_tiny
from test_export import gguf_file

from rankbench import load_runs
from rankbench.models import backbone, gguf
from rankbench.models.backbone import byte_tokenizer
from rankbench.runs import work
from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.sweeps.status import standings
from rankbench.tasks import data, token_cache
from rankbench.tasks.encoding import encode, encode_responses
from rankbench.tasks.splits import Split
from rankbench.tasks.token_cache import Kept, tokenised

TEXTS = [f"text {i}" + " more" * (i % 7) for i in range(50)]


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "LEAST", 1)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call tokenised, the single one that sets the tokenizer's options left out."""
    rows: list[int] = []

    def counting(tokenizer: Any, columns: Any, **options: Any) -> Any:
        rows.extend([len(columns[0])] * (len(columns[0]) > 1))
        return tokenised(tokenizer, columns, **options)

    monkeypatch.setattr(token_cache, "tokenised", counting)
    return rows


def split(*columns: list[str]) -> Split:
    n = len(columns[0])
    return Split("train", columns, np.zeros(n, np.int64), np.arange(n), (("x",),) * n)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize("columns", [(TEXTS,), (TEXTS, TEXTS[::-1]), ([*TEXTS, ""],)], ids=["one", "pair", "empty"])
def test_kept_ids_are_those_of_the_tokenizer(
    columns: tuple[list[str], ...], counted: list[int], tmp_path: Path
) -> None:
    kept = Kept(tmp_path / "tokens")
    first, again, plain = (encode(split(*columns), byte_tokenizer(), 12, ids) for ids in (kept, kept, tokenised))
    assert first.features == again.features == plain.features
    assert (
        first.cut == again.cut == plain.cut == sum(len(ids) > 12 for ids in byte_tokenizer()(*columns)["input_ids"]) > 0
    )
    assert counted == [len(columns[0])] and len(files(tmp_path / "tokens")) == 1


@pytest.mark.usefixtures("nothing_is_small")
def test_prompts_and_responses_are_kept_apart_from_the_length(counted: list[int], tmp_path: Path) -> None:
    kept, both = Kept(tmp_path / "tokens"), split(TEXTS, TEXTS[::-1])
    for length in (60, 50, 60):
        found, plain = (encode_responses(both, byte_tokenizer(), length, ids) for ids in (kept, tokenised))
        assert (found.features, found.prompts) == (plain.features, plain.prompts)
    assert counted == [50, 50]


@pytest.mark.usefixtures("nothing_is_small")
def test_whatever_decides_the_ids_has_a_file_of_its_own(tmp_path: Path) -> None:
    kept, other = Kept(tmp_path / "tokens"), byte_tokenizer()
    other.add_tokens(["text"])
    turned = byte_tokenizer()
    turned.truncation_side = "left"
    asked = [
        *((byte_tokenizer(), [TEXTS], 12), (byte_tokenizer(), [TEXTS], 11), (byte_tokenizer(), [TEXTS[1:]], 12)),
        *((byte_tokenizer(), [TEXTS, TEXTS], 12), (other, [TEXTS], 12), (turned, [TEXTS], 12)),
        *((byte_tokenizer(), [["a b", "c"]], 12), (byte_tokenizer(), [["a", "b c"]], 12)),
    ]
    for tokenizer, columns, length in asked * 2:
        found, plain = (ids(tokenizer, columns, truncation=True, max_length=length) for ids in (kept, tokenised))
        assert found == plain
    assert len(files(tmp_path / "tokens")) == len(asked)


@pytest.mark.usefixtures("nothing_is_small")
def test_a_damaged_file_is_said_and_made_again(
    counted: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path / "tokens")
    whole = encode(split(TEXTS), byte_tokenizer(), 12, kept).features
    (file,) = files(tmp_path / "tokens")
    good = file.read_bytes()
    other = tmp_path / "other"
    encode(split(TEXTS[1:]), byte_tokenizer(), 12, Kept(other))
    flipped = [good[:i] + bytes([good[i] ^ 255]) + good[i + 1 :] for i in range(50, len(good) - 50, len(good) // 9)]
    for wrong in (b"", b"no zip", good[: len(good) // 2], good[:-10], files(other)[0].read_bytes(), *flipped):
        file.write_bytes(wrong)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert encode(split(TEXTS), byte_tokenizer(), 12, kept).features == whole
        assert file.read_bytes() == good or "is damaged" not in caplog.text
        assert "tokenised again" in caplog.text or wrong in flipped  # a flip in what nobody reads does no harm
    assert len(files(tmp_path / "tokens")) == 1


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize("fault", ["no folder", "full disk"])
def test_a_folder_that_takes_nothing_is_said_once(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "no folder":
        (tmp_path / "tokens").write_text("in the way")
    else:

        def full(stream: Any, **_: Any) -> None:
            stream.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez", full)
    kept = Kept(tmp_path / "tokens")
    for texts in (TEXTS, TEXTS[1:]):
        found, plain = (encode(split(texts), byte_tokenizer(), 12, ids) for ids in (kept, tokenised))
        assert found.features == plain.features
    assert [r.getMessage() for r in caplog.records if "not kept" in r.getMessage()] == [
        f"token ids are not kept in {tmp_path / 'tokens'}: "
        + {"no folder": "File exists", "full disk": "No space left on device"}[fault]
    ]
    assert fault == "no folder" or files(tmp_path / "tokens") == []


def _start(folder: str) -> Any:
    token_cache.LEAST = 1
    return encode(split(TEXTS * 40), byte_tokenizer(), 12, Kept(Path(folder))).features


def test_runs_that_start_together_write_one_whole_file(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, get_context("fork")) as pool:
        found = list(pool.map(_start, [str(tmp_path / "tokens")] * 12))
    assert all(features == found[0] for features in found)
    assert [file.suffix for file in files(tmp_path / "tokens")] == [".npz"]


def test_few_texts_are_not_kept(tmp_path: Path) -> None:
    encode(split(TEXTS), byte_tokenizer(), 12, Kept(tmp_path / "tokens"))
    assert not (tmp_path / "tokens").exists()


def outcome(folder: Path) -> dict[str, Any]:
    """What two runs of the same settings share to the byte."""
    kept: dict[str, Any] = {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("adapter/*")}
    settings = kept.pop("adapter/adapter_config.json", None)  # PEFT writes a set into it, in any order
    if settings:
        found = json.loads(settings)
        kept["settings"] = found | {"target_modules": sorted(found["target_modules"])}
    return kept | {name: (folder / name).read_bytes() for name in ("predictions.parquet", "metrics.csv")}


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.slow
def test_a_later_run_in_a_process_is_the_run_alone(
    command_line: Callable[..., Answer], tiny: list[str], tmp_path: Path
) -> None:
    later = [["adapter=full"], ["adapter=dylora"], ["adapter=dylora", "seed=1"], ["adapter=full", "seed=1"]]
    done = []
    for words in later:
        done.append(compose_run(*tiny, "adapter.lora_dropout=0.1", "adapter.r=4", *words))
        execute(done[-1])
    for words, here in list(zip(later, done, strict=True))[2:]:
        alone = tmp_path / "alone"
        said = command_line(*tiny, "adapter.lora_dropout=0.1", "adapter.r=4", *words, f"runs_dir={alone}")
        assert said.rc == 0, said.err
        assert outcome(here.folder) == outcome(alone / here.run_id)
    assert len(files(tmp_path / "runs" / ".cache" / "tokens")) == 2  # four runs, two splits
    assert {s.run_id for s in standings(tmp_path / "runs")} == {r.run_id for r in done}
    assert set(load_runs(tmp_path / "runs")["run_id"]) == {r.run_id for r in done}


def language_model(base: Path, folder: Path, runs: Path, *words: str) -> Run:
    rows = [{"instruction": f"say {i}", "input": "", "output": f"{i} it is"} for i in range(20)]
    for name in ("train", "validation"):
        write_jsonl(folder / f"{name}.jsonl", rows)
    settings = ["model=tiny_llama", "model.random=null", f"model.path={base}", "task=instruction", "train.max_steps=3"]
    where = [f"task.data_dir={folder}", f"runs_dir={runs}", "task.metrics=[loss]", "adapter.r=2"]
    return compose_run(*settings, *where, *words)


def test_a_gguf_file_is_read_once_and_trained_weights_stay_with_their_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = gguf_file(tmp_path / "base" / "tiny.gguf")
    words = [["adapter=sft"], ["adapter=dylora", "seed=1"]]
    alone = []
    for i, its in enumerate(words):
        gguf._model.cache_clear(), gguf._tokenizer.cache_clear()
        asked = language_model(base, tmp_path / "data", tmp_path / f"alone{i}", *its)
        execute(asked)
        alone.append(outcome(asked.folder))
    gguf._model.cache_clear(), gguf._tokenizer.cache_clear()
    read: list[str] = []
    from transformers import LlamaForCausalLM

    original = LlamaForCausalLM.from_pretrained.__func__  # type: ignore[attr-defined]

    def reading(cls: Any, *args: Any, **options: Any) -> Any:
        read.append(str(args[0]))
        return original(cls, *args, **options)

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", classmethod(reading))
    together = []
    for its in words:
        asked = language_model(base, tmp_path / "data", tmp_path / "together", *its)
        execute(asked)
        together.append(outcome(asked.folder))
    assert together == alone and len(read) == 1
    os.utime(base, ns=(1, 1))  # another file in its place
    backbone.load(asked.model, None, False, 0)
    assert len(read) == 2


def test_a_head_that_the_seed_draws_is_drawn_anew(tmp_path: Path) -> None:
    base = gguf_file(tmp_path / "base" / "tiny.gguf")
    asked = language_model(base, tmp_path / "data", tmp_path / "runs")
    heads = [backbone.load(asked.model, 2, False, seed).model.get_parameter("score.weight") for seed in (0, 1, 0)]
    assert torch.equal(heads[0], heads[2]) and not torch.equal(heads[0], heads[1])


def test_data_are_read_again_when_a_file_changes_whatever_its_time_says(tiny_data: Path) -> None:
    task = compose_run("model=tiny_bert", "task=classification", f"task.data_dir={tiny_data}").task
    first = data.load(task)
    assert data.load(task) is first
    file = tiny_data / "train.jsonl"
    before = file.stat()
    file.write_text(file.read_text().replace("film", "fill"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = data.load(task)
    assert "fill" in " ".join(second.train.texts[0]) and second.origin != first.origin
    task.max_train_examples = 5
    assert len(data.load(task).train) == 5
    write_jsonl(file, sentences(10))
    write_tiny(tiny_data.parent / "other")
    task.max_train_examples = None
    assert len(data.load(task).train) == 10


def test_seeds_share_a_forecast_and_ranks_do_not(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from rankbench.forecast import step_memory

    made: list[Run] = []
    forecast = step_memory.forecast
    monkeypatch.setattr(step_memory, "forecast", lambda asked: made.append(asked) or forecast(asked))
    asked = [make_run("seed=0"), make_run("seed=1"), make_run("adapter.r=2"), make_run("train.batch_size=4")]
    found = [work._forecast(each) for each in asked]
    assert found[0] == found[1] and len({tuple(f.values()) for f in found if f}) == 3
    assert made == [asked[0], *asked[2:]]
