"""The frozen model and its tokenizer, the device, and the precision with its reason."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from rankbench.errors import RequestError
from rankbench.models import described, drawn, fit, gguf, heads, quantization
from rankbench.settings.model import Model
from rankbench.settings.sources import fetch, fingerprint, hub_of, locate
from rankbench.system import seeds
from rankbench.system.files import expanded

log = logging.getLogger("rankbench")

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
CODE = "trust_remote_code"  # transformers' refusals of a model's own code name it
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True)
class Backbone:
    """A model under the head of a task as loaded, its tokenizer, and where it came from."""

    model: nn.Module
    tokenizer: Any
    origin: dict[str, Any]


def load(
    model: Model,
    num_labels: int | None,
    regression: bool,
    seed: int,
    storage: quantization.Storage = quantization.PLAIN,
    extracts: bool = False,
) -> Backbone:
    """The backbone, stored as `storage` says, with a fresh head of `num_labels` outputs initialised by `seed`.

    Without `num_labels` it is a causal language model under its own head; where it `extracts` answers the two outputs
    are of each token. Raises RequestError.
    """
    from transformers import AutoTokenizer

    source = locate("model", model)
    head: dict[str, Any] = {}
    if extracts:
        head = {"num_labels": num_labels}
    elif num_labels is not None:
        problem = "regression" if regression else "single_label_classification"
        head = {"num_labels": num_labels, "problem_type": problem}
    torch.manual_seed(seeds.integer(seed, "model"))
    if source.kind == "random":
        tokenizer = byte_tokenizer()
        config = _of_layers(model, described.config(model, tokenizer, head))
        with described.builds(model):
            made = _random(config, heads.auto_class(config, num_labels, extracts), storage)
        return Backbone(made, tokenizer, {"source": "random", "fingerprint": "random"})
    folder = fetch("model", model, source, FILES, needed=[("config.json",), ("*.safetensors",), TOKENIZERS])
    packed = folder.suffix == ".gguf"
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if packed and extracts:
        raise RequestError(
            f"{folder} is a GGUF file, which transformers does not read under a head that extracts answers; give "
            "model.path a folder in the hub's format, or have the model write them with task=instruction"
        )
    if packed:
        options["gguf_file"] = folder.name
        gguf.check_installed()
        folder = folder.parent
    else:
        _check_folder(folder)
    called = "model that extracts answers" if extracts else "classifier" if head else "language model"
    whole = _config(folder, **options)  # says what a damaged file is, before anything else stumbles over it
    if model.layers is not None:
        options["num_hidden_layers"] = _of_layers(model, whole).num_hidden_layers
    try:
        tokenizer = gguf.tokenizer(folder, **options) if packed else AutoTokenizer.from_pretrained(folder, **options)
        kind = heads.auto_class(_config(folder, **options), num_labels, extracts)
        loaded = _pretrained(folder, kind, head, storage, options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RequestError(f"{folder} cannot be loaded as a {called}: {_cause(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    fit.check_marks(tokenizer, loaded, folder, num_labels is None)
    loaded.config.pad_token_id = tokenizer.pad_token_id
    greedy(loaded)
    origin: dict[str, Any] = {"source": source.kind, "location": _location(model, source.kind)}
    origin["revision"] = source.revision
    if known := hub_of(model, source):
        origin |= dict(zip(("hub", "revision"), known, strict=True))
    origin["fingerprint"] = fingerprint(source)
    return Backbone(loaded, tokenizer, origin)


def name_classes(model: Any, names: Sequence[str] | None) -> None:
    """Have the model's config say the classes, so that pipelines answer in the data's own words."""
    if names:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: place for place, name in enumerate(names)}


def config_of(model: Model, num_labels: int | None) -> Any:
    """The architecture alone, from where the model lies or from `model.shape`; no weights are read or fetched.

    Raises RequestError when neither is at hand.
    """
    head = {} if num_labels is None else {"num_labels": num_labels}
    source = locate("model", model)
    if source.kind == "random":
        return _of_layers(model, described.config(model, byte_tokenizer(), head))
    if source.kind == "hub" and model.shape:
        return _of_layers(model, described.config(model, None, head))
    folder = fetch("model", model, source, ["config.json"])
    if folder.suffix == ".gguf":
        gguf.check_installed()
        return _of_layers(model, _config(folder.parent, gguf_file=folder.name, **head))
    _check_folder(folder, weights=False)
    return _of_layers(model, _config(folder, trust_remote_code=model.trust_remote_code, **head))


def _of_layers(model: Model, config: Any) -> Any:
    """The architecture with model.layers layers, where that is set. Raises RequestError when it has fewer."""
    if model.layers is None:
        return config
    if model.layers > config.num_hidden_layers:
        raise RequestError(
            f"model.layers={model.layers}: {model.name} has {config.num_hidden_layers}; give that or less"
        )
    config = copy.deepcopy(config)
    config.num_hidden_layers = model.layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: model.layers]
    return config


@functools.lru_cache(maxsize=4)
def _config(folder: Path, **options: Any) -> Any:
    """The architecture as the folder has it; kept, since transformers reads a whole GGUF file for it. Change a copy."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, **options)
    except Exception as error:  # the reader of GGUF files fails in as many ways as a file can be damaged
        file = folder / options.get("gguf_file", "config.json")
        if CODE in str(error):
            raise RequestError(f"{file} cannot be loaded: {_cause(error)}") from error
        raise RequestError(f"{file} cannot be loaded: {_cause(error)}; correct the file or fetch it again") from error


def _cause(error: Exception) -> str:
    """The first line of a library's refusal; where code of the model's is what it refuses, how to allow that."""
    if CODE in str(error):
        return "it brings code of its own, which runs only where model.trust_remote_code=true allows it; read it first"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_folder(folder: Path, weights: bool = True) -> None:
    if not (folder / "config.json").is_file():
        raise RequestError(
            f"{folder} holds no config.json; model.path must be a folder in the hub's format, or a GGUF file"
        )
    if (folder / "adapter_config.json").exists():
        raise RequestError(
            f"{folder} holds a PEFT adapter (adapter_config.json) beside the model, which would not be used; merge it "
            "into the weights, or move it elsewhere"
        )
    if not weights:
        return
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise RequestError(f"{folder} holds no tokenizer ({', '.join(TOKENIZERS)}); copy it from the model's source")
    if not any(folder.glob("*.safetensors")):
        raise RequestError(f"{folder} holds no *.safetensors; convert the weights, pickled files are never loaded")


def _pretrained(
    folder: Path, kind: Any, head: dict[str, Any], storage: quantization.Storage, options: dict[str, Any]
) -> nn.Module:
    config = _config(folder, **options)
    renamed = heads.renamed(kind, config)
    options = {**options, **head, **renamed, "use_safetensors": True, "dtype": storage.dtype}
    options["ignore_mismatched_sizes"] = True  # a head of another width is replaced; anything else is refused below
    packed = "gguf_file" in options
    if packed:
        del options["use_safetensors"]
    streamed = storage.quantized and not packed and storage.settings.block_size == quantization.STREAMED_BLOCK
    if streamed:  # never more floats in memory than one tensor
        with torch.device("meta"):
            skip = quantization.kept_out(kind.from_config(config))
        options |= {
            "quantization_config": quantization.loader_config(storage, skip),
            "device_map": {"": storage.device},
        }
    with quantization.plain_linears() if storage.quantized else contextlib.nullcontext():
        if packed:
            model = gguf.model(kind, folder, **options)
        else:
            model, told = kind.from_pretrained(folder, **options, output_loading_info=True)
            drawn.mark(model, told, folder, bool(head))
            if renamed:
                heads.keep_names(model)
    if storage.quantized:
        if not streamed:
            quantization.quantize(model, storage)
        quantization.settle(model, storage)
    return model if storage.quantized else model.to(storage.device)  # quantized tensors are in their place


def _random(config: Any, kind: Any, storage: quantization.Storage) -> nn.Module:
    if not storage.quantized:
        return kind.from_config(config).to(storage.device)
    from accelerate import init_empty_weights

    with init_empty_weights(), quantization.plain_linears():
        model = kind.from_config(config)
    std = getattr(config, "initializer_range", 0.02)
    quantization.quantize(model, storage, std)
    _fill(model, storage, std)
    quantization.settle(model, storage)
    return model


def _fill(model: nn.Module, storage: quantization.Storage, std: float) -> None:
    """Give the parameters that are still on the meta device values: norms 1, biases 0, matrices random."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                value = torch.empty(parameter.shape, dtype=storage.dtype, device=storage.device)
                if value.dim() > 1:
                    value.normal_(std=std)
                else:
                    value.fill_(float(name == "weight"))
                setattr(module, name, nn.Parameter(value, requires_grad=False))
    model.tie_weights()
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(storage.device))


def longest(backbone: Backbone) -> int:
    """The most tokens the backbone reads."""
    return fit.positions(backbone.model)


def greedy(model: Any) -> None:
    """Leave of a language model's own settings for generation the marks alone: here it is decoded greedily.

    A checkpoint may sample or punish repetition, or say what contradicts itself, and then nothing can be saved.
    """
    from transformers import GenerationConfig

    if model.can_generate():
        own = model.generation_config
        marks = {"bos_token_id": own.bos_token_id, "eos_token_id": own.eos_token_id}
        model.generation_config = GenerationConfig(pad_token_id=model.config.pad_token_id, **marks)


def ends(backbone: Backbone) -> frozenset[int]:
    """The tokens that end a response: the tokenizer's end mark and those that the model's own settings name."""
    settings = getattr(backbone.model, "generation_config", None)
    return end_marks(backbone.tokenizer, getattr(settings, "eos_token_id", None))


def end_marks(tokenizer: Any, named: int | list[int] | None) -> frozenset[int]:
    """As `ends`, given those that the model's settings name."""
    others = [] if named is None else named if isinstance(named, list) else [named]
    return frozenset({tokenizer.eos_token_id, *others})


def byte_tokenizer() -> Any:
    """A tokenizer over bytes that needs no file: 256 bytes and three marks, pairs as [CLS] a [SEP] b [SEP]."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ["[PAD]", "[CLS]", "[SEP]"]
    vocabulary = {token: i for i, token in enumerate(marks + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", eos_token="[SEP]"
    )


def _location(model: Model, kind: str) -> str | None:
    """The place, a folder's from the root: the run may be read back from another folder than it was started in."""
    path = model.path and str(expanded(model.path).absolute())
    return {"path": path, "package": model.package, "hub": model.hub}.get(kind)
