"""What the model of a finished run answers to texts, read as its task reads them and in the data's own words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from rankbench.errors import RequestError
from rankbench.methods.full import Full
from rankbench.models import backbone, fit
from rankbench.records.finished import Finished
from rankbench.scoring import evaluation
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import of_run
from rankbench.settings.task import Task
from rankbench.shipping.beside import tokenizer_of
from rankbench.tasks import chat_template, encoders, unlabelled
from rankbench.tasks.encoding import Encoded, encode_prompts, sorted_batches
from rankbench.tasks.splits import Split

OF_CLASS = "score_"  # begins the name of a class's column of probabilities


@dataclass(frozen=True)
class Told:
    """The run that a model is of, and its tokenizer, read when it is first needed."""

    found: Finished

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The run's own, which cuts and pads as the run did."""
        return tokenizer_of(self.found)


class Predicts(torch.nn.Module):
    """A loaded model: the PEFT or transformers model that it is, with `predict`."""

    told: Told

    def predict(
        self,
        texts: Iterable[Any],
        *,
        scores: bool = False,
        batch_size: int | None = None,
        new_tokens: int | None = None,
    ) -> list[Any]:
        """What the model says to each text: a class's name, a value, or an answer, generated as the run's were.

        A text is one string; a pair, or the columns of a template, are a tuple in the task's order or a dict by column.
        Of a task of conversations it is a list of messages, or a string: a user's turn. A question comes with its
        context, (question, context), and its answer is a slice of that.
        With `scores` each answer is a pair of the class's name and the probability of every class by name, or of the
        slice and its scores by name: `score`, and where it may be empty `null_difference`. `batch_size`
        is the run's when measuring, `new_tokens` the task's longest answer. Raises RequestError.
        """
        task = self.told.found.run.task
        names, rows = _rows(task, texts)
        if scores and task.kind not in ("classification", "question_answering"):
            raise RequestError(
                f"scores=True gives the probabilities of classes; a {task.kind} task has none, leave it out"
            )
        if not rows:
            return []
        predictor = Predictor(self, self.told, batch_size, new_tokens)
        split = unlabelled.unlabelled(task, names, rows, "texts")
        columns = predictor(predictor.encode(split))
        answers: list[Any] = columns.pop("prediction")
        if not scores:
            return answers
        names = [name.removeprefix(OF_CLASS) for name in columns] if task.kind == "classification" else list(columns)
        return [
            (answer, dict(zip(names, own, strict=True)))
            for answer, *own in zip(answers, *columns.values(), strict=True)
        ]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied and pickled by the class that it was before it could predict."""
        reduced: Any = super().__reduce_ex__(protocol)
        made, (kind, *others), *state = reduced
        return _again, (made, kind.__mro__[2], *others), *state


def answering(model: Any, found: Finished) -> Predicts:
    """The same model, which has `predict` from here on; it holds no reference to itself, so it goes when let go."""
    kind: Any = type(model)
    model.__class__ = _kind(kind)
    model.told = Told(found)
    if found.run.task.chats:  # what the caller generates ends where a turn does, whatever the base's settings say
        tokenizer = model.told.tokenizer
        marks = backbone.ends(backbone.Backbone(model, tokenizer, {})) | chat_template.ends(found.run.task, tokenizer)
        model.generation_config.eos_token_id = sorted(marks)
    return model


@functools.cache
def _kind(kind: Any) -> Any:
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Predicts, kind), named)


def _again(made: Callable[..., Any], kind: type, *others: Any) -> Any:
    return made(_kind(kind), *others)


class _Still(Full):
    """A model that is one sub-model already."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model


class Predictor:
    """Texts of a task in, what a model says of them out. Raises RequestError for options that make no sense."""

    def __init__(self, model: Any, told: Told, batch_size: int | None = None, new_tokens: int | None = None) -> None:
        run = told.found.run
        for name, given in (("batch size", batch_size), ("number of new tokens", new_tokens)):
            if given is not None and given < 1:
                raise RequestError(f"a {name} of {given} must be at least 1")
        if new_tokens is not None and run.task.kind != "causal_lm":
            raise RequestError(f"a {run.task.kind} task generates no answer; leave out how many new tokens it may have")
        self.model, self.run, self.task, self.name = model, run, run.task, run.model.name
        self.tokenizer = told.tokenizer
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._body = backbone.Backbone(base, self.tokenizer, {})
        self._positions = backbone.longest(self._body)
        self.max_length = min(run.task.max_length, self._positions)
        self.batch_size = batch_size or run.train.eval_batch_size
        self.together = batch_size  # answers that are decoded together; by default as many as memory holds
        self.new_tokens = new_tokens or run.task.max_new_tokens
        names = told.found.label_names or range(int(base.config.num_labels))
        self.classes = [str(name) for name in names] if run.task.kind == "classification" else []
        numbers = ["null_difference"] if run.task.version_2_with_negative else []
        numbers = ["score", *numbers] if run.task.extracts else [f"{OF_CLASS}{name}" for name in self.classes]
        kind = "number" if run.task.kind == "regression" else "text"
        self.columns = {"prediction": kind} | dict.fromkeys(numbers, "number")

    def encode(self, split: Split) -> Encoded:
        """The tokens of a split, cut where the run cut them. Raises RequestError for a row that cannot be read."""
        if self.task.kind != "causal_lm":
            encoded = encoders.encoded(split, self.task, self.tokenizer, self.max_length)
        else:
            prompts = encode_prompts(split, self.tokenizer, self.max_length)
            lengths = np.array([len(prompt) for prompt in prompts])
            self._check_room(split, lengths)
            encoded = Encoded(split.name, {"input_ids": prompts}, split.labels, split.index, lengths, prompts)
        fit.check_ids([encoded.inputs], self._body.model, self.tokenizer)
        return encoded

    def check(self, split: Split) -> None:
        """Refuse, before the first is answered, rows that have no tokens or leave no room for an answer.

        Of a classification only blank texts are looked at, since the others have some. Raises RequestError.
        """
        if self.task.kind != "causal_lm":
            blank = [row for row in range(len(split)) if not any(column[row].strip() for column in split.texts)]
            texts = tuple([column[row] for row in blank] for column in split.texts)
            split = replace(split, texts=texts, labels=split.labels[blank], index=split.index[blank])
        if len(split):
            self.encode(split)

    def __call__(self, split: Encoded, done: Callable[[float], None] = lambda rows: None) -> dict[str, Any]:
        """The `columns` of n rows: names, values or texts, and numbers beside them.

        `done` hears of rows as they are answered. Raises RequestError when a logit is not finite.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            return (self._answers if self.task.kind == "causal_lm" else self._classes)(split, done)
        except FloatingPointError as error:
            raise RequestError(f"{error}; no prediction is given, see the run's scores and precision") from error
        finally:
            self.model.train(was_training)

    def _classes(self, split: Encoded, done: Callable[[float], None]) -> dict[str, Any]:
        still = _Still(self.model)
        columns: dict[str, Any] = {}
        for rows in sorted_batches(split.lengths, self.batch_size):
            part = split.take(rows)
            found = evaluation.classes(self.model, still, part, self.batch_size, self.tokenizer.pad_token_id)
            for name, values in found.items():
                columns.setdefault(name, np.zeros((len(split), *values.shape[1:]), values.dtype))[rows] = values
            done(len(rows))
        if self.classes:
            names = [self.classes[place] for place in columns["prediction"]]
            columns = dict(zip(self.columns, [names, *columns["scores"].T], strict=True))
        return {
            name: list(columns[name]) if kind == "text" else list(map(short, columns[name]))
            for name, kind in self.columns.items()
        }

    def _answers(self, split: Encoded, done: Callable[[float], None]) -> dict[str, Any]:
        responses = of_run(self.run, self._body, self.new_tokens)
        still = _Still(self.model)
        (tokens,) = generate(
            self.model,
            still,
            split.prompts,
            [still.active()],
            responses,
            pad_id=self.tokenizer.pad_token_id,
            rows=self.together,
            spent=lambda batch, _: done(len(batch)),
        )
        return {"prediction": [responses.text(answer) for answer in tokens]}

    def _check_room(self, split: Split, lengths: np.ndarray) -> None:
        wrong = np.flatnonzero((lengths == 0) | (lengths + self.new_tokens > self._positions))
        if not len(wrong):
            return
        row, tokens = int(split.index[wrong[0]]), int(lengths[wrong[0]])
        if tokens == 0:
            raise RequestError(f"{split.name} row {row} (from 0) has no tokens at all; remove it or give it a text")
        room = self._positions - tokens
        mend = f"shorten it, or ask for {room} new tokens or less" if room > 0 else "shorten it"
        raise RequestError(
            f"{split.name} row {row} (from 0): a prompt of {tokens} tokens and {self.new_tokens} new ones are more "
            f"than the {self._positions} that {self.name} reads; {mend}"
        )


def short(value: np.floating[Any]) -> float:
    """A number of 32 bits with the digits that it has: 0.1, not 0.10000000149."""
    return float(str(value))


def _rows(task: Task, texts: Iterable[Any]) -> tuple[list[str], list[list[Any]]]:
    """Texts, tuples or dicts as rows of the task's columns."""
    if hasattr(texts, "to_dict") and hasattr(texts, "columns"):  # a pandas frame, whose iteration gives its columns
        texts = texts.to_dict("records")
    if isinstance(texts, str | bytes | Mapping):
        raise RequestError(f"predict takes a list of texts, not one {type(texts).__name__}; put it in a list")
    names = list(dict.fromkeys(unlabelled.columns_read(task)))
    return names, [_row(task, names, text, place) for place, text in enumerate(texts)]


def _row(task: Task, names: Sequence[str], given: Any, place: int) -> list[Any]:
    if isinstance(given, Mapping):
        if not set(names) & set(given):
            raise RequestError(
                f"text {place} (from 0) has none of the columns {', '.join(names)}; name them in its dict"
            )
        return [given.get(name) for name in names]
    if task.messages_column is not None:
        return [[{"role": "user", "content": given}] if isinstance(given, str) else given]
    if isinstance(given, tuple | list):
        if len(given) != len(names):
            raise RequestError(
                f"text {place} (from 0) has {len(given)} parts where the task has {len(names)} ({', '.join(names)}); "
                "give these, or a dict by column"
            )
        return list(given)
    alone = unlabelled.one_column(task)
    if alone is None:
        raise RequestError(
            f"text {place} (from 0) is one {type(given).__name__} where the task has {len(names)} columns "
            f"({', '.join(names)}); give a tuple of these, or a dict by column"
        )
    return [given if name == alone else None for name in names]
