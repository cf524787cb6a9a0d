"""The frozen model and its tokenizer, the device, and the precision with its reason."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from rankbench import seeds
from rankbench.config import Hardware, Model, Precision, Run
from rankbench.sources import RequestError, fetch, fingerprint, locate

log = logging.getLogger("rankbench")

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True)
class Backbone:
    """A sequence classifier as loaded, its tokenizer, and where it came from."""

    model: nn.Module
    tokenizer: Any
    origin: dict[str, Any]


def choose_precision(run: Run) -> tuple[str, str]:
    """The arithmetic of the step (fp32, fp16 or bf16) and the reason for it. Raises RequestError."""
    asked = run.train.precision
    cuda = torch.cuda.is_available()
    if asked is Precision.fp16 and not cuda:
        raise RequestError("train.precision=fp16 needs a GPU and none is visible; use train.precision=fp32 or bf16")
    if asked is Precision.bf16 and cuda and torch.cuda.get_device_capability() < (8, 0):
        raise RequestError(f"{torch.cuda.get_device_name()} has no bf16; use train.precision=fp32 or fp16")
    if asked is not Precision.auto:
        return asked.value, "as asked"
    if not cuda:
        return "fp32", "no GPU is visible"
    if run.hardware is Hardware.v100:
        return "fp32", "hardware=v100: a V100 has no bf16, and fp16 is opt-in"
    if torch.cuda.get_device_capability() >= (8, 0):
        return "bf16", f"{torch.cuda.get_device_name()} computes bf16"
    return "fp32", f"{torch.cuda.get_device_name()} has no bf16, and fp16 is opt-in"


def device_name() -> str:
    """The device that a run uses, for its record."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def load(model: Model, num_labels: int, regression: bool, seed: int) -> Backbone:
    """The backbone with a fresh head of `num_labels` outputs, initialised by `seed`. Raises RequestError."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    source = locate("model", model)
    problem = "regression" if regression else "single_label_classification"
    torch.manual_seed(seeds.integer(seed, "model"))
    if source.kind == "random":
        tokenizer = byte_tokenizer()
        settings = {"vocab_size": len(tokenizer), **(source.random or {})}
        settings |= {"num_labels": num_labels, "problem_type": problem, "pad_token_id": tokenizer.pad_token_id}
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        return Backbone(
            AutoModelForSequenceClassification.from_config(config),
            tokenizer,
            {"source": "random", "fingerprint": "random"},
        )
    folder = fetch("model", model, source, FILES, needed=[("config.json",), ("*.safetensors",), TOKENIZERS])
    if not (folder / "config.json").is_file():
        raise RequestError(f"{folder} holds no config.json; model.path must be a folder in the hub's format")
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise RequestError(f"{folder} holds no tokenizer ({', '.join(TOKENIZERS)}); copy it from the model's source")
    if not any(folder.glob("*.safetensors")):
        raise RequestError(f"{folder} holds no *.safetensors; convert the weights, pickled files are never loaded")
    options = {"trust_remote_code": model.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        loaded = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=num_labels,
            problem_type=problem,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head of another width is replaced
            **options,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RequestError(f"{folder} cannot be loaded as a classifier: {str(error).splitlines()[0]}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    loaded.config.pad_token_id = tokenizer.pad_token_id
    origin = {"source": source.kind, "location": _location(model, source.kind), "revision": source.revision}
    origin["fingerprint"] = fingerprint(source)
    return Backbone(loaded, tokenizer, origin)


def longest(backbone: Backbone) -> int:
    """The most tokens the backbone reads; RoBERTa-like models keep their first positions, up to padding, unused."""
    config = backbone.model.config
    positions = getattr(config, "max_position_embeddings", None) or sys.maxsize
    reserved = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return positions - reserved


def byte_tokenizer() -> Any:
    """A tokenizer over bytes that needs no file: 256 bytes and three marks, pairs as [CLS] a [SEP] b [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ["[PAD]", "[CLS]", "[SEP]"]
    vocabulary = {token: i for i, token in enumerate(marks + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", eos_token="[SEP]"
    )


def _location(model: Model, kind: str) -> str | None:
    return {"path": model.path and str(Path(model.path)), "package": model.package, "hub": model.hub}.get(kind)
