"""HTTP over a retriever: ``create_app(Retriever.load("runs/shop/bundle"))``."""

from sidar.serve.app import create_app

__all__ = ["create_app"]
