"""The HTTP application: one route that searches, two that answer a load balancer, and a page.

Searches run in a worker thread, one at a time per model (torch already uses all cores), so the
event loop stays free.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, FastAPI
from fastapi.responses import Response

from sidar.serve.http.errors import handle_errors
from sidar.serve.http.models import Models, Searcher, ServedModels
from sidar.serve.http.schemas import Info, ModelInfo, Problem, SearchResponse
from sidar.serve.http.web import page_file
from sidar.serve.request import Limits, SearchRequest
from sidar.serve.results import SearchAnswer
from sidar.version import __version__

DESCRIPTION = (
    "Generative product search: a language model writes the Semantic ID of each product, code by "
    "code."
)
Responses = dict[int | str, dict[str, Any]]
UNREADY: Responses = {
    503: {"model": Problem, "description": "The models are still loading, or failed to."}
}
WRONG: Responses = {422: {"model": Problem}}


def create_app(
    models: Searcher | Models | Callable[[], Models], limits: Limits | None = None
) -> FastAPI:
    """An ASGI app over one retriever, several by label, or a function that loads them while the
    server is already up.

    Until such a function returns, ``/readyz`` and searches answer 503; ``/livez`` is 200 from the
    start. A request beyond ``limits`` is refused.
    """
    served = ServedModels.of(models)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.load)
            yield
            tasks.cancel_scope.cancel()

    app = FastAPI(
        title="Sidar",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # FastAPI's page for it loads scripts from elsewhere; /openapi.json is served
        docs_url=None,
        redoc_url=None,
    )
    handle_errors(app)
    app.include_router(search_routes(served, limits or Limits()))
    app.include_router(probe_routes(served))
    app.include_router(page_routes())
    return app


def search_routes(served: ServedModels, limits: Limits) -> APIRouter:
    """Return the routes that search, and that tell what can be searched."""
    router = APIRouter()

    @router.post("/v1/search", responses=WRONG | UNREADY, summary="Search")
    async def search(request: SearchRequest) -> SearchResponse:
        """The `k` best items for a query, with the Semantic ID and the log-probability of each
        level.
        """
        limits.check(request)
        label = served.label_of(request.model)
        model = served.models[label]
        # the label is this server's, which need not be the one in the bundle
        request = request.model_copy(update={"model": None})
        model.check(request)

        def answer() -> tuple[SearchAnswer, float]:
            begun = time.perf_counter()
            return model.search(request), begun

        asked = time.perf_counter()
        answered, begun = await anyio.to_thread.run_sync(answer, limiter=served.turns[label])
        return SearchResponse.of(answered, label, 1000 * (begun - asked), request.explain)

    @router.get("/v1/info", responses=UNREADY, summary="Models and example queries")
    async def info() -> Info:
        """Which models answer here, and queries to try."""
        first = served.models[served.label_of(None)]
        models = [ModelInfo.of(label, model) for label, model in served.models.items()]
        return Info(models=models, examples=list(first.examples))

    return router


def probe_routes(served: ServedModels) -> APIRouter:
    """Return the routes that a load balancer asks."""
    router = APIRouter()

    @router.get("/livez", summary="The process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", responses=UNREADY, summary="The models are loaded")
    async def readyz() -> dict[str, str]:
        served.label_of(None)
        return {"status": "ready"}

    return router


def page_routes() -> APIRouter:
    """Return the routes of the page and its files."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def index() -> Response:
        return page_file("index.html")

    @router.get("/page/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        return page_file(name)

    return router
