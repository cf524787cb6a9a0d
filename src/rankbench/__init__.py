"""Train one adapter, measure every rank: a bench for dynamic-rank fine-tuning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankbench.loading import load
    from rankbench.record import load_runs

__version__ = "0.1.0"
__all__ = ["load", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import lazily, so that a wrong setting is answered before pandas is loaded."""
    if name == "load":
        from rankbench.loading import load

        return load
    if name == "load_runs":
        from rankbench.record import load_runs

        return load_runs
    raise AttributeError(f"module 'rankbench' has no attribute '{name}'")
