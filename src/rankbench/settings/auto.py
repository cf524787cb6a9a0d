"""`model=auto`: what a preset says of a model, found from the model's config.json alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from rankbench.errors import RequestError
from rankbench.settings import gguf_header
from rankbench.settings.base import require
from rankbench.settings.model import Model
from rankbench.settings.sources import fetch, locate

if TYPE_CHECKING:
    from rankbench.settings.run import Run

NAME = "auto"
ALL_LINEAR = ["all-linear"]
# PEFT's TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, turned round. A copy, so that a run's id does not hang on
# the PEFT that is installed; `tests/settings/test_auto.py` holds it to PEFT's.
PEFT_TARGETS = {
    "query value": "bert roberta xlm-roberta electra layoutlm",
    "query_proj value_proj": "deberta-v2",
    "in_proj": "deberta",
    "q_proj v_proj": "llama mistral mixtral qwen2 qwen3 gemma gemma2 gemma3_text opt gptj gpt_neo stablelm",
    "q_proj v_proj fc1 fc2": "phi",
    "query_key_value": "bloom falcon gpt_neox chatglm RefinedWeb RefinedWebModel",
    "c_attn": "gpt2 gpt_bigcode",
    "Wqkv": "mpt",
    "qkv_proj": "codegen",
}
RATES = {"encoder": 4e-4, "decoder": 2e-4, "model": 2e-4}  # what most presets of a kind have
OTHERS = {  # what a config.json has of a model that reads no text, or not text alone
    "images": ("vision_config", "image_size", "patch_size"),
    "sound": ("audio_config", "num_mel_bins", "feat_extract_norm"),
}


@dataclass(frozen=True)
class Found:
    """What stands for a preset: the layers that hold an adapter, a learning rate, and why."""

    model_type: str
    kind: str
    target_modules: list[str]
    learning_rate: float
    preset: Model | None = None


def settle(run: Run) -> None:
    """Give the model of `model=auto` its name, and what its preset says where its weights are a preset's.

    Raises RequestError where it is no model for the task.
    """
    model, found = run.model, look(run.model)
    if run.task.kind == "causal_lm":
        require(found.kind != "encoder", encoder_cannot_write(found.model_type))
    known = found.preset
    if known is None:
        model.name = model.place_name() if model.name == NAME else model.name
    else:
        model.preset = None if model.name == NAME else known.name
        model.name = known.name if model.name == NAME else model.name
        for key in ("hub", "revision", "sha256", "shape", "exits"):
            if getattr(model, key) is None:
                setattr(model, key, getattr(known, key))
    model.found = _said(run, found)


def encoder_cannot_write(model_type: str) -> str:
    """The refusal of an encoder that should generate."""
    return (
        f"a {model_type} model is an encoder and cannot write a response; choose a decoder, such as "
        "model=smollm2_135m, or a classification task"
    )


def look(model: Model) -> Found:
    """What there is to find, from the model's config.json or the head of its GGUF file. Raises RequestError."""
    given = [key for key in ("path", "package", "hub", "random") if getattr(model, key)]
    require(
        bool(given),
        "model=auto wants to know which model: give model.path=<a folder in the hub's format, or a GGUF file>, or "
        "model.hub=OWNER/NAME model.revision=COMMIT",
    )
    config, where = _config(replace(model, name=model.place_name()))
    model_type = config.get("model_type")
    require(
        isinstance(model_type, str),
        f"{where} names no model_type, so nothing can be found from it; correct it, or choose the model= whose layers "
        "have the same names",
    )
    assert isinstance(model_type, str)
    _refuse_others(config, model_type, where)
    if (known := _preset(model, config)) is not None:
        return Found(model_type, kind_of(config), known.target_modules, known.learning_rate, known)
    kind = kind_of(config)
    return Found(model_type, kind, targets_of(model_type), RATES[kind])


def targets_of(model_type: str) -> list[str]:
    """The layers that PEFT adapts in models of this type; all linear ones where it has no entry."""
    named = (targets.split() for targets, types in PEFT_TARGETS.items() if model_type in types.split())
    return next(named, list(ALL_LINEAR))


def kind_of(config: Mapping[str, Any]) -> str:
    """encoder, decoder, or model where its config.json does not say which."""
    names = " ".join(config.get("architectures") or [])
    if "bert" in config["model_type"] or "electra" in config["model_type"] or "ForMaskedLM" in names:
        return "encoder"
    if config["model_type"] in ("mpnet", "xlm", "longformer", "big_bird", "funnel", "layoutlm"):
        return "encoder"
    writes = "ForCausalLM" in names or "LMHead" in names
    return "decoder" if writes or targets_of(config["model_type"]) != ALL_LINEAR else "model"


def _refuse_others(config: Mapping[str, Any], model_type: str, where: object) -> None:
    mend = "give an encoder (BERT's kin) for a classification, or a decoder (Llama's kin)"
    both = config.get("is_encoder_decoder") or model_type in ("t5", "mt5", "umt5")
    require(not both, f"{where}: a {model_type} model is an encoder and a decoder, which no method here trains; {mend}")
    for what, keys in OTHERS.items():
        has = next((key for key in keys if key in config), None)
        text = f"; a {model_type} has its text model apart, in another checkpoint" if "text_config" in config else ""
        require(has is None, f"{where}: a {model_type} model reads {what} ({has}); {mend}{text}")


def _config(model: Model) -> tuple[dict[str, Any], object]:
    """The architecture as it is written, and where. Raises RequestError."""
    source = locate("model", model)
    if source.kind == "random":
        return dict(model.random or {}), "model.random"
    if source.kind == "hub" and model.shape:
        return dict(model.shape), "model.shape"
    place = fetch("model", model, source, ["config.json"])
    if place.is_file():
        return {"model_type": gguf_header.model_type(place), "architectures": ["ForCausalLM"]}, place
    file = place / "config.json"
    require(
        file.is_file(), f"{place} holds no config.json; model.path must be a folder in the hub's format, or a GGUF file"
    )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} cannot be read: {error}; correct the file or fetch it again") from error
    return found if isinstance(found, dict) else {}, file


def _preset(model: Model, config: Mapping[str, Any]) -> Model | None:
    """The preset whose weights these are, as far as can be told without a network."""
    for preset in _presets():
        shape = preset.shape or {}
        if any(key in config and config[key] != value for key, value in shape.items()):
            continue  # so that large files are not read for nothing
        if (
            model.path is None
            and model.hub is not None
            and (model.hub, model.revision) == (preset.hub, preset.revision)
        ):
            return preset
        places: dict[str, Any] = {"path": model.path, "package": preset.package if model.path else model.package}
        if (model.path or model.package) and replace(preset, **places).same_as(preset):
            return preset
    return None


@functools.cache
def _presets() -> list[Model]:
    """The packaged presets that have a shape."""
    from rankbench.settings.compose import CONF

    read: list[Any] = [OmegaConf.load(file) for file in sorted((CONF / "model").glob("*.yaml"))]
    whole: list[Any] = [OmegaConf.to_container(one) for one in read if one.get("shape")]
    return [Model(**one) for one in whole]


def _said(run: Run, found: Found) -> str:
    """What was found, of which the run uses what its settings do not say otherwise."""
    if found.preset is not None:
        return f"the weights of model={found.preset.name}, whose settings these are"
    parts = []
    held = None if run.adapter.keeps_every_weight else getattr(run.adapter, "target_modules", None)
    if held == ("all-linear" if found.target_modules == ALL_LINEAR else found.target_modules):
        whose = "every linear layer" if found.target_modules == ALL_LINEAR else f"PEFT's choice for {found.model_type}"
        parts.append(f"adapter.target_modules={_text(found.target_modules)} ({whose})")
    if run.train.learning_rate == found.learning_rate:
        parts.append(f"train.learning_rate={found.learning_rate:g} (as presets of its kind)")
    return "; ".join([f"{found.model_type}, {'an' if found.kind == 'encoder' else 'a'} {found.kind}", *parts])


def _text(targets: list[str]) -> str:
    return "all-linear" if targets == ALL_LINEAR else f"[{','.join(targets)}]"
