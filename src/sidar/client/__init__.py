"""Clients of a running ``sidar serve``: a blocking one and one for asyncio, typed, with retries.

``Client("http://127.0.0.1:8000").search("towel", k=5)``

They need the extra ``sidar[client]``, and neither torch nor a bundle.
"""

try:
    import httpx as _  # noqa: F401
except ImportError:
    raise ImportError("sidar.client needs httpx: pip install 'sidar[client]'") from None

from sidar.client.asynchronous import AsyncClient
from sidar.client.blocking import Client
from sidar.client.errors import ApiError, ClientError, UnreachableError
from sidar.client.retries import Retries
from sidar.serve.http.changes import (
    BundleList,
    BundleState,
    Changed,
    Erased,
    Event,
    Files,
    Item,
    Patch,
    Taken,
)
from sidar.serve.http.schemas import Hit, Info, SearchResponse, WhyResponse
from sidar.serve.request import SearchRequest

__all__ = [
    "ApiError",
    "AsyncClient",
    "BundleList",
    "BundleState",
    "Changed",
    "Client",
    "ClientError",
    "Erased",
    "Event",
    "Files",
    "Hit",
    "Info",
    "Item",
    "Patch",
    "Retries",
    "SearchRequest",
    "SearchResponse",
    "Taken",
    "UnreachableError",
    "WhyResponse",
]
