"""Weights that a model's files lack: a classifier's head trains them, anything else of the model is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rankbench.errors import RequestError
from rankbench.models.quantization import kept_out

HEADS = ("score", "classifier")  # PEFT's SEQ_CLS_HEAD_NAMES: how it knows a head, by the end of its name
QA_HEADS = ("qa_outputs",)  # PEFT's of a model that extracts answers
_MARK = "_rankbench_drawn"
_HEAD = re.compile(r"(^|\.)pooler(\.|$)")  # BERT's kin have it inside the body


def mark(model: nn.Module, told: Mapping[str, Any], place: Path, classifies: bool) -> None:
    """Note which modules transformers drew at random, given its account of the loading.

    Raises RequestError where they are not a classifier's head: the run would build on noise.
    """
    names = sorted({*told["missing_keys"], *(entry[0] for entry in told["mismatched_keys"])})
    body = getattr(model, "base_model_prefix", "") + "."
    inside = [name for name in names if not classifies or (name.startswith(body) and not _HEAD.search(name))]
    if inside:
        more = f" and {len(inside) - 3} more" if inside[3:] else ""
        raise RequestError(
            f"{place} lacks weights that its config.json asks for, or has them in another shape: "
            f"{', '.join(inside[:3])}{more}; they would be random. Save the model again, with its own config.json"
        )
    note(model, sorted({name.rpartition(".")[0] for name in names}))


def note(model: nn.Module, modules: Sequence[str]) -> None:
    """Have these modules be the ones that the files lack."""
    setattr(model, _MARK, tuple(modules))


def lacking(model: nn.Module) -> tuple[str, ...]:
    """The modules that the files lack, by `mark`."""
    return tuple(getattr(model, _MARK, ()))


def for_peft(model: nn.Module) -> dict[str, list[str]]:
    """Settings of a LoraConfig for what of a head trains whole, and so holds no LoRA.

    PEFT itself has modules called classifier or score train, and would let all-linear take one of them for a LoRA too;
    of a model that extracts answers it has qa_outputs train, and all-linear takes that.
    """
    if _extracts(model):
        whole = _outside(model)
        found = {"modules_to_save": [name for name in whole if name not in QA_HEADS], "exclude_modules": whole}
    else:
        whole = [n for n in lacking(model) if not _known(n) and _floats(model.get_submodule(n))]
        heads = [n for n, m in model.named_children() if _known(n) and n not in HEADS and isinstance(m, nn.Linear)]
        found = {"modules_to_save": whole, "exclude_modules": [*whole, *heads]}
    return {key: names for key, names in found.items() if names}


def head(model: nn.Module) -> list[str]:
    """The modules of a head that train beside a LoRA: a head as PEFT knows it, and what its files lacked."""
    if _extracts(model):
        return _outside(model)
    return [
        *(name for name, _ in model.named_modules() if name.endswith(HEADS)),
        *for_peft(model).get("modules_to_save", []),
    ]


def _extracts(model: nn.Module) -> bool:
    return type(model).__name__.removesuffix("Simple").endswith("ForQuestionAnswering")


def _outside(model: nn.Module) -> list[str]:
    """What stands outside the body and has weights."""
    return [name for name in kept_out(model) if any(True for _ in model.get_submodule(name).parameters())]


def _known(name: str) -> bool:
    return any(part.endswith(HEADS) for part in name.split("."))


def _floats(module: nn.Module) -> bool:
    return all(p.is_floating_point() for p in module.parameters())
