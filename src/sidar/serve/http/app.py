"""The HTTP application: one route that searches, two that answer a load balancer, and a page.

Searches run in a worker thread, one at a time per model (torch already uses all cores), so the
event loop stays free.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from sidar.serve.http.schemas import Info, ModelInfo, Problem, SearchRequest, SearchResponse
from sidar.serve.http.web import page_file
from sidar.serve.retriever import Explanation
from sidar.version import __version__


class Searcher(Protocol):
    """What the server asks of a model; :class:`sidar.Retriever` is one."""

    label: str
    hash: str
    beam: int
    exact: bool
    examples: tuple[str, ...]
    index: Any  # PrefixIndex: len() and codebook_sizes

    def __len__(self) -> int: ...
    def explain(
        self,
        query: str,
        k: int = 10,
        *,
        history: Sequence[str] = (),
        profile: str = "",
        beam: int | None = None,
        exact: bool | None = None,
        levels: bool = True,
        rerank: bool | None = None,
        fuse: str | None = None,
    ) -> Explanation: ...


Models = Mapping[str, Searcher]


@dataclass
class _Served:
    """The models, once they are loaded, each with its turn; and why not, if loading failed."""

    models: dict[str, Searcher] = field(default_factory=dict)
    turns: dict[str, anyio.CapacityLimiter] = field(default_factory=dict)
    failure: str = ""

    def take(self, models: Models) -> None:
        if not models:
            raise ValueError("no model to serve; name at least one bundle")
        self.turns = {label: anyio.CapacityLimiter(1) for label in models}
        self.models = dict(models)


def create_app(models: Searcher | Models | Callable[[], Models]) -> FastAPI:
    """An ASGI app over one retriever, several by label, or a function that loads them while the
    server is already up.

    Until such a function returns, ``/readyz`` and searches answer 503; ``/livez`` is 200 from the
    start.
    """
    served = _Served()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def load() -> None:
            try:
                served.take(await anyio.to_thread.run_sync(loader, abandon_on_cancel=True))
            except Exception as error:  # whatever it is, the readiness probe must be able to say it
                served.failure = f"{type(error).__name__}: {error}"

        async with anyio.create_task_group() as tasks:
            if not served.models:
                tasks.start_soon(load)
            yield
            tasks.cancel_scope.cancel()

    if callable(models) and not isinstance(models, Mapping):
        loader: Callable[[], Models] = models
    else:
        given: Models = models if isinstance(models, Mapping) else {models.label: models}
        served.take(given)
        loader = lambda: given  # noqa: E731

    app = FastAPI(
        title="Sidar",
        version=__version__,
        description=(
            "Generative product search: a language model writes the Semantic ID of each "
            "product, code by code."
        ),
        lifespan=lifespan,
        # FastAPI's page for it loads scripts from elsewhere; /openapi.json is served
        docs_url=None,
        redoc_url=None,
    )
    _errors(app)
    unready: dict[int | str, dict[str, Any]] = {
        503: {"model": Problem, "description": "The models are still loading, or failed to."}
    }

    @app.post("/v1/search", responses={422: {"model": Problem}, **unready}, summary="Search")
    async def search(request: SearchRequest) -> SearchResponse:
        """The `k` best items for a query, with the Semantic ID and the log-probability of each
        level.
        """
        label = _chosen(served, request.model)
        model = served.models[label]
        asked_for: dict[str, Any] = {} if request.rerank is None else {"rerank": request.rerank}
        if request.rerank and getattr(model, "rerank", None) is None:
            raise _WrongRequestError(f"rerank: the bundle of {label!r} has no weight to rerank by")
        if request.fuse is not None:
            asked_for["fuse"] = request.fuse
        if request.fuse == "memory" and getattr(model, "fused", None) is None:
            raise _WrongRequestError(
                f"fuse: the bundle of {label!r} holds no memory to answer from"
            )
        if request.fuse == "memory" and request.rerank is not None:
            raise _WrongRequestError(
                "rerank: an answer fused with the memory reranks as it was fitted; leave it out"
            )

        def answer() -> tuple[Explanation, float]:
            begun = time.perf_counter()
            return (
                model.explain(
                    request.query,
                    request.k,
                    history=request.history,
                    profile=request.profile,
                    beam=request.beam,
                    exact=request.exact,
                    levels=request.explain,
                    **asked_for,
                ),
                begun,
            )

        asked = time.perf_counter()
        found, begun = await anyio.to_thread.run_sync(answer, limiter=served.turns[label])
        return SearchResponse.of(found, label, model.hash, 1000 * (begun - asked), request.explain)

    @app.get("/v1/info", responses=unready, summary="Models and example queries")
    async def info() -> Info:
        """Which models answer here, and queries to try."""
        _chosen(served, None)
        models = [
            ModelInfo(
                label=label,
                bundle=model.hash,
                items=len(model),
                sids=len(model.index),
                codebook_sizes=list(model.index.codebook_sizes),
                beam=model.beam,
                exact=model.exact,
            )
            for label, model in served.models.items()
        ]
        return Info(models=models, examples=list(next(iter(served.models.values())).examples))

    @app.get("/livez", summary="The process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", responses=unready, summary="The models are loaded")
    async def readyz() -> dict[str, str]:
        _chosen(served, None)
        return {"status": "ready"}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page_file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        return page_file(name)

    return app


class _NotReadyError(Exception):
    """Models are not there (yet): 503."""


class _WrongRequestError(Exception):
    """The request is well-formed but asks for what is not here: 422."""


def _chosen(served: _Served, label: str | None) -> str:
    if served.failure:
        raise _NotReadyError(f"loading the models failed: {served.failure}")
    if not served.models:
        raise _NotReadyError("the models are still loading")
    if label is None:
        return next(iter(served.models))
    if label not in served.models:
        raise _WrongRequestError(
            f"model: there is no {label!r} here; this server has {', '.join(served.models)}"
        )
    return label


def _errors(app: FastAPI) -> None:
    """Every error is one JSON object with words in ``error``."""

    @app.exception_handler(_NotReadyError)
    async def not_ready(_: Request, error: _NotReadyError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "2"})

    @app.exception_handler(_WrongRequestError)
    async def wrong(_: Request, error: _WrongRequestError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(HTTPException)
    # no such path, no such method, no text
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    # also re-raised, so that the log has the trace
    async def ours(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(
            {"error": f"this search failed ({type(error).__name__}); the server's log says more"},
            500,
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"] if part != "body") or "body"
            lines.append(f"{where}: {problem['msg']}")
        return JSONResponse({"error": "; ".join(lines)}, 422)
