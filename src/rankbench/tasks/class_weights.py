"""What each class weighs in the training loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankbench.errors import RequestError
from rankbench.tasks.labels import Classes


def class_weights(asked: Any, classes: Classes, labels: np.ndarray) -> tuple[float, ...]:
    """A weight for each class, given `task.class_weights` and the training labels (n,).

    `balanced` is n / (classes * rows of the class), as in scikit-learn, over the classes that training has; others,
    and classes that a mapping does not name, weigh 1. Raises RequestError for another number of weights than classes,
    and for a name of no class.
    """
    count, names = len(classes.names), ", ".join(classes.names[:8]) + (", ..." if len(classes.names) > 8 else "")
    if asked == "balanced":
        rows = np.bincount(labels, minlength=count)
        even = len(labels) / np.count_nonzero(rows)
        return tuple(float(even / n) if n else 1.0 for n in rows)
    if isinstance(asked, list):
        if len(asked) != count:
            raise RequestError(
                f"task.class_weights has {len(asked)} numbers for {count} classes ({names}); give one for each"
            )
        return tuple(map(float, asked))
    weights = [1.0] * count
    named: dict[int, Any] = {}
    for name, weight in asked.items():
        place = classes.by_name(name)
        if place is None:
            raise RequestError(f"task.class_weights names {name}, which is none of the classes ({names})")
        if place in named:
            raise RequestError(f"task.class_weights has the class {classes.names[place]} twice; give one weight")
        named[place] = name
        weights[place] = float(weight)
    return tuple(weights)
