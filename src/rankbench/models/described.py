"""An architecture that settings describe, `model.random` or `model.shape`, rather than the config.json of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from rankbench.errors import RequestError
from rankbench.settings.base import require
from rankbench.settings.model import Model
from rankbench.settings.sources import locate


def config(model: Model, tokenizer: Any, head: Mapping[str, Any]) -> Any:
    """The architecture, with the vocabulary of a tokenizer where one is given. Raises RequestError where it is none."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    key, shape = _described(model)
    kind = shape.get("model_type")
    require(
        isinstance(kind, str),
        f"{key} has no model_type; give what the model's config.json has, {key}.model_type=bert say",
    )
    require(
        kind in CONFIG_MAPPING, f"{key}.model_type={kind}: transformers knows no such architecture; give another one"
    )
    settings = {**shape, **head}
    if tokenizer is not None:
        marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos")}
        settings = {"vocab_size": len(tokenizer), **settings, **marks}
    with builds(model):
        made = AutoConfig.for_model(settings.pop("model_type"), **settings)
        if getattr(made, "num_hidden_layers", 0) < 1:
            raise ValueError("it needs num_hidden_layers, at least 1")
    return made


@contextlib.contextmanager
def builds(model: Model) -> Iterator[None]:
    """Within the context what transformers cannot build of a described architecture is a RequestError."""
    key, shape = _described(model)
    try:
        yield
    except Exception as error:  # transformers fails in as many ways as there are architectures
        if not shape or isinstance(error, RequestError | MemoryError) or "allocate" in str(error):
            raise
        why = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise RequestError(f"{key} describes no model: {why}; give it as in the model's config.json") from error


def _described(model: Model) -> tuple[str, dict[str, Any]]:
    """Which setting describes the architecture, and how; nothing where weights bring their own."""
    kind = locate("model", model).kind
    if kind == "random":
        return "model.random", model.random or {}
    return "model.shape", (model.shape or {}) if kind == "hub" else {}
