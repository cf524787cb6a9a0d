"""Which sub-models are measured at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankbench.settings.base import added, require

if TYPE_CHECKING:
    from rankbench.settings.run import Run

CUTS = ("svd", "svd_global", "alpha_over_b")  # ways to cut rank R of a finished LoRA down (methods.cuts)


@dataclass
class Evaluate:
    """Which sub-models are measured at the end."""

    submodels: Any = "all"
    """`all`, or a list of ranks, or of depths for a method over exits."""
    cuts: list[str] = added([])
    """Other ways to cut rank R down, measured at the same ranks: svd, svd_global, alpha_over_b."""

    baselines: bool = added(True)
    """Score beside the sub-models what they have to beat: the majority class or mean, and the untuned backbone."""

    def measures(self, rank: int | None, depth: int | None) -> bool:
        """Whether a sub-model is measured: a list names ranks, or the depths of a family over exits."""
        return self.submodels == "all" or (rank if depth is None else depth) in (None, *self.submodels)

    def check(self, run: Run) -> None:
        """Raises RequestError."""
        method, chosen = run.adapter, self.submodels
        if chosen != "all":
            r = method.largest_rank
            require(
                isinstance(chosen, list)
                and bool(chosen)
                and all(isinstance(b, int) and not isinstance(b, bool) and b >= 1 for b in chosen)
                and (method.deep or not r or max(chosen) <= r),
                f"evaluate.submodels={chosen} must be all, or a list of ranks within 1..{r} such as [1,{r}]",
            )
            require(len(set(chosen)) == len(chosen), f"evaluate.submodels={chosen} names a rank twice")
        for how in self.cuts:
            require(how in CUTS, f"evaluate.cuts has '{how}'; known are {', '.join(CUTS)}")
            require(
                method.cuttable,
                f"evaluate.cuts={self.cuts} cut a LoRA down, and adapter={method.name} is none; leave them out",
            )
