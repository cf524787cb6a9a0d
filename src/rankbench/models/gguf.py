"""Models and tokenizers in GGUF files, read once in a process.

Reading even a small one takes transformers half a minute. Folders of safetensors are left to be read again, which is
as fast as a copy.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from rankbench.errors import RequestError

KEPT_BYTES = 4 * 2**30  # of weights as floats, beside those of the run


def check_installed() -> None:
    """Raises RequestError where the package that reads the files is not there."""
    if importlib.util.find_spec("gguf") is None:
        raise RequestError("a GGUF file needs the package gguf: pip install gguf")


def model(kind: Any, folder: Path, **options: Any) -> nn.Module:
    """The model, its weights as plain floats: a copy of the one that was read, if it can be.

    It can not where the seed gave some weights, as it gives a fresh head, nor where the copy would be too large.
    """
    read, drawn = _model(kind, folder, _changed(folder, options), **options)
    if not drawn and sum(p.nbytes for p in read.parameters()) <= KEPT_BYTES:
        return copy.deepcopy(read)
    _model.cache_clear()
    return read


def tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer, which its user may change."""
    return copy.deepcopy(_tokenizer(folder, _changed(folder, options), **options))


@functools.lru_cache(maxsize=1)
def _model(kind: Any, folder: Path, changed: int, **options: Any) -> tuple[nn.Module, bool]:
    """The model as read, and whether the file lacked some of its weights."""
    read, found = kind.from_pretrained(folder, **options, output_loading_info=True)
    del read.config.quantization_config  # the weights are plain floats now, whatever they were in the file
    read.is_quantized, read.hf_quantizer = False, None
    return read, bool(found["missing_keys"] or found["mismatched_keys"])


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path, changed: int, **options: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **options)


def _changed(folder: Path, options: dict[str, Any]) -> int:
    return (folder / options["gguf_file"]).stat().st_mtime_ns
