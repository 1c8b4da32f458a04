"""The client that blocks; :class:`AsyncClient` has the same methods."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Unpack

import httpx

from sidar.client import calls
from sidar.client.calls import Answer, Call, Fields, SearchWords
from sidar.client.errors import ClientError
from sidar.client.exchange import Attempts, Server
from sidar.client.retries import NEVER, Retries
from sidar.serve.http.changes import BundleList, Changed, Erased, Event, Files, Item, Patch, Taken
from sidar.serve.http.schemas import Info, SearchResponse, WhyResponse
from sidar.serve.request import SearchRequest


class Client:
    """A client of ``sidar serve`` that blocks; threads may share it, and it keeps its connections.

    ``key`` is sent as ``Authorization: Bearer``. ``timeout`` is in seconds, of one attempt.
    Calls that may be made twice are made again as ``retries`` says: where there is no connection,
    and after 429, 502, 503 and 504. ``transport`` replaces the network (tests).
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 10.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._server = Server(url, key, timeout)
        self._retries = retries or Retries()
        self._http = httpx.Client(**self._server.options(), transport=transport)

    def __repr__(self) -> str:
        return f"Client({self._server.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def search(
        self,
        query: str | SearchRequest,
        k: int = 10,
        *,
        explain: bool = False,
        **options: Unpack[SearchWords],
    ) -> SearchResponse:
        """Return the best items for a query, or for a whole :class:`SearchRequest`.

        ``ValueError`` for a request that is wrong already here; ``ApiError`` for one that the
        server refuses.
        """
        return self._call(calls.search(calls.search_request(query, k, explain, options)))

    def batch(self, requests: Sequence[SearchRequest]) -> list[SearchResponse]:
        """Return the answers to several searches, in their order."""
        return self._call(calls.batch(requests))

    def explain(
        self, item_id: str, query: str | SearchRequest, k: int = 10, **options: Unpack[SearchWords]
    ) -> WhyResponse:
        """Return why an item is, or is not, in the answer to a search."""
        return self._call(calls.explain(item_id, calls.search_request(query, k, False, options)))

    def info(self) -> Info:
        """Return the models of the server and its example queries."""
        return self._call(calls.info())

    def ready(self) -> bool:
        """Return whether the server answers and its models are loaded; it asks once."""
        try:
            return self._call(calls.ready(), NEVER)
        except ClientError:
            return False

    def put_items(self, items: Sequence[Item | Fields]) -> Changed:
        """Add items, or replace them whole."""
        return self._call(calls.put_items(items))

    def patch_items(self, items: Sequence[Patch | Fields]) -> Changed:
        """Change price, stock or picture of items; what is not named stays."""
        return self._call(calls.patch_items(items))

    def retire_items(self, item_ids: Sequence[str]) -> Changed:
        """Take items out of the catalogue."""
        return self._call(calls.retire_items(item_ids))

    def send_events(self, events: Sequence[Event | Fields]) -> Taken:
        """Send clicks, carts and orders; repeated ones (``event_id``) change nothing."""
        return self._call(calls.send_events(events))

    def write_event_files(self) -> Files:
        """Let the server write the files of its log now."""
        return self._call(calls.write_event_files())

    def erase_user(self, user_id: str) -> Erased:
        """Erase all that the server keeps of a user."""
        return self._call(calls.erase_user(user_id))

    def bundles(self) -> BundleList:
        """Return the bundles that the server may answer with."""
        return self._call(calls.bundles())

    def load_bundle(self, name: str) -> BundleList:
        """Load a bundle of ``serve.bundles`` beside the active one; asked once."""
        return self._call(calls.load_bundle(name))

    def activate_bundle(self, name: str) -> BundleList:
        """Answer with a bundle from the next request on."""
        return self._call(calls.activate_bundle(name))

    def roll_back(self) -> BundleList:
        """Take the last exchange back; asked once, because a second time brings it back."""
        return self._call(calls.roll_back())

    def _call(self, call: Call[Answer], retries: Retries | None = None) -> Answer:
        attempts = Attempts(call, retries or self._retries)
        while True:
            try:
                response = self._http.request(**self._server.arguments(call))
            except httpx.TransportError as error:
                pause = attempts.failed(error)
            else:
                later = attempts.answered(response)
                if later is None:
                    return attempts.read(response)
                pause = later
            time.sleep(pause)
