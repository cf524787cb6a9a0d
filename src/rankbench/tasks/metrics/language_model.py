"""Metrics of a language model's loss on the responses."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np


class Loss(evaluate.Metric):
    """Mean loss of a response token in nats; predictions are summed losses of rows, references their tokens."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="mean loss per token", citation="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"loss": float(np.sum(predictions) / np.sum(references))}


class Perplexity(Loss):
    """The exponential of the mean loss of a response token."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        mean = float(np.sum(predictions) / np.sum(references))
        return {"perplexity": math.exp(mean) if mean < 700 else math.inf}
