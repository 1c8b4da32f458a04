"""Everything that serves a bundle: the bundle itself, the retriever over it, and HTTP in front.

``create_app(Retriever.load("runs/shop/bundle"))``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidar.serve.http.app import create_app as create_app
    from sidar.serve.retriever import Retriever as Retriever

__all__ = ["Retriever", "create_app"]


def __getattr__(name: str) -> Any:
    """Load a façade on first use: a stage that writes a bundle needs neither FastAPI nor torch."""
    if name == "Retriever":
        from sidar.serve.retriever import Retriever

        return Retriever
    if name == "create_app":
        from sidar.serve.http.app import create_app

        return create_app
    raise AttributeError(f"module 'sidar.serve' has no attribute {name!r}")
