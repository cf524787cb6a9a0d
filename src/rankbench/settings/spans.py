"""The checks of a task whose answers are spans of a context."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rankbench.settings.base import require

if TYPE_CHECKING:
    from rankbench.settings.task import Task

MARKS = 4  # the most that a tokenizer puts around a question and its context (RoBERTa)


def check(task: Task) -> None:
    """Raises RequestError."""
    if not task.extracts:
        require(
            not task.version_2_with_negative,
            "task.version_2_with_negative has questions without an answer; give task.question_column=question with it",
        )
        return
    others = {"prompts": task.prompts, "messages_column": task.messages_column, "regression": task.regression}
    given = [f"task.{key}" for key, value in others.items() if value]
    require(
        not given,
        f"task.question_column={task.question_column} asks for spans of a context, and {', '.join(given)} makes "
        "another kind of task; give one of them",
    )
    for key in ("max_query_length", "max_answer_length", "n_best_size"):
        require(getattr(task, key) >= 1, f"task.{key}={getattr(task, key)} must be at least 1")
    require(task.doc_stride >= 0, f"task.doc_stride={task.doc_stride} must not be negative")
    needed = task.doc_stride + task.max_query_length + MARKS
    require(
        task.max_length > needed,
        f"task.max_length={task.max_length} has no room for a question (task.max_query_length="
        f"{task.max_query_length}), the tokens that windows share (task.doc_stride={task.doc_stride}) and a new one; "
        f"raise it above {needed}, or lower these",
    )
    require(
        not math.isnan(task.null_score_diff_threshold),
        "task.null_score_diff_threshold must be a number; 0.0 is BERT's",
    )
    wrong = [metric for metric in task.metrics if metric.startswith("squad_v2_") != task.version_2_with_negative]
    mend = "take task=squad_v2" if not task.version_2_with_negative else "take squad_v2_f1, say, or task=squad"
    require(
        not wrong,
        f"task.metrics has {', '.join(wrong)}, which is of "
        f"{'SQuAD 1.1' if task.version_2_with_negative else 'SQuAD 2.0'}, and this task "
        f"{'has' if task.version_2_with_negative else 'has no'} questions without an answer; {mend}",
    )
