"""transformers' class of a model for a task, and how its files name what it calls otherwise."""

from __future__ import annotations

from typing import Any

from rankbench.errors import RequestError
from rankbench.settings import auto

BODY = {r"^model\.": "transformer."}  # see `renamed`


def auto_class(config: Any, num_labels: int | None, extracts: bool = False) -> Any:
    """transformers' class for the task. Raises RequestError for an encoder that should generate.

    And for a family without a head that extracts answers, where that is asked for.
    """
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    )

    if extracts:
        if config.model_type not in MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES and not hasattr(config, "auto_map"):
            raise RequestError(
                f"transformers has no head that extracts answers for a {config.model_type} model; choose an encoder "
                "(BERT's kin), or Llama, Mistral, Qwen or GPT-2, or have it write them with task=instruction"
            )
        return AutoModelForQuestionAnswering
    if num_labels is not None:
        return AutoModelForSequenceClassification
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise RequestError(auto.encoder_cannot_write(config.model_type))
    return AutoModelForCausalLM


def renamed(kind: Any, config: Any) -> dict[str, Any]:
    """What from_pretrained is told of a class that calls its body otherwise than the family's files do.

    transformers' Llama and Qwen that extract answers call it `transformer`, and would draw all of it at random.
    """
    from transformers import AutoModelForQuestionAnswering

    if kind is not AutoModelForQuestionAnswering:
        return {}
    named = kind._model_mapping.get(type(config), None)
    return {"key_mapping": BODY} if getattr(named, "base_model_prefix", None) == "transformer" else {}


def keep_names(model: Any) -> None:
    """Have a `renamed` model saved under its class's names; transformers would give it back the files'."""
    model._weight_conversions = None
