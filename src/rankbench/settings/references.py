"""The checks of a task whose prompts have several accepted texts, and of the groups of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import TYPE_CHECKING

from rankbench.settings import names
from rankbench.settings.base import require
from rankbench.settings.metrics import METRICS

if TYPE_CHECKING:
    from rankbench.settings.task import Task

REFERENCE = "reference"  # what `task.response` calls each text of `task.references_columns`
FORMS = {  # ways of writing a column in a prompt, `{column:form}`, which `tasks.forms` has
    "e2e": "name[A], eatType[pub] becomes name : A | Type : pub",
    "dart": "the relation of subject : RELATION : object is in lower case",
    "lettered": "a list becomes a line for each: A. first, B. second",
    "letter": "a place in that list, from 0, becomes its letter",
    "words": "high_school_biology becomes high school biology",
}
OF_RESPONSES = ("letter", "words")  # those that a response may have too


def check(task: Task) -> None:
    """Raises RequestError."""
    require(
        task.separator.value == "none" or (bool(task.prompts) and not task.chats),
        f"task.separator={task.separator.value} stands between the texts of task.prompts and task.response; leave it "
        "out of a classification or a chat",
    )
    if task.references_columns:
        require(
            bool(task.prompts) and task.aliases_column is None,
            "task.references_columns has every accepted text of the prompts of task.prompts; give both, and no "
            "task.aliases_column",
        )
        named = [name for _, name, _, _ in Formatter().parse(task.response) if name]
        require(
            named == [REFERENCE],
            f"task.response={task.response!r} must name {{{REFERENCE}}} alone, which is each text of "
            "task.references_columns in turn; give task.response=' {reference}'",
        )
    require(
        bool(task.groups) == (task.groups_column is not None),
        "task.groups and task.groups_column go together: give the column, and the values that make each group",
    )
    require(
        not task.groups or task.kind == "causal_lm",
        f"task.groups parts the rows of a language model's task, and this is a {task.kind} task; leave it out",
    )
    _check_groups(task)


def check_forms(template: str, forms: Sequence[str], response: bool) -> None:
    """Refuse a form of a column, `{column:form}`, that a template may not have. Raises RequestError."""
    known = OF_RESPONSES if response else tuple(FORMS)
    wrong = [form for form in forms if form not in known]
    require(
        not wrong,
        f"task: the template {template[:40]!r} may name columns only, such as {{question}}, or one in a form "
        f"({', '.join(known)}), such as {{subject:words}}; take {wrong[:1]} out",
    )


def _check_groups(task: Task) -> None:
    groups = task.groups or {}
    require(
        isinstance(groups, dict) and all(isinstance(values, list) for values in groups.values()),
        f"task.groups={groups} must name groups, each with the list of its values, such as {{seen: [Food, City]}}",
    )
    group_of: dict[str, str] = {}
    for group, values in groups.items():
        names.check("task.groups", group)
        require(bool(values), f"task.groups: {group} has no values; give those that make it")
        taken = [f"{metric}_{group}" for metric in METRICS if f"{metric}_{group}" in METRICS]
        splits = {split.removeprefix("validation_") for split in (*task.validation_splits, *task.test_splits)}
        require(group not in splits, f"task.groups: {group} is what a split is called too; rename the group")
        require(not taken, f"task.groups: {group} would give a score the name of the metric {taken[:1]}; rename it")
        for value in values:
            other = group_of.get(value)
            require(other is None, f"task.groups: {value} is in {other} and in {group}; give it once")
            group_of[value] = group
