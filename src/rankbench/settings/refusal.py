"""Hydra's and OmegaConf's refusals in one line that says what to change."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from rankbench.errors import RequestError
from rankbench.settings.compose import while_resolving
from rankbench.settings.kinds import KINDS
from rankbench.settings.methods import Method
from rankbench.settings.run import Run
from rankbench.settings.samplers import Sampler

BARE = {"adapter": Method.__name__, "sampler": Sampler.__name__}  # what a YAML without settings leaves


def explain(error: Exception, words: list[str], conf: Path) -> str:
    """One line for a wrong request: what is wrong, the close match, the choices."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):  # of one job of a sweep
        return f"{explain(cause, words, conf)} ({getattr(error, 'which', '')})"
    if isinstance(error, RequestError):
        return str(error)
    text = "\n".join(_chain(error))
    if asked := while_resolving(text):
        return asked
    if isinstance(error, OverrideParseException):
        key, equals, value = str(error.override).partition("=")
        if not equals or not key:
            return f"'{error.override}' cannot be read; settings are KEY=VALUE, verbs come first"
        if value.startswith(("[", "{")):
            close = "]" if value[0] == "[" else "}"
            mend = (
                f"quote each text in it, such as {key}=['a b','c']" if value.endswith(close) else f"close it: {close}"
            )
            return f"{error.override} cannot be read; {mend}"
        inside = value.strip("'\"").replace("\\", "\\\\").replace('"', '\\"')
        return f"{error.override} cannot be read; quote it twice: {shlex.quote(f'{key}={chr(34)}{inside}{chr(34)}')}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        if group == "hydra/launcher" and (needs := _needs(choice, conf)):
            return needs
        known = error.options or [p.stem for p in sorted((conf / group).glob("*.yaml"))]
        return f"{group}={choice}: no such choice{near(choice, known)}; choose from {', '.join(known)}"
    gone = "does not support deletion" in text or "Could not delete" in text
    if gone and (word := next((word for word in words if word.startswith("~")), "")):
        return f"{word}: a run has all of its settings, so none can be taken away; leave {word} out"
    if found := re.search(r"Key '([^']+)' not in '(\w+)'\s+full_key: (adapter|sampler)\.\w+", text):
        return _not_its_own(found[3], found[1], found[2], text)
    if found := re.search(r"Could not override '([^']+)'", text):
        groups = [p.name for p in conf.iterdir() if p.is_dir()]
        return f"{found[1]}: no such setting{near(found[1], [*groups, *_keys()])}; see rankbench --cfg job"
    if found := re.search(r"Key '([^']+)' not in '\w+'\s+full_key: (\S+)", text):
        return f"{found[2]}: no such setting{near(found[2], _keys())}; see rankbench --cfg job"
    if found := re.search(r"(?s)(.*?)\s+full_key: (\S+)", text):
        given = next((word for word in words if word.split("=")[0].lstrip("+") == found[2]), found[2])
        key, _, value = given.partition("=")
        quoted = f"; write a text with braces in two kinds of quotes: '{key}=\"{value}\"'" if "{" in value else ""
        return f"{given}: {found[1].splitlines()[-1]}{quoted}"
    if found := re.search(r"Could not override '?([^'.\n]+)'?\.\s*No match in the defaults list", text):
        return f"{found[1]}: no such group{near(found[1], [p.name for p in conf.iterdir() if p.is_dir()])}"
    return " ".join(text.split())


def _not_its_own(group: str, key: str, kind: str, text: str) -> str:
    """A setting that the chosen method or sampler, of class `kind`, has not: who has it, or what it has itself."""
    own = {name: [setting.name for setting in fields(known)] for name, known in KINDS[group].items()}
    chosen = next((name for name, known in KINDS[group].items() if known.__name__ == kind), "")
    if kind == BARE[group]:
        return f"{group}: its YAML names no settings; begin it with defaults: [/settings/{group}@{group}: NAME]"
    setter = f" (which {found[1].replace('/', '=')} sets)" if (found := re.search(r"In '([\w/]+)':", text)) else ""
    if having := [name for name in own if key in own[name]]:
        have = f"{group}={', '.join(having)} {'have' if having[1:] else 'has'} it"
        return f"{group}.{key}: {group}={chosen} has no setting {key}{setter}; {have}"
    mine = own[chosen]
    return f"{group}.{key}: no such setting{near(key, mine)}; {group}={chosen} has {', '.join(mine)}"


def _needs(launcher: str, conf: Path) -> str | None:
    """What to install for a cluster whose launcher is not there: the extra has the cluster's name."""
    for file in sorted((conf / "cluster").glob("*.yaml")):
        if re.search(rf"(?m)override /hydra/launcher: {re.escape(launcher)}$", file.read_text()):
            return f"cluster={file.stem} needs a launcher that is not installed; pip install 'rankbench[{file.stem}]'"
    return None


def _chain(error: BaseException | None) -> Iterable[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__


OTHER_NAMES = {  # what other trainers call it
    "lr": "train.learning_rate",
    "rank": "adapter.r",
    "r": "adapter.r",
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "alpha": "adapter.lora_alpha",
    "dropout": "adapter.lora_dropout",
    "bs": "train.batch_size",
    "batch": "train.batch_size",
    "per_device_train_batch_size": "train.batch_size",
    "per_device_eval_batch_size": "train.eval_batch_size",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "steps": "train.max_steps",
    "grad_accum": "train.gradient_accumulation_steps",
    "wd": "train.weight_decay",
    "load_best_model_at_end": "train.keep",
    "save_best": "train.keep",
    "early_stopping_patience": "train.patience",
    "early_stopping": "train.patience",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "dtype": "train.precision",
    "data": "task.data_dir",
    "dataset": "task.data_dir",
    "max_len": "task.max_length",
    "max_seq_length": "task.max_length",
    "metric": "task.metrics",
    "metric_for_best_model": "task.metrics",
    "test_size": "task.test_fraction",
    "val_size": "task.validation_fraction",
    "output_dir": "runs_dir",
    "model_name_or_path": "model.path",
    "bits": "quantization",
}


def near(word: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' where one of the known words is close or another name of it, else nothing."""
    known = list(known)
    other = OTHER_NAMES.get(word.split(".")[-1])
    if other in known:
        return f" (did you mean {other}?)"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:  # a key without its group: steps -> train.max_steps
        close = [k for k in known if k.split(".")[-1] == word.split(".")[-1]][:1]
    return f" (did you mean {close[0]}?)" if close else ""


def _keys() -> list[str]:
    def walk(node: Any, prefix: str) -> Iterable[str]:
        for key in node:
            value = OmegaConf.select(node, key, throw_on_missing=False) if not OmegaConf.is_missing(node, key) else None
            if OmegaConf.is_dict(value):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + str(key)

    schema = OmegaConf.structured(Run)
    groups = [f"{group}.{s.name}" for group, kinds in KINDS.items() for kind in kinds.values() for s in fields(kind)]
    return list(dict.fromkeys([*walk(schema, ""), *groups]))
