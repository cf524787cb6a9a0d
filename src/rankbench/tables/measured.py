"""What one metric says of a run's sub-models, by its record and its stored predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rankbench.errors import RequestError
from rankbench.records.notes import one_answer
from rankbench.settings.metrics import CORRELATIONS, MATCHES, METRICS, ClassRoles, undefined
from rankbench.tables import metric_sums
from rankbench.tables.shown import no_such

Submodel = dict[str, Any]  # as the record holds it


@dataclass(frozen=True)
class Measured:
    """What one metric says of a run's sub-models, smallest first."""

    metric: str
    submodels: list[Submodel]
    sums: metric_sums.Resampled
    idle: list[bool]  # which have one answer for every example
    undefined: str | None  # why the metric says nothing

    @property
    def kind(self) -> str:
        """What tells these sub-models apart."""
        rank, depth = (any(sub[key] is not None for sub in self.submodels) for key in ("rank", "depth"))
        return "pair" if rank and depth else "exit" if depth else "rank"


def measure(folder: Path, record: dict[str, Any], metric: str | None) -> Measured:
    """What a metric (by default the first) says of the run in a folder.

    Raises RequestError where it has one sub-model, or its predictions are missing or do not give the metric.
    """
    subs = sorted(record["submodels"], key=place)
    if len(subs) < 2:
        raise RequestError(f"{folder} measured one sub-model alone, so there is nothing to choose from")
    have = list(subs[0]["metrics"])
    chosen = metric or have[0]
    if chosen not in have:
        raise no_such(chosen, have, "this run has")
    file = folder / "predictions.parquet"
    again = "copy it there from where the run was done, or run it again with fresh=true"
    if not file.exists():
        raise RequestError(f"{folder} lacks predictions.parquet, which tells noise from difference; {again}")
    try:
        known, columns, references = _columns(pd.read_parquet(file), chosen, [place(sub) for sub in subs])
    except (LookupError, ValueError, OSError, StopIteration) as error:
        raise RequestError(f"{file} is not of this run, or damaged ({error}); {again}") from error
    if known in MATCHES and known in columns:  # any accepted text counted, of which the file keeps the first alone
        known, columns, references = "accuracy", {"prediction": columns[known]}, np.ones_like(references, dtype=bool)
    sums = metric_sums.sums(known, columns, references, _roles(record))
    if not np.allclose(sums.whole(), [sub["metrics"][chosen] for sub in subs], rtol=1e-6):
        if known in MATCHES:  # who accepts more texts finds more right: the same number means the same answers
            raise RequestError(
                f"--metric {chosen}: these questions accept several texts and this older predictions.parquet keeps the "
                "first, so it does not tell which answers were right; use --metric loss, or repeat it with fresh=true"
            )
        raise RequestError(f"{file} does not give the {chosen} of the record; {again}")
    idle = [one_answer(sub) is not None for sub in subs]
    if "scores" in columns:  # which may tell examples apart that are given one class
        idle = [bool((said == said[0]).all()) for said in columns["scores"]]
    if known in CORRELATIONS:  # older records do not say it of a regression
        idle = [one or len(set(said)) == 1 for one, said in zip(idle, columns["prediction"].tolist(), strict=True)]
    labels = set(references.tolist()) if METRICS[known].kind != "causal_lm" else set()
    return Measured(chosen, subs, sums, idle, undefined(known, labels, _roles(record)))


def _roles(record: dict[str, Any]) -> ClassRoles:
    """The classes and the positive one, as the record names them; class 1 of two in older ones."""
    data = record.get("data") or {}
    names = data.get("label_names") or ["0", "1"]
    positive = data.get("positive_label")
    return ClassRoles(len(names), names.index(positive) if positive in names else 1)


def _columns(
    frame: pd.DataFrame, metric: str, places: list[tuple[int, int]]
) -> tuple[str, dict[str, npt.NDArray[Any]], npt.NDArray[Any]]:
    """The metric without its split's name, its columns (k, n) in the order of `places`, and the references (n,).

    Raises LookupError or ValueError when the frame does not hold the same examples for each place.
    """
    names = {str(split): f"_{str(split).removeprefix('validation_')}" for split in frame["split"].unique()}
    base = metric
    if len(names) > 1:
        split = next(n for n, end in names.items() if metric.endswith(end) and metric.removesuffix(end) in METRICS)
        base, frame = metric.removesuffix(names[split]), frame[frame["split"] == split]
    if "cut" in frame:  # other ways to cut rank R down, which stand beside the trained ones
        frame = frame[frame["cut"].isna()]
    frame = frame.fillna({"rank": 0, "depth": 0}).sort_values(["depth", "rank", "index"])
    shape = len(places), -1
    answered = (base,) if base in MATCHES and base in frame else metric_sums.needs(base)
    keys = ("depth", "rank", "index", "reference", *(key for key in answered if key != "scores"))
    found: dict[str, npt.NDArray[Any]] = {key: frame[key].to_numpy().reshape(shape) for key in keys}
    if "scores" in answered:
        of_class = [f"score_{number}" for number in range(sum(str(name).startswith("score_") for name in frame))]
        found["scores"] = frame[of_class].to_numpy().reshape(*found["index"].shape, len(of_class))
    for key in ("index", "reference"):
        if (found[key] != found[key][0]).any():
            raise ValueError(f"its sub-models differ in {key}")
    if [*zip(found["depth"][:, 0], found["rank"][:, 0], strict=True)] != places:
        raise ValueError("it has other sub-models than the record")
    return base, found, found["reference"][0]


def place(sub: Submodel) -> tuple[int, int]:
    """Its depth and rank, 0 for none."""
    return sub["depth"] or 0, sub["rank"] or 0
