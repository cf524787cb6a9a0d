"""Train one adapter, measure every rank: a bench for dynamic-rank fine-tuning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankbench.records.record import load_runs
    from rankbench.runs.life import run
    from rankbench.shipping.loading import load
    from rankbench.tables.report import choose_rank, table
    from rankbench.tasks.score import score

__version__ = "0.1.0"
__all__ = ["__version__", "choose_rank", "load", "load_runs", "run", "score", "table"]

_PLACES = {
    "choose_rank": "tables.report",
    "load": "shipping.loading",
    "load_runs": "records.record",
    "run": "runs.life",
    "score": "tasks.score",
    "table": "tables.report",
}


def __getattr__(name: str) -> Any:
    """Import lazily, so that a wrong setting is answered before pandas is loaded."""
    if name not in _PLACES:
        raise AttributeError(f"module 'rankbench' has no attribute '{name}'")
    return getattr(import_module(f"rankbench.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
