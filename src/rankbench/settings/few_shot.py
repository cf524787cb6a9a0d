"""The checks of a task whose prompts come after worked examples, and whose answer is one of a few."""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING

from rankbench.errors import RequestError
from rankbench.settings import names, references
from rankbench.settings.base import require

if TYPE_CHECKING:
    from rankbench.settings.task import Task


def check(task: Task) -> None:
    """Raises RequestError."""
    require(task.shots >= 0, f"task.shots={task.shots} must not be negative; 0 puts no example before a prompt")
    for key, given in (("shots", task.shots), ("header", task.header), ("choices", task.choices)):
        require(
            not given or bool(task.prompts),
            f"task.{key} is of a task of prompts, and this is one of "
            f"{'conversations' if task.kind == 'causal_lm' else task.kind}; give task.prompts and task.response with "
            "it, or leave it out",
        )
    if task.shots:
        names.check("task.shots_split", task.shots_split, "call the split's file ")
        require(
            task.shots_split not in (*task.validation_splits, *task.test_splits),
            f"task.shots_split={task.shots_split} is scored too, so a prompt would hold its own answer; name another "
            "split, or leave it out of the scored ones",
        )
        require(
            task.shots_split != task.train_split or not task.holds_out,
            f"task.shots_split={task.shots_split} is the split that rows to score are held out of, so a prompt could "
            "hold its own answer; give a split of examples alone, or files for what is scored",
        )
    check_template(task.header)
    if task.choices is not None:
        _check_choices(task, task.choices)


def check_template(template: str, response: bool = False) -> None:
    """Refuse a template that names anything but columns, and forms of them that are known. Raises RequestError."""
    try:
        named = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise RequestError(
            f"task: the template {template[:40]!r} cannot be read ({error}); write {{{{ for a brace"
        ) from error
    require(
        all(name and name.isidentifier() and not how for _, name, _, how in named),
        f"task: the template {template[:40]!r} may name columns only, such as {{question}}; rename one whose "
        "name is no single word",
    )
    references.check_forms(template, [form for _, _, form, _ in named if form], response)


def _check_choices(task: Task, choices: list[str]) -> None:
    shown = ", ".join(choices)
    texts = {choice.strip() for choice in choices}
    require(
        len(choices) > 1 and len(texts) == len(choices) and "" not in texts,
        f"task.choices has {shown or 'nothing'}; give two texts or more, none twice and none empty",
    )
    require(
        not task.chats,
        "task.choices are read as responses to plain prompts; give task.template=plain with them, or leave them out",
    )
    require(
        not task.aliases_column and not task.references_columns,
        "task.choices leave one right answer to a row; leave task.aliases_column and task.references_columns out",
    )
