"""Sidar: from a product catalogue and an interaction log to aligned generative retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sidar.retriever import Retriever as Retriever

__all__ = ["Retriever", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the façade on first use, so that ``import sidar`` and ``sidar --help`` need no torch."""
    if name == "Retriever":
        from sidar.retriever import Retriever

        return Retriever
    raise AttributeError(f"module 'sidar' has no attribute {name!r}")
