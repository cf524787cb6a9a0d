"""What metrics share: they are `evaluate.Metric` classes, for `evaluate.load` needs the network and these do not."""

from __future__ import annotations

import datasets
import evaluate


class Pairs(evaluate.Metric):
    """A metric of (prediction, reference) pairs, both class numbers or both real numbers."""

    value = "int64"
    description = ""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.Value(self.value), "references": datasets.Value(self.value)}
        )
        return evaluate.MetricInfo(description=self.description, citation="", features=features)


class Probabilities(evaluate.Metric):
    """A metric of (probabilities of all classes, class number) pairs."""

    description = ""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        features = datasets.Features({"predictions": datasets.Sequence(number), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description=self.description, citation="", features=features)
