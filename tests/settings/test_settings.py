"""Settings: every file in conf/ composes, wrong ones are refused by key, and a run's identity is its content."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    CONF,
    REPOSITORY,
    compose,
    compose_run,
    composed_by_hydra,
    needs,
    refused,
    tiny_overrides,
    write_tiny,
)
from omegaconf import OmegaConf

from rankbench.errors import RequestError
from rankbench.records.record import load_records
from rankbench.settings.base import added
from rankbench.settings.compose import of_record
from rankbench.settings.identity import PLACES, VOLATILE, identity, settings
from rankbench.settings.kinds import KINDS, NEUTRAL
from rankbench.settings.methods import METHODS
from rankbench.settings.methods.dylora import Update
from rankbench.settings.methods.lora import Lora, Scale
from rankbench.settings.quantization import STORED
from rankbench.settings.run import Run
from rankbench.settings.samplers import SAMPLERS

CHOICES = sorted(f"{file.parent.name}={file.stem}" for file in CONF.glob("*/*.yaml"))
CHOICES.remove("model=auto")  # which wants to know of a place: tests/settings/test_auto.py
COMPANIONS = {"sampler": ["adapter=sorted_lora"], "generation": ["task=triviaqa", "model=tiny_llama"]}
NAMED = {"int8_activation12": "int8"}  # choices that are settings of another one
SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes_and_passes_the_checks(choice: str) -> None:
    group, name = choice.split("=")
    needs(name)
    run = compose_run(choice, *COMPANIONS.get(group, []))
    if group != "train":
        assert getattr(run, group).name == NAMED.get(name, name)
    assert settings(run)["seed"] == 0


@pytest.mark.parametrize("adapter", METHODS)
@pytest.mark.parametrize("task", ["mrpc", "stsb"])
@pytest.mark.full
def test_every_adapter_composes_with_every_kind_of_task(adapter: str, task: str) -> None:
    run = compose_run(f"adapter={adapter}", f"task={task}", "model=roberta_base")
    assert (run.adapter.name, run.task.name) == (adapter, task)


@pytest.mark.parametrize("group", ["adapter", "sampler", "quantization"])
def test_the_names_that_code_knows_are_those_that_conf_offers(group: str) -> None:
    known = STORED if group == "quantization" else KINDS[group]
    assert sorted(known) == sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model=tiny_gpt2", "adapter=dylora_late", "adapter.r=3", "sampler.ranks=[1,3]", "train.learning_rate=1e-2"),
        (
            "model=tiny_llama",
            "task=triviaqa",
            "adapter=sft",
            "task.data_dir=x",
            "model.random.hidden_size=4",
            "hardware=v100",
        ),
    ],
)
def test_what_the_tests_compose_is_what_hydra_composes(words: tuple[str, ...]) -> None:
    assert OmegaConf.to_object(compose(*words)) == OmegaConf.to_object(composed_by_hydra(*words))


def test_every_group_has_a_default() -> None:
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    defaults = {next(iter(d)) for d in OmegaConf.load(CONF / "config.yaml").defaults if OmegaConf.is_dict(d)}
    assert groups <= {str(name) for name in defaults}


def test_a_bare_call_is_dylora_with_the_uniform_sampler() -> None:
    run = compose_run()
    assert (run.adapter.name, run.sampler.name, run.adapter.scale) == ("dylora", "uniform", Scale.alpha_over_b)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_an_adapter_of_one_size_takes_the_fixed_sampler_by_itself(adapter: str) -> None:
    assert compose_run(f"adapter={adapter}").sampler.name == "fixed"


def test_plain_lora_keeps_the_scale_it_trains_with() -> None:
    assert compose_run("adapter=lora").adapter.scale is Scale.alpha_over_r


def test_the_learning_rate_is_the_models_unless_given() -> None:
    assert compose_run("model=roberta_base").train.learning_rate == 4e-4
    assert compose_run("model=roberta_base", "train.learning_rate=1e-2").train.learning_rate == 1e-2
    assert compose_run("model=roberta_base", "adapter=full").train.learning_rate == 5e-5
    assert compose_run("model=roberta_base", "adapter=full", "train.learning_rate=1e-2").train.learning_rate == 1e-2


def test_the_layers_to_adapt_are_the_models_unless_given() -> None:
    assert compose_run("model=gpt2_medium").adapter.target_modules == ["c_attn"]
    assert compose_run("model=gpt2_medium", "adapter.target_modules=[c_fc]").adapter.target_modules == ["c_fc"]
    assert compose_run("model=gpt2_medium", "adapter.target_modules=all-linear").adapter.target_modules == "all-linear"


@pytest.mark.parametrize(
    "key",
    [
        "seed", "runs_dir", "fresh", "model.path", "task.data_dir", "task.max_train_examples", "task.max_eval_examples",
        "adapter.r", "adapter.lora_alpha", "adapter.lora_dropout", "adapter.target_modules", "adapter.update",
        "train.max_steps", "train.epochs", "train.batch_size", "train.gradient_accumulation_steps",
        "train.learning_rate", "train.precision", "train.eval_batch_size", "evaluate.submodels", "hardware",
    ],
)  # fmt: skip
def test_the_keys_that_scripts_rely_on_exist(key: str) -> None:
    node: Any = compose_run("model=tiny_bert")
    for part in key.split("."):
        assert part in {field.name for field in fields(node)}
        node = getattr(node, part)
    assert not is_dataclass(node)


@pytest.mark.parametrize("update", [update.value for update in Update])
def test_every_update_can_be_asked_for(update: str) -> None:
    assert compose_run(f"adapter.update={update}").adapter.update is Update(update)


@pytest.mark.parametrize("adapter", METHODS)
def test_what_peft_calls_its_settings_every_method_takes(adapter: str) -> None:
    """So that one sweep may name all methods."""
    words = ["adapter.r=4", "adapter.lora_alpha=8", "adapter.lora_dropout=0.1", "adapter.target_modules=all-linear"]
    assert vars(compose_run(f"adapter={adapter}", *words).adapter)["r"] == 4


# Refusals

REFUSED = [
    (["adapter.r=0"], ["adapter.r=0", "adapter.r=8"]),
    (["adapter.r=-3"], ["adapter.r=-3"]),
    (["adapter.lora_alpha=0"], ["adapter.lora_alpha=0", "above 0"]),
    (["adapter.lora_alpha=nan"], ["adapter.lora_alpha=nan"]),
    (["adapter.lora_alpha=inf"], ["adapter.lora_alpha=inf"]),
    (["adapter.lora_dropout=1"], ["adapter.lora_dropout=1", "[0, 1)"]),
    (["adapter.lora_dropout=-0.1"], ["adapter.lora_dropout=-0.1"]),
    (["adapter.target_modules=[]"], ["adapter.target_modules", "all-linear"]),
    (["adapter.target_modules=null"], ["adapter.target_modules", "all-linear"]),
    (["adapter.target_modules=[3]"], ["adapter.target_modules", "[query,value]"]),
    (["adapter.target_modules=7"], ["adapter.target_modules", "[query,value]"]),
    (["adapter.name=lorra"], ["adapter.name=lorra", "lora|dylora|dylora_late|qdylora|full"]),
    (["sampler.name=unifrom"], ["sampler.name=unifrom", "uniform"]),
    (["quantization.name=nf3"], ["quantization.name=nf3", "none"]),
    (["log.name=tensorboard"], ["log.name=tensorboard", "wandb"]),
    (["log.mode=of"], ["log.mode=of", "offline"]),
    (["sampler.ranks=[0,1]"], ["sampler.ranks", "[0]", "1..8"]),
    (["sampler.ranks=[4,16]"], ["sampler.ranks", "[16]", "adapter.r", "1..8"]),
    (["sampler.ranks=[2,4,2]"], ["sampler.ranks=[2, 4, 2]", "twice"]),
    (["sampler.ranks=[]"], ["sampler.ranks", "empty"]),
    (["sampler=geometric", "sampler.p=1"], ["sampler.p=1", "between 0 and 1"]),
    (["sampler=geometric", "sampler.p=0"], ["sampler.p=0"]),
    (["adapter=lora", "sampler=uniform"], ["adapter=lora", "sampler=uniform", "adapter=dylora"]),
    (["adapter=lora", "sampler=all"], ["adapter=lora", "sampler=all", "adapter=dylora"]),
    (["adapter=full", "sampler=geometric"], ["adapter=full", "sampler=geometric"]),
    (["adapter.update=frozen_grad", "sampler=all"], ["frozen_grad", "sampler=all", "sampler=uniform"]),
    (["adapter.update=frozen_strict", "sampler=sandwich"], ["frozen_strict", "sampler=sandwich", "sampler=uniform"]),
    (["evaluate.submodels=some"], ["evaluate.submodels=some", "all", "[1,8]"]),
    (["evaluate.submodels=4"], ["evaluate.submodels=4", "list of ranks"]),
    (["evaluate.submodels=[]"], ["evaluate.submodels=[]"]),
    (["evaluate.submodels=[1,9]"], ["evaluate.submodels=[1, 9]", "1..8"]),
    (["evaluate.submodels=[0]"], ["evaluate.submodels=[0]", "1..8"]),
    (["evaluate.submodels=[1,2,1]"], ["evaluate.submodels=[1, 2, 1]", "twice"]),
    (["evaluate.submodels=[1.5]"], ["evaluate.submodels=[1.5]"]),
    (["evaluate.submodels=[one]"], ["evaluate.submodels=['one']"]),
    (["evaluate.submodels=[true]"], ["evaluate.submodels=[True]"]),
    (["evaluate.submodels=null"], ["evaluate.submodels=None", "all"]),
    (["evaluate.submodels={a:1}"], ["evaluate.submodels", "all"]),
    (["train.epochs=0"], ["train.epochs=0", "at least 1"]),
    (["train.batch_size=0"], ["train.batch_size=0", "at least 1"]),
    (["train.gradient_accumulation_steps=0"], ["train.gradient_accumulation_steps=0"]),
    (["train.eval_batch_size=-1"], ["train.eval_batch_size=-1"]),
    (["train.checkpoint_steps=0"], ["train.checkpoint_steps=0"]),
    (["train.max_steps=0"], ["train.max_steps=0", "or null"]),
    (["train.eval_steps=0"], ["train.eval_steps=0", "or null"]),
    (["train.log_steps=0"], ["train.log_steps=0"]),
    (["train.learning_rate=0"], ["train.learning_rate=0", "above 0"]),
    (["train.learning_rate=nan"], ["train.learning_rate=nan"]),
    (["train.learning_rate=inf"], ["train.learning_rate=inf"]),
    (["train.weight_decay=-0.1"], ["train.weight_decay=-0.1"]),
    (["train.max_grad_norm=-1"], ["train.max_grad_norm=-1", "0 (off)"]),
    (["train.warmup_ratio=1.5"], ["train.warmup_ratio=1.5", "[0, 1]"]),
    (["train.warmup_steps=-1"], ["train.warmup_steps"]),
    (["hardware=v100", "train.precision=bf16"], ["hardware=v100", "bf16", "train.precision=fp32"]),
    (["cluster.gpus=2", "cluster.processes=4"], ["cluster.processes=4", "cluster.gpus=2", "share a card"]),
    (["task.text_columns=[]"], ["task.text_columns", "one column"]),
    (["task.text_columns=[a,b,c]"], ["task.text_columns"]),
    (["task.validation_splits=[]"], ["task.validation_splits"]),
    (["task.validation_fraction=1"], ["task.validation_fraction=1"]),
    (["task.validation_fraction=-0.1"], ["task.validation_fraction=-0.1"]),
    (["task.max_length=2"], ["task.max_length=2", "at least 4"]),
    (["task.max_train_examples=0"], ["task.max_train_examples=0", "null"]),
    (["task.max_eval_examples=-5"], ["task.max_eval_examples=-5", "null"]),
    (["task.metrics=[acuracy]"], ["acuracy", "accuracy", "spearman"]),
    (["task.metrics=[pearson]"], ["pearson", "classification"]),
    (["task=stsb", "task.metrics=[accuracy]"], ["accuracy", "regression"]),
    (["task.metrics=[]"], ["task.metrics", "at least one"]),
    (["seed=-1"], ["seed=-1"]),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_settings_that_contradict_each_other_are_refused_in_one_line(overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(RequestError) as refusal:
        compose_run("model=tiny_bert", *overrides)
    for words in expected:
        assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_group_without_a_choice_is_refused_by_its_key() -> None:
    with pytest.raises(RequestError, match=r"log\.name"):
        compose_run("~log")


@pytest.mark.parametrize(
    "override",
    ["seed=one", "adapter.r=2.5", "train.precision=fp8", "adapter.update=frozen", "fresh=perhaps", "hardware=a100",
     "sampler.ranks=[a]", "train.batch_size=null", "train.schedule=step", "task.metrics=accuracy"],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused(override: str) -> None:
    with pytest.raises(Exception, match="(?s)" + re.escape(override.split("=")[0])):
        compose("model=tiny_bert", override)


# Identity


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A tiny run over its own copy of the data, without what its identity is tested against."""
    return tiny_overrides(write_tiny(tmp_path / "data"), tmp_path / "runs")


def test_the_same_settings_are_the_same_run(words: list[str]) -> None:
    first, again = compose_run(*words), compose_run(*reversed(words))
    assert first.run_id == again.run_id
    assert re.fullmatch(r"classification-tiny_bert-dylora-[0-9a-f]{10}", first.run_id)


def test_a_runs_folder_is_its_identity_below_runs_dir(words: list[str], tmp_path: Path) -> None:
    run = compose_run(*words)
    assert run.folder == tmp_path / "runs" / run.run_id


@pytest.mark.parametrize(
    "override",
    ["runs_dir=elsewhere", "fresh=true", "log=wandb", "log.mode=offline", "log.project=other", "log.group=a",
     "train.eval_batch_size=3", "train.eval_steps=2", "train.checkpoint_steps=7", "train.log_steps=1"],
)  # fmt: skip
def test_what_cannot_change_a_result_is_no_part_of_the_identity(words: list[str], override: str) -> None:
    assert compose_run(*words, override).run_id == compose_run(*words).run_id


@pytest.mark.parametrize(
    "override",
    ["seed=1", "train.learning_rate=2e-3", "adapter.r=2", "adapter.lora_alpha=8", "adapter.lora_dropout=0.1",
     "adapter.update=frozen_grad", "adapter.target_modules=[query]", "sampler=geometric", "sampler.ranks=[1,4]",
     "train.max_steps=5", "train.batch_size=4", "train.gradient_accumulation_steps=2", "train.precision=bf16",
     "train.schedule=cosine", "train.weight_decay=0", "task.max_train_examples=10", "task.max_eval_examples=10",
     "task.max_length=32", "evaluate.submodels=[1]", "hardware=v100", "adapter=lora", "model=tiny_gpt2",
     "model.random.hidden_size=16", "task.metrics=[f1]", "train.group_by_length=false"],
)  # fmt: skip
@pytest.mark.full
def test_what_can_change_a_result_is_part_of_the_identity(words: list[str], override: str) -> None:
    assert compose_run(*words, override).run_id != compose_run(*words).run_id


def test_no_two_of_these_runs_share_an_identity(words: list[str]) -> None:
    runs = [
        compose_run(*words, f"seed={seed}", f"adapter.r={r}", f"train.learning_rate={lr}")
        for seed in (0, 1)
        for r in (2, 4)
        for lr in (1e-3, 2e-3)
    ]
    assert len({run.run_id for run in runs}) == len(runs)


def test_moved_data_with_the_same_content_is_the_same_run(words: list[str], tmp_path: Path) -> None:
    moved = tmp_path / "far" / "away"
    shutil.copytree(tmp_path / "data", moved)
    assert compose_run(*words, f"task.data_dir={moved}").run_id == compose_run(*words).run_id


def test_a_relative_path_to_the_same_data_is_the_same_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose_run(*words, "task.data_dir=data").run_id == compose_run(*words).run_id


def test_changed_data_is_another_run(words: list[str], tmp_path: Path) -> None:
    before = compose_run(*words).run_id
    file = tmp_path / "data" / "train.jsonl"
    file.write_text(file.read_text().replace('"label": 0', '"label": 1', 1))
    assert compose_run(*words).run_id != before


def test_another_model_in_the_same_place_is_another_run(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    ids = set()
    for content in ("{}", '{"a": 1}'):
        (tmp_path / "model" / "config.json").write_text(content)
        ids.add(compose_run(*words, f"model.path={tmp_path / 'model'}").run_id)
    assert len(ids) == 2


@pytest.mark.parametrize("key", ["hub", "hub_config", "revision"])
def test_another_part_of_the_hub_is_another_run(key: str) -> None:
    base = ("task=sst2", "model=roberta_base")
    assert compose_run(*base, f"task.{key}=another").run_id != compose_run(*base).run_id


def test_the_identity_holds_every_other_setting(words: list[str]) -> None:
    """A setting added later is part of the identity unless it is listed as unable to change a result."""
    run = compose_run(*words)

    def keys(node: Any, prefix: str = "") -> set[str]:
        if not isinstance(node, dict):
            return {prefix[:-1]}
        return set().union(*(keys(value, f"{prefix}{key}.") for key, value in node.items()))

    left_out = keys(settings(run)) - keys(identity(run))
    places = {f"{group}.{key}" for group in ("model", "task") for key in PLACES}
    volatile = {key for key in left_out if any(key == v or key.startswith(f"{v}.") for v in VOLATILE)}
    neutral = {key for key in left_out if any(key == name or key.startswith(f"{name}.") for name in NEUTRAL)}
    assert left_out - volatile - neutral <= places


@pytest.mark.parametrize(
    "change", ["task.max_new_tokens=3", "quantization.block_size=128", "quantization.double_quant=false"]
)
def test_a_setting_that_came_later_counts_once_it_is_changed(words: list[str], change: str) -> None:
    assert compose_run(*words, change).run_id != compose_run(*words).run_id


@pytest.mark.full
def test_committed_records_keep_their_identity() -> None:
    """A record alone gives its run's id: no folder is looked at, and settings that came later moved none."""
    records = load_records(REPOSITORY / "benchmarks" / "results")
    assert len(records) > 200
    for record in records:
        run, at = of_record(record["config"]), record["sources"]
        if run.adapter.begins_with is None:
            assert run.id_of(identity(run, at)) == record["run_id"]
        else:  # older records do not say what lay where they began
            assert {"start"} == {"start", "model", "task"} - set(at)


def test_a_run_leaves_what_its_identity_was_made_of(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((finished / "record.json").read_text())
    monkeypatch.setattr("rankbench.settings.identity.fingerprint", lambda _: pytest.fail("a folder was looked at"))
    run = of_record(record["config"])
    assert run.id_of(identity(run, record["sources"])) == record["run_id"] == finished.name


@dataclass
class Later(Lora):
    """LoRA of a later version, with settings that there were not before."""

    pace: int = added(3)
    width: int = added(5, neutral=1)


def with_later(run: Run, **values: Any) -> Run:
    return replace(run, adapter=Later(**vars(run.adapter) | values))


def test_a_setting_that_is_added_leaves_earlier_runs_where_they_were(words: list[str]) -> None:
    run = compose_run(*words, "adapter=lora")
    assert with_later(run, width=1).run_id == run.run_id
    assert with_later(run, width=1, pace=4).run_id != run.run_id


def test_a_changed_default_moves_the_run(words: list[str]) -> None:
    """`width` began as 1 and is 5 by default now: a run that says nothing is another run than before."""
    run = compose_run(*words, "adapter=lora")
    assert with_later(run).run_id != run.run_id
    assert with_later(run).run_id == with_later(run, width=5, pace=3).run_id


def test_every_setting_says_what_it_means() -> None:
    """The reference in the documents is made of the words below each field."""
    for kind in {*METHODS.values(), *SAMPLERS.values(), *(type(getattr(Run(), f.name)) for f in fields(Run)), Run}:
        for setting in fields(kind) if is_dataclass(kind) else ():
            assert meaning(kind, setting.name), f"{kind.__name__}.{setting.name}"


def meaning(kind: type, name: str) -> str:
    """The words below a field, in the class that has it."""
    for owner in kind.__mro__[:-1]:
        body = ast.parse(inspect.getsource(owner)).body[0].body  # type: ignore[attr-defined]
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and getattr(field.target, "id", "") == name:
                return below.value.value if isinstance(below, ast.Expr) else ""
    return ""


NOT_ITS_OWN = [
    (["adapter=lora", "adapter.target_sparsity=0.3"], ["adapter=lora has no setting", "adapter=flop, lora_gated"]),
    (["adapter=lora", "adapter.update=frozen_grad"], ["adapter=lora has no setting update", "dylora"]),
    (["adapter=sft", "adapter.start_from=x"], ["adapter=sft has no setting start_from", "adapter=early_exit has it"]),
    (["adapter=full", "sampler.ranks=[1]"], ["sampler=fixed has no setting ranks", "uniform"]),
    (["adapter=dylora_late", "sampler=all"], ["sampler.per_row", "adapter=dylora_late sets", "sandwich"]),
    (["sampler=all", "sampler.p=0.2"], ["sampler=all has no setting p", "sampler=geometric has it"]),
    (["adapter.rank=3"], ["adapter.rank: no such setting", "lora_alpha"]),
]


@pytest.mark.parametrize(("overrides", "expected"), NOT_ITS_OWN, ids=[" ".join(words) for words, _ in NOT_ITS_OWN])
def test_a_setting_of_another_method_is_refused_by_who_has_it(overrides: list[str], expected: list[str]) -> None:
    said = refused(*overrides)
    assert all(words in said for words in expected) and "\n" not in said, said


def test_settings_are_plain_values_and_compose_to_the_same_run(words: list[str]) -> None:
    run = compose_run(*words, "adapter.update=frozen_grad", "sampler.ranks=[1,4]")
    plain = settings(run)
    assert plain["adapter"]["update"] == "frozen_grad"
    assert of_record(json.loads(json.dumps(plain))) == run


@pytest.mark.parametrize(("chosen", "ranks"), [("all", [1, 2, 3, 4]), ("[4,1]", [1, 4]), ("[3]", [3])])
def test_the_ranks_to_measure(words: list[str], chosen: str, ranks: list[int]) -> None:
    run = compose_run(*words, f"evaluate.submodels={chosen}")
    assert [b for b in range(1, 5) if run.evaluate.measures(b, None)] == ranks
    assert run.evaluate.measures(None, None)  # a whole model is always measured


def test_the_exits_to_measure(words: list[str]) -> None:
    run = compose_run(*words, "adapter=sorted_lora", "adapter.r=4", "evaluate.submodels=[10,30]")
    assert run.evaluate.measures(2, 10) and not run.evaluate.measures(10, 2)


# What must not be in the tree


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_no_config_file_names_code_to_call(file: Path) -> None:
    assert "_target_" not in file.read_text()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_the_source_loads_no_pickle_and_calls_no_named_code(file: Path) -> None:
    text = file.read_text()
    for forbidden in (
        "_target_",
        "trust_remote_code=True",
        "trust_remote_code: bool = True",
        "hydra.utils.instantiate",
    ):
        assert forbidden not in text
    assert not re.search(r"\b(c?pickle|joblib|dill|cloudpickle|shelve|marshal)\b", text)
    safe = re.compile(r"\bnp\.load\([^()]*, allow_pickle=False\)")
    for node in ast.walk(ast.parse(safe.sub("read", text))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("pd", "read_pickle"), ("np", "load")}


def test_remote_code_is_off_unless_turned_on() -> None:
    assert all(not compose_run(choice).model.trust_remote_code for choice in CHOICES if choice.startswith("model="))


def test_the_sources_are_there_to_be_searched() -> None:
    assert {"run.py", "data.py", "backbone.py", "checkpoints.py"} <= {file.name for file in SOURCES}
