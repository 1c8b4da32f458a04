"""Sidar as a retriever of LangChain; needs the extra ``sidar[langchain]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, Field

from sidar.client.asynchronous import AsyncClient
from sidar.client.blocking import Client
from sidar.client.calls import search_request
from sidar.serve.http.schemas import Hit, SearchResponse
from sidar.serve.request import SearchRequest

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ImportError:
    raise ImportError(
        "sidar.client.langchain needs langchain-core: pip install 'sidar[langchain]'"
    ) from None


def title_and_brand(hit: Hit) -> str:
    """Return what a language model reads of a hit: its title, with the brand before it."""
    return f"{hit.brand}: {hit.title}" if hit.brand else hit.title


class SidarRetriever(BaseRetriever):
    """The hits of a search as LangChain's documents, best first.

    ``SidarRetriever(client=Client(url), k=5, options={"filter": "price < 30"})``

    A document has the item's id as ``id``, :attr:`content` of the hit as ``page_content`` and the
    hit's fields as ``metadata``, with the ``request_id`` that an event of the item names and the
    ``bundle`` that answered. Without :attr:`async_client`, LangChain's ``ainvoke`` asks
    :attr:`client` in a thread.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: Client
    async_client: AsyncClient | None = None
    k: int = 10
    options: dict[str, Any] = Field(
        {}, description="Further fields of the search, as Client.search takes them."
    )
    content: Callable[[Hit], str] = title_and_brand

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self._documents(self.client.search(self._request(query)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.async_client is None:
            return await super()._aget_relevant_documents(query, run_manager=run_manager)
        return self._documents(await self.async_client.search(self._request(query)))

    def _request(self, query: str) -> SearchRequest:
        # the request itself refuses an option that there is not
        options = {**self.options}
        return search_request(query, self.k, False, options)  # type: ignore[arg-type]

    def _documents(self, answer: SearchResponse) -> list[Document]:
        named = {"request_id": answer.request_id, "bundle": answer.bundle}
        return [
            Document(
                id=hit.item_id,
                page_content=self.content(hit),
                metadata=hit.model_dump(mode="json") | named,
            )
            for hit in answer.hits
        ]
