"""A data set and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from string import Formatter
from typing import Any

from rankbench.settings import few_shot, names, references, spans
from rankbench.settings.base import MISSING, added, finite, require
from rankbench.settings.metrics import METRICS
from rankbench.settings.stock import STOCK, Stock


class Template(Enum):
    """What puts a prompt and its response into one text: nothing further, or the tokenizer's chat template."""

    plain = "plain"
    chat = "chat"


class Separator(Enum):
    """What stands between a prompt's tokens and its response's: nothing, or the tokenizer's end-of-text token."""

    none = "none"
    eos = "eos"


@dataclass
class Task:
    """A data set and how it is scored: labelled texts, prompts with a response (`prompts`), conversations
    (`messages_column`), or questions with answers in a context (`question_column`)."""

    name: str = MISSING
    """The task, as folders, records and tables call it."""
    data_dir: str | None = None
    """A folder with a file for each split (.jsonl, .json, .csv, .tsv, .parquet), or one file."""
    package: str | None = None
    """An installed Python package that carries the data, and the place in it."""
    hub: str | None = None
    """A data set of the Hugging Face hub."""
    hub_config: str | None = None
    """A configuration of the hub's data set."""
    revision: str | None = None
    """The commit of the hub's data set."""
    encoding: str = "utf-8"
    """The encoding of text files."""
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    """The column of the text, or the two of a pair."""
    prompts: list[str] | None = added(None)
    """Templates over the columns, `{column}`; a row uses the first whose columns are all filled. Makes the task one of
    generation."""
    response: str = added("")
    """The template of the response; `{reference}` is each text of `references_columns` in turn."""
    separator: Separator = added(Separator.none)
    """`eos` puts the tokenizer's end-of-text token between prompt and response, as LoRA's GPT-2 recipe does."""
    references_columns: list[str] = added([])
    """Columns of accepted texts, a list or one of them; the first that a file has is read. Each text with its prompt is
    a row to learn from; a prompt is scored once, against the texts of all its rows."""
    choices: list[str] | None = added(None)
    """All responses that there are, as `response` has them; the answer is the likeliest, by the first token that is its
    own (default: the answer is generated)."""
    header: str = added("")
    """A template before the prompt and its examples; left out of a row where one of its columns is empty."""
    shots: int = added(0)
    """Worked examples before each prompt to score or to predict: the first rows of `shots_split`."""
    shots_split: str = added("dev")
    """The split of the examples, which is not scored."""
    shots_column: str | None = added(None)
    """A column whose value a row's examples share, such as a subject (default: every row has the same)."""
    groups_column: str | None = added(None)
    """The column that says which of `groups` a row to score is of."""
    groups: Any = added(None)
    """Groups of rows, each the values of `groups_column` that make it; metrics are also given for each alone."""
    messages_column: str | None = added(None)
    """A column of conversations, lists of {role, content}. Makes the task one of generation, which learns every turn of
    the assistant."""
    template: Template = added(Template.plain)
    """`chat` makes the text by the tokenizer's chat template, the prompt the user's turn and the response the
    assistant's."""
    system: str | None = added(None)
    """A system prompt before each chat that begins with none (default: none)."""
    aliases_column: str | None = added(None)
    """A column with a list of further accepted answers."""
    max_new_tokens: int = added(64)
    """The longest generated response, in tokens."""
    question_column: str | None = added(None)
    """The column of a question. Makes the task one of answers that are spans of a context."""
    context_column: str = added("context")
    """The column of the text that a question is answered from."""
    answers_column: str = added("answers")
    """The column of a question's answers, `{text: [...], answer_start: [...]}` with places in characters."""
    version_2_with_negative: bool = added(False)
    """A question may have no answer, as in SQuAD 2.0: an empty list of them."""
    doc_stride: int = added(128)
    """The tokens of a context that neighbouring windows of `max_length` share."""
    max_query_length: int = added(64)
    """The longest question, in tokens; what is longer is cut."""
    max_answer_length: int = added(30)
    """The longest answer that is given, in tokens."""
    n_best_size: int = added(20)
    """How many of the best starts and ends of each window are paired."""
    null_score_diff_threshold: float = added(0.0)
    """A question is answered by nothing where the null score is above the best answer's by more than this."""
    packing: bool = added(False)
    """Put several training rows into one of `max_length`; none sees another."""
    label_column: str = "label"
    """The column of the label."""
    label_names: list[str] | None = None
    """The classes in the order of their numbers (default: as the training split has them)."""
    positive_label: str | None = added(None)
    """The class that f1, precision, recall and, of two classes, average_precision are of (default: the second of
    `label_names`, or 1 of 0 and 1, or True)."""
    class_weights: Any = added(None)
    """What each class weighs in the training loss: `balanced`, or numbers in the order of the classes or by name."""
    regression: bool = False
    """The label is a number."""
    train_split: str = "train"
    """The split to train on."""
    validation_splits: list[str] = field(default_factory=lambda: ["validation"])
    """The splits to score; several are scored apart."""
    validation_fraction: float = 0.0
    """The share of the training split to hold out for scoring, where there is no validation split."""
    validation_stratified: bool = added(False)
    """Hold out that share of each class, by its rows (default: of all texts)."""
    test_splits: list[str] = added([])
    """Splits scored once, at the end, that nothing is chosen by (default: none)."""
    test_fraction: float = added(0.0)
    """The share of the training split to hold out as the test split, where there is none."""
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    """What to score by; the first decides in tables."""
    max_length: int = 128
    """The longest row, in tokens; what is longer is cut."""
    max_train_examples: int | None = None
    """Train on so many rows, the same for every seed (default: all)."""
    max_eval_examples: int | None = None
    """Score so many rows, the same for every seed (default: all)."""

    def break_lines(self) -> None:
        """Have `\\n` in a template be a line break: a command line has none."""
        self.header, self.response = _broken(self.header), _broken(self.response)
        self.prompts = self.prompts and [_broken(prompt) for prompt in self.prompts]
        self.choices = self.choices and [_broken(choice) for choice in self.choices]

    @property
    def kind(self) -> str:
        """causal_lm, question_answering, regression or classification."""
        if self.prompts or self.messages_column is not None:
            return "causal_lm"
        return "question_answering" if self.extracts else "regression" if self.regression else "classification"

    @property
    def extracts(self) -> bool:
        """Whether an answer is a span of a context."""
        return self.question_column is not None

    @property
    def stock(self) -> Stock:
        """What stock libraries call its kind."""
        return STOCK[self.kind]

    @property
    def chats(self) -> bool:
        """Whether the tokenizer's chat template makes the texts."""
        return self.template is Template.chat

    @property
    def holds_out(self) -> bool:
        """Whether a part of the training split may be held out."""
        return self.validation_fraction + self.test_fraction > 0

    @property
    def files(self) -> list[str]:
        """The splits that must be there as files: those that nothing holds out of the training split."""
        validation = [] if self.validation_fraction else self.validation_splits
        test = [] if self.test_fraction else self.test_splits
        return [self.train_split, *validation, *test, *([self.shots_split] if self.shots else [])]

    def check(self) -> None:
        """Raises RequestError."""
        names.check("task.name", self.name)
        names.check("task.train_split", self.train_split, "call the split's file ")
        for split in self.validation_splits:
            names.check("task.validation_splits", split, "call the split's file ")
        require(1 <= len(self.text_columns) <= 2, "task.text_columns must name one column, or two for a pair of texts")
        for split in self.test_splits:
            names.check("task.test_splits", split, "call the split's file ")
        for key in ("text_columns", "validation_splits", "test_splits"):
            given = getattr(self, key)
            twice = next((one for place, one in enumerate(given) if one in given[:place]), None)
            require(twice is None, f"task.{key} has {twice!r} twice; give each once")
        require(bool(self.validation_splits), "task.validation_splits is empty; name at least one split to score")
        self._check_held_out()
        require(self.max_length >= 4, f"task.max_length={self.max_length} must be at least 4")
        for key in ("max_train_examples", "max_eval_examples"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"task.{key}={value} must be at least 1, or null for all")
        spans.check(self)
        self._check_chats()
        fitting = [name for name, measure in METRICS.items() if measure.kind == self.kind]
        for metric in self.metrics:
            require(metric in METRICS, f"task.metrics has '{metric}'; known are {', '.join(METRICS)}")
            require(
                metric in fitting, f"task.metrics: {metric} does not score a {self.kind} task; use {', '.join(fitting)}"
            )
        of_one = [name for name, measure in METRICS.items() if measure.positive]
        require(
            self.positive_label is None or bool({*self.metrics} & {*of_one}),
            f"task.positive_label={self.positive_label} is what {', '.join(of_one)} are of; give task.metrics=[f1] "
            "with it",
        )
        require(bool(self.metrics), "task.metrics is empty; name at least one metric")
        if self.class_weights is not None:
            self._check_class_weights()
        if self.prompts:
            self._check_prompts()
        references.check(self)
        few_shot.check(self)
        if self.kind == "causal_lm":
            require(self.max_new_tokens >= 1, f"task.max_new_tokens={self.max_new_tokens} must be at least 1")

    def _check_class_weights(self) -> None:
        given = self.class_weights
        require(
            self.kind == "classification",
            f"task.class_weights weighs the classes of a classification, and this is a {self.kind} task; leave it out",
        )
        numbers = given.values() if isinstance(given, dict) else given if isinstance(given, list) else []
        known = given == "balanced" or bool(numbers)
        require(
            known
            and all(isinstance(one, int | float) and not isinstance(one, bool) and finite(one) for one in numbers),
            f"task.class_weights={given} must be balanced, or numbers above 0: a list in the order of the classes, "
            "such as [1,5], or by name, such as {ham: 1, spam: 5}; null for none",
        )

    def _check_held_out(self) -> None:
        for key, whose in (("train_split", [self.train_split]), ("validation_splits", self.validation_splits)):
            both = [split for split in self.test_splits if split in whose]
            does = "trains on" if key == "train_split" else "chooses by"
            require(
                not both,
                f"task.test_splits has {', '.join(both)}, which task.{key} {does}; a test split is for the end alone, "
                "so name it in one of them",
            )
        for key in ("validation_fraction", "test_fraction"):
            require(0 <= getattr(self, key) < 1, f"task.{key}={getattr(self, key)} not in [0, 1)")
        require(
            self.validation_fraction + self.test_fraction < 1,
            f"task.validation_fraction={self.validation_fraction} and task.test_fraction={self.test_fraction} leave "
            "nothing to train on; lower one",
        )
        require(
            not self.test_fraction or len(self.test_splits) == 1,
            f"task.test_fraction={self.test_fraction} holds out one split; name it, with task.test_splits=[test]",
        )
        require(
            not self.validation_stratified or (self.kind == "classification" and self.holds_out),
            "task.validation_stratified holds out a share of each class; give task.validation_fraction=0.1 with it, "
            "and a classification",
        )

    def _check_chats(self) -> None:
        column = self.messages_column
        both = "task.prompts" if self.prompts else "task.response" if self.response else None
        require(
            column is None or both is None,
            f"task.messages_column={column} holds whole conversations, and {both} makes texts of other columns; give "
            "one of them",
        )
        require(column is None or bool(column.strip()), "task.messages_column names no column; give it, or null")
        require(
            column is None or self.chats,
            "task.messages_column holds conversations, which a chat template makes into texts: give task.template=chat",
        )
        require(
            not self.chats or self.kind == "causal_lm",
            f"task.template=chat is for a language model, and this is a {self.kind} task; take task=chat for "
            "conversations, or task=instruction",
        )
        require(
            self.system is None or self.chats,
            "task.system is the system prompt of a chat; give task.template=chat with it",
        )
        require(self.system is None or bool(self.system.strip()), "task.system is empty; give a text, or null")

    def _check_prompts(self) -> None:
        for template in [*(self.prompts or []), self.response]:
            few_shot.check_template(template, template is self.response)
        require(
            any(name for _, name, _, _ in Formatter().parse(self.response)),
            "task.response names no column; give the template of the response, such as ' {answer}'",
        )


def _broken(text: str) -> str:
    return text.replace("\\n", "\n")
