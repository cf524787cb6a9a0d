"""What stands beside the weights of an export: the tokenizer, and the settings for generation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.records.finished import Finished
from rankbench.settings.sources import fetch, locate
from rankbench.shipping.base import same_backbone
from rankbench.system.progress import quiet_libraries

NOT_TOKENIZER = ("adapter_*", "*.safetensors", "*.safetensors.index.json", "rankbench.json", "README.md")
OF_MODEL = ("config.json", "generation_config.json")
TOKENIZER = ["*.json", "*.txt", "*.model", "*.jinja"]


def copied(files: Sequence[Path], folder: Path) -> None:
    """Copy the files into the folder."""
    for file in files:
        shutil.copyfile(file, folder / file.name)


def write_generation(found: Finished, folder: Path) -> None:
    """Have the whole model of a folder generate as it was scored, whatever its base does."""
    from transformers import AutoTokenizer, GenerationConfig

    from rankbench.models import backbone
    from rankbench.tasks import chat_template

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=found.run.model.trust_remote_code)
    named = None
    if (folder / "generation_config.json").is_file():
        named = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
    ends = sorted(backbone.end_marks(tokenizer, named) | chat_template.ends(found.run.task, tokenizer))
    GenerationConfig(
        **found.run.generation.of_transformers,
        max_new_tokens=found.run.task.max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if ends[1:] else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)


def write_tokenizer(found: Finished, folder: Path) -> None:
    """The tokenizer that the run saved; for a run that saved none, the backbone's. It cuts texts where the run did."""
    _write_tokenizer(found, folder)
    file = folder / "tokenizer_config.json"
    if (limit := cut_at(found)) is not None and file.is_file():
        config = json.loads(file.read_text())
        config["model_max_length"] = min(limit, config.get("model_max_length") or limit)
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def cut_at(found: Finished) -> int | None:
    """The tokens at which the run cut its texts; None for a language model, which cuts no prompt."""
    if found.run.task.kind == "causal_lm":
        return None
    saved = found.adapter / "tokenizer_config.json"
    own = json.loads(saved.read_text()).get("model_max_length") if saved.is_file() else None
    return min(found.run.task.max_length, own or found.run.task.max_length)


def tokenizer_of(found: Finished) -> Any:
    """The tokenizer that the run saved; for a run that saved none, the backbone's. Raises RequestError."""
    if not _saved(found):
        return _tokenizer(found)
    quiet_libraries()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(found.adapter, trust_remote_code=found.run.model.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{found.adapter} gives no tokenizer: {str(error).splitlines()[0]}") from error


def _write_tokenizer(found: Finished, folder: Path) -> None:
    if files := _saved(found):
        copied(files, folder)
        return
    quiet_libraries()
    _tokenizer(found).save_pretrained(folder)


def _saved(found: Finished) -> list[Path]:
    """The files of the tokenizer beside the weights; none where none was saved."""
    saved = [
        file
        for file in sorted(found.adapter.iterdir())
        if file.is_file() and file.name not in OF_MODEL and not any(file.match(pattern) for pattern in NOT_TOKENIZER)
    ]
    known = any(file.name.startswith(("tokenizer", "vocab")) or file.suffix == ".model" for file in saved)
    return saved if known else []


def _tokenizer(found: Finished) -> Any:
    from transformers import AutoTokenizer

    from rankbench.models import backbone

    model = same_backbone(found)
    source = locate("model", model)
    if source.kind == "random":
        return backbone.byte_tokenizer()
    path = fetch("model", model, source, TOKENIZER, needed=[("config.json",), backbone.TOKENIZERS])
    gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if gguf else path
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code, **gguf)
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{path} gives no tokenizer: {str(error).splitlines()[0]}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # as the run did
    return tokenizer
