"""The command line: exit codes, answers of one or two lines that name the mend, and no waiting for them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONF, Answer, compose_run, sentences, write_jsonl

from rankbench.__main__ import VERBS
from rankbench.records import lock
from rankbench.runs.life import summary
from rankbench.sweeps import jobs

Call = Callable[..., Answer]


def is_a_refusal(answer: Answer, *expected: str) -> None:
    """Exit 2, one or two lines on stderr, nothing on stdout, no traceback, and these words."""
    assert answer.rc == 2, answer.err
    assert 1 <= len(answer.said) <= 2, answer.err
    assert "Traceback" not in answer.err
    assert answer.said[-1].startswith("rankbench: ")
    assert answer.out == ""
    for words in expected:
        assert words in answer.err


# Refusals before anything heavy

EARLY = {
    "unknown_key": (["train.max_step=4"], ["train.max_step", "did you mean train.max_steps?"]),
    "key_without_its_group": (["max_steps=4"], ["max_steps", "did you mean train.max_steps?"]),
    "unknown_group": (["modle=tiny_bert"], ["modle", "did you mean model?"]),
    "unknown_choice": (["adapter=dylra"], ["adapter=dylra", "did you mean dylora?", "lora, "]),
    "added_key": (["+train.warmup=3"], ["train.warmup", "no such setting"]),
    "wrong_type": (["seed=one"], ["seed=one", "Integer"]),
    "wrong_type_in_a_list": (["sampler.ranks=[1,two]"], ["sampler.ranks", "two"]),
    "outside_an_enumeration": (["train.precision=fp8"], ["train.precision=fp8", "fp32", "bf16"]),
    "no_value_at_all": (["train.max_steps"], ["train.max_steps", "KEY=VALUE"]),
    "empty_value": (["train.max_steps="], ["train.max_steps=", "Integer"]),
    "unbalanced": (["sampler.ranks=[1,2"], ["sampler.ranks=[1,2", "close it: ]"]),
    "rank_zero": (["adapter.r=0"], ["adapter.r=0", "adapter.r=8"]),
    "contradiction": (["adapter=lora", "sampler=uniform"], ["adapter=lora", "sampler=uniform", "adapter=dylora"]),
    "taken_away": (["adapter=early_exit", "adapter.r=4", "~adapter.r"], ["~adapter.r", "leave ~adapter.r out"]),
    "taken_away_with_its_value": (["~train.max_steps=3"], ["~train.max_steps=3", "none can be taken away"]),
    "nothing_to_take_away": (["~nothing"], ["~nothing", "leave ~nothing out"]),
    "no_group": (["~log"], ["log.name"]),
    "misspelt_verb": (["tabel"], ["tabel", "did you mean table?"]),
    "no_verb": (["frobnicate"], ["frobnicate", "KEY=VALUE"]),
    "missing_data": (["task.data_dir=nowhere"], ["task.data_dir=nowhere", "does not exist"]),
    "no_data": (["task=classification"], ["task classification", "task.data_dir=<folder>"]),
}


@pytest.mark.parametrize("case", EARLY)
def test_a_wrong_setting_is_refused_with_the_way_to_mend_it(call_main: Call, case: str) -> None:
    words, expected = EARLY[case]
    is_a_refusal(call_main(*words), *expected)


def test_a_refusal_in_its_own_process_is_the_same(command_line: Call) -> None:
    words, expected = EARLY["rank_zero"]
    is_a_refusal(command_line(*words), *expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["curve", "nowhere"], "nowhere does not exist"), (["curve", "."], "no record.json under")],
    ids=["missing_folder", "no_records"],
)
def test_a_table_of_nothing_is_refused(command_line: Call, words: list[str], expected: str) -> None:
    is_a_refusal(command_line("table", *words), expected)


# Refusals once data and model are read: in this process, for these load torch


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.text_columns=[sentence]", ["train.jsonl", "'sentence'", "text, label", "task.text_columns"]),
        ("task.validation_splits=[test]", ["test.jsonl", "train.jsonl, validation.jsonl", "task.validation_splits"]),
        ("adapter.r=33", ["adapter.r=33", "width 32", "adapter.r<=32"]),
        ("adapter.target_modules=[qury]", ["qury", "query", "value", "all-linear"]),
        ("adapter.target_modules=qury", ["qury", "query", "value", "all-linear"]),
        ("adapter.target_modules=[LayerNorm]", ["LayerNorm", "adapter.target_modules"]),
    ],
)
def test_a_setting_that_does_not_fit_data_or_model_is_refused(
    call_main: Call, tiny: list[str], tmp_path: Path, override: str, expected: list[str]
) -> None:
    answer = call_main(*tiny, override)
    assert answer.rc == 2
    assert answer.said[-1].startswith("rankbench: ") and answer.out == ""
    for words in expected:
        assert words in answer.said[-1]
    assert not list((tmp_path / "runs").rglob("record.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes fp16")
def test_fp16_without_a_gpu_is_refused(call_main: Call, tiny: list[str]) -> None:
    answer = call_main(*tiny, "train.precision=fp16")
    assert answer.rc == 2
    assert "train.precision=fp16 needs a visible GPU" in answer.said[-1] and "train.precision=fp32" in answer.said[-1]


def test_an_empty_split_is_refused(call_main: Call, tiny: list[str], tiny_data: Path) -> None:
    (tiny_data / "validation.jsonl").write_text("")
    answer = call_main(*tiny)
    assert answer.rc == 2
    assert "validation.jsonl has no rows" in answer.said[-1]


@pytest.mark.slow
def test_a_refusal_after_loading_is_brief_in_its_own_process(command_line: Call, tiny: list[str]) -> None:
    answer = command_line(*tiny, "adapter.r=33")
    assert answer.rc == 2
    assert "Traceback" not in answer.err and "Error executing job" not in answer.err and "Warning" not in answer.err
    assert [line for line in answer.said if line.startswith("rankbench: ")] == answer.said[-1:]
    assert len(answer.said) <= 4  # the run's own log, and the refusal


@pytest.mark.parametrize("multirun", [False, True])
def test_a_runs_dir_that_cannot_be_written_is_refused(
    call_main: Call, tiny: list[str], tmp_path: Path, multirun: bool
) -> None:
    (tmp_path / "a_file").write_text("")
    answer = call_main(*(["-m"] if multirun else []), *tiny, "seed=0", f"runs_dir={tmp_path / 'a_file' / 'runs'}")
    assert answer.rc == 2
    assert "runs_dir" in answer.said[-1] and "a_file" in answer.said[-1]


def test_a_folder_in_use_by_a_live_run_is_refused(call_main: Call, tiny: list[str]) -> None:
    folder = compose_run(*tiny).folder
    folder.mkdir(parents=True)
    with lock.held(folder):
        answer = call_main(*tiny)
    is_a_refusal(answer, str(folder), "in use", f"pid {os.getpid()} on ", "wait for it")


def test_a_refused_request_leaves_no_folder_behind(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    assert call_main(*tiny, "adapter.r=33").rc == 2
    assert not list((tmp_path / "runs").glob("[!.]*"))  # sums of the files that were read are kept for the next


# Fast answers

QUICK = {
    "help": ["--help"],
    "config": ["--cfg", "job"],
    "unknown_key": ["train.max_step=4"],
    "contradiction": ["adapter.r=0"],
    "misspelt_verb": ["tabel"],
    "no_records": ["table", "curve", "."],
    "status": ["status", "."],
}


@pytest.mark.parametrize("case", QUICK)
def test_an_answer_that_needs_no_run_imports_nothing_heavy(command_line: Call, case: str) -> None:
    answer = command_line(*QUICK[case], python=("-X", "importtime"))
    imported = {line.rsplit("|", 1)[1].strip() for line in answer.said if line.startswith("import time:")}
    assert "rankbench.errors" in imported
    assert "hydra" not in imported or case != "status"
    heavy = {
        "numpy",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "datasets",
        "evaluate",
        "wandb",
        "matplotlib",
        "sklearn",
    }
    assert imported & heavy == set()


def test_a_table_of_text_imports_what_it_shows_alone(command_line: Call) -> None:
    records = Path(__file__).parents[1] / "benchmarks" / "results" / "sst2"
    answer = command_line("table", "curve", str(records), python=("-X", "importtime"))
    imported = {line.rsplit("|", 1)[1].strip() for line in answer.said if line.startswith("import time:")}
    assert answer.rc == 0 and "pandas" in imported
    assert imported & {"hydra", "scipy.stats", "matplotlib", "torch"} == set()


def test_help_names_the_ways_to_call_and_every_group(command_line: Call) -> None:
    answer = command_line("--help")
    assert (answer.rc, answer.err) == (0, "")
    tables = ("curve", "choose_rank", "lora_search_vs_dylora", "leaderboard")
    verbs = [f"rankbench {verb} " for verb in VERBS]
    for words in (*verbs, *tables, "rankbench -m", "--cfg job", "rankbench --version"):
        assert words in answer.out
    for group in (folder.name for folder in CONF.iterdir() if folder.is_dir()):
        assert f"{group}: " in answer.out or f"{group}:\n" in answer.out
    assert "__main__" not in answer.out


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"]], ids=["help", "config"])
def test_a_reader_that_stops_early_sees_no_traceback(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` leaves it
    with os.fdopen(writer, "wb") as closed:
        call = [sys.executable, "-m", "rankbench", *words]
        done = subprocess.run(call, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "Traceback" not in done.stderr and "BrokenPipeError" not in done.stderr


def test_the_composed_settings_are_shown_without_running(command_line: Call, tiny: list[str], tmp_path: Path) -> None:
    answer = command_line(*tiny, "--cfg", "job")
    assert (answer.rc, answer.err) == (0, "")
    assert re.search(r"(?m)^adapter:\n(  .*\n)*  r: 4$", answer.out)
    assert not (tmp_path / "runs").exists()


# Runs


@pytest.fixture(scope="module")
def contract_files() -> set[str]:
    return {"config.yaml", "run.log", "metrics.csv", "predictions.parquet", "record.json", "curve.png", "adapter"}


def test_one_command_goes_from_settings_to_record(
    command_line: Call, tiny: list[str], tmp_path: Path, contract_files: set[str]
) -> None:
    answer = command_line(*tiny)
    assert answer.rc == 0, answer.err
    (folder,) = (p for p in (tmp_path / "runs").iterdir() if not p.name.startswith("."))
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == contract_files
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    record = json.loads((folder / "record.json").read_text())
    assert answer.out == f"{summary(record)}\nrecord: {folder / 'record.json'}\n"
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["rank", "1", "2", "3", "4"] and lines[-1].startswith("record: ")
    assert "Every sub-model answers" in answer.out, "four steps teach it nothing"
    assert "Warning" not in answer.err and "Traceback" not in answer.err
    assert record["environment"]["command"] == f"python -m rankbench {shlex.join(tiny)}"
    assert not list((tmp_path / "elsewhere").iterdir())  # nothing beside the run's folder

    again = command_line(*tiny)
    assert (again.rc, again.out) == (0, answer.out)
    assert "already done" in again.err
    assert json.loads((folder / "record.json").read_text()) == record
    assert again.cpu < 0.5 * answer.cpu


def test_fresh_runs_again(call_main: Call, tiny: list[str]) -> None:
    first = call_main(*tiny)
    file = compose_run(*tiny).folder / "record.json"
    before = file.stat().st_mtime_ns
    again = call_main(*tiny, "fresh=true")
    assert first.rc == again.rc == 0
    assert "already done" not in again.err
    assert file.stat().st_mtime_ns > before


def test_a_failing_run_exits_with_one_and_its_record_says_how(call_main: Call, tiny: list[str]) -> None:
    answer = call_main(*tiny, "train.learning_rate=1e30")
    assert answer.rc == 1
    assert "Traceback" not in answer.err
    assert answer.said[-1].startswith("rankbench: ") and "lower train.learning_rate" in answer.said[-1]
    folder = compose_run(*tiny, "train.learning_rate=1e30").folder
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "failed" and record["traceback"].startswith("Traceback")


def test_a_panic_of_a_native_library_is_a_failure(
    call_main: Call, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):  # as Rust's libraries raise it
        pass

    def panic(*_: Any, **__: Any) -> None:
        raise PanicException("stride must be less")

    monkeypatch.setattr("rankbench.runs.work.carry_out", panic)
    answer = call_main(*tiny)
    assert answer.rc == 1 and "stride must be less" in answer.said[-1]
    record = json.loads((compose_run(*tiny).folder / "record.json").read_text())
    assert record["status"] == "failed" and record["traceback"].startswith("Traceback")


@pytest.mark.parametrize(
    ("word", "environment", "says"),
    [
        ("--cfg=job", {}, "--cfg shows the settings of one run; leave -m"),
        ("train.learning_rate=interval(1e-4,1e-3)", {}, "an interval names no values to try; give some of it"),
        ("seed=0", {"WORLD_SIZE": "2", "MASTER_ADDR": "h", "RANK": "0"}, "a sweep starts its own processes"),
    ],
)
def test_what_a_sweep_cannot_be_called_with(
    call_main: Call, monkeypatch: pytest.MonkeyPatch, word: str, environment: dict[str, str], says: str
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    answer = call_main("-m", "seed=0,1", word)
    assert answer.rc == 2 and says in answer.err


@pytest.mark.full
@pytest.mark.parametrize("words", ["seed=glob(*)", "adapter=glob(zz*)", "seed=range(0,0)"])
def test_a_sweep_of_no_run_is_refused(call_main: Call, tiny: list[str], words: str) -> None:
    done = call_main("-m", words, *tiny)
    (line,) = done.said
    assert done.rc == 2 and "no run comes of " in line and words in line and "log.group" not in line


def test_a_sweep_gives_each_run_its_own_folder(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    answer = call_main("-m", *tiny, "seed=0,1", "adapter=dylora,lora", "evaluate.submodels=[1,4]", "train.max_steps=1")
    assert answer.rc == 0, answer.err
    folders = [p for p in (tmp_path / "runs").iterdir() if not p.name.startswith(".")]
    assert len(folders) == 4
    seen = {
        (config["adapter"]["name"], config["seed"])
        for config in (json.loads((p / "record.json").read_text())["config"] for p in folders)
    }
    assert seen == {("dylora", 0), ("dylora", 1), ("lora", 0), ("lora", 1)}


@pytest.mark.full
def test_a_failing_job_does_not_stop_a_sweep(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    answer = call_main("-m", *tiny, "train.learning_rate=1e30,1e-3", "train.max_steps=2")
    assert answer.rc == 1
    statuses = sorted(json.loads(file.read_text())["status"] for file in (tmp_path / "runs").glob("*/record.json"))
    assert statuses == ["done", "failed"]


@pytest.mark.full
def test_a_refused_job_does_not_stop_a_sweep_and_each_is_named(
    call_main: Call, tiny: list[str], tmp_path: Path
) -> None:
    answer = call_main("-m", *tiny, "adapter.r=34,33,2", "train.max_steps=1")  # the model is as wide as 32
    assert answer.rc == 1
    assert "adapter.r=34" in answer.err and "adapter.r=33" in answer.err and "1 done, 2 refused" in answer.out
    (record,) = (tmp_path / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["config"]["adapter"]["r"] == 2


@pytest.mark.full
def test_a_sweep_asked_again_does_only_what_is_missing(call_main: Call, tiny: list[str], tmp_path: Path) -> None:
    words = (*tiny, "train.max_steps=1", "evaluate.submodels=[1]")
    assert call_main("-m", *words, "seed=0,1").rc == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/record.json")}
    answer = call_main("-m", *words, "seed=0,1,2")
    assert answer.rc == 0
    assert "2 of 3 runs are done already" in answer.err and answer.out.count("record: ") == 1
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/record.json")}
    assert len(after) == 3 and before.items() <= after.items()


# What people read fits their terminal


def fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80


def made_up_record(metrics: list[str], trainable: int = 355_000_000) -> dict[str, Any]:
    return {
        "submodels": [
            {
                "rank": rank,
                "metrics": dict.fromkeys(metrics, 0.98765),
                "parameters": {"trainable": trainable},
                "eval_seconds": 1234.5,
            }
            for rank in (1, 64)
        ]
    }


@pytest.mark.parametrize("task", sorted(file.stem for file in (CONF / "task").glob("*.yaml")))
def test_the_table_of_every_task_fits_eighty_columns(task: str) -> None:
    settings = compose_run(f"task={task}", "model=roberta_base").task
    ends = (
        [s.removeprefix("validation") for s in settings.validation_splits] if settings.validation_splits[1:] else [""]
    )
    assert fits(summary(made_up_record([metric + end for end in ends for metric in settings.metrics])))


def test_the_table_of_all_classification_metrics_fits_eighty_columns() -> None:
    assert fits(summary(made_up_record(["accuracy", "f1", "matthews_correlation"])))


def test_the_columns_of_the_table_stand_under_their_names() -> None:
    head, *rows = summary(made_up_record(["accuracy", "matthews_correlation"])).splitlines()
    ends = [match.end() for match in re.finditer(r"\S+( \S+)*", head)]
    for row in rows:
        assert [match.end() for match in re.finditer(r"\S+", row)] == ends
        assert "98.7" in row or "98.8" in row


def test_a_wide_table_leaves_out_what_the_record_holds() -> None:
    text = summary(made_up_record(["exact_match", "exact_match_normalized", "loss", "perplexity"]))
    assert fits(text) and "perplexity" in text and "seconds" not in text


def test_metrics_beyond_eighty_columns_stand_in_a_table_below() -> None:
    names = [f"squad_v2_best_{name}" for name in ("f1", "f1_thresh", "exact_match", "exact_match_thresh")]
    text = summary(made_up_record(names))
    assert fits(text) and all(f" {name}" in text for name in names)
    heads = [line.split() for line in text.splitlines() if line.split()[:1] == ["rank"]]
    assert heads == [["rank", *names[:3]], ["rank", *names[3:]]]


def test_a_whole_model_has_no_rank_in_the_table() -> None:
    record = made_up_record(["accuracy"])
    record["submodels"] = [record["submodels"][0] | {"rank": None}]
    assert summary(record).splitlines()[1].split()[0] == "all"


def test_the_help_fits_eighty_columns(command_line: Call) -> None:
    text = command_line("--help").out.split("== Config")[0]
    assert fits("\n".join(line for line in text.splitlines() if ": " not in line))  # lists of choices may be longer


def test_a_csv_task_runs_as_its_documentation_says(call_main: Call, tmp_path: Path) -> None:
    """Any local data: task=classification task.data_dir=my_data, files in any of the formats."""
    rows = sentences(30)
    write_jsonl(tmp_path / "my_data" / "validation.jsonl", rows[:10])
    lines = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in rows)]
    (tmp_path / "my_data" / "train.csv").write_text("\n".join(lines) + "\n")
    answer = call_main(
        "task=classification",
        f"task.data_dir={tmp_path / 'my_data'}",
        "model=tiny_bert",
        "train=debug",
        f"runs_dir={tmp_path / 'runs'}",
    )
    assert answer.rc == 0, answer.err


@pytest.mark.full
def test_the_runs_of_a_sweep_share_a_group_that_its_repetition_finds_again(
    call_main: Call, tiny: list[str], tmp_path: Path
) -> None:
    words = ["-m", *tiny, "seed=0,1", "train.max_steps=1"]
    assert call_main(*words).rc == 0
    records = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*/record.json")]
    groups = {record["config"]["log"]["group"] for record in records}
    assert len(records) == 2 and len(groups) == 1 and groups.pop().startswith("sweep-")
    assert jobs.group(words) == jobs.group(list(words)) != jobs.group([*words, "seed=2"])
    assert jobs.group(["+sweeps=lora_search", "seed=0,1"]) == "lora_search"
    assert jobs.group(["+sweeps=" + ",".join(["lora_search"] * 20)]).startswith("sweep-")


@pytest.mark.slow
def test_an_installed_deepspeed_says_nothing_on_stdout() -> None:
    """PEFT loads it wherever it is installed, and it warns on stdout, where a table's CSV goes."""
    pytest.importorskip("deepspeed")
    loads = "from deepspeed.accelerator import get_accelerator; get_accelerator()"
    for before, said in (
        ("", True),
        ("from rankbench.system.progress import quiet_libraries; quiet_libraries();", False),
    ):
        done = subprocess.run([sys.executable, "-c", before + loads], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and (done.stdout != "") is (said and not torch.cuda.is_available())
