"""Sidar: from a product catalogue and an interaction log to aligned generative retrieval.

Marks in docstrings such as [seed], [known], [source: N1], [reconstruction] and [ours] say where a
formula or a constant comes from; docs/sources.md explains them and names every source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidar.version import __version__

if TYPE_CHECKING:
    from sidar.serve.retriever import Retriever as Retriever

__all__ = ["Retriever", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the façade on first use, so that ``import sidar`` and ``sidar --help`` need no torch."""
    if name == "Retriever":
        from sidar.serve.retriever import Retriever

        return Retriever
    raise AttributeError(f"module 'sidar' has no attribute {name!r}")
