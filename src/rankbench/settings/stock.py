"""What stock libraries call each kind of task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stock:
    """The class of transformers that loads a model of the kind, PEFT's task type, and the hub's tag."""

    auto_class: str
    task_type: str
    pipeline: str


_OF_CLASSES = Stock("AutoModelForSequenceClassification", "SEQ_CLS", "text-classification")
STOCK = {
    "classification": _OF_CLASSES,
    "regression": _OF_CLASSES,
    "causal_lm": Stock("AutoModelForCausalLM", "CAUSAL_LM", "text-generation"),
    "question_answering": Stock("AutoModelForQuestionAnswering", "QUESTION_ANS", "question-answering"),
}
