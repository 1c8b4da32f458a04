"""The HTTP application: searching, the state of the server, and a page.

Searches wait in the queue of their model's engine (:mod:`sidar.serve.engine`), so the event loop
stays free.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import Response

from sidar.config.serve import ServeConfig
from sidar.serve.events import EventLog, open_events
from sidar.serve.http.access import Access
from sidar.serve.http.active import SqliteActive
from sidar.serve.http.bundles import Bundles, OpenCopies, bundle_routes
from sidar.serve.http.errors import handle_errors
from sidar.serve.http.events import close_log, event_routes, keep_written
from sidar.serve.http.guards.bodies import BodyLimit
from sidar.serve.http.guards.shed import Shed
from sidar.serve.http.items import item_routes, keep_followed
from sidar.serve.http.models import EngineOptions, Models, ServedModels
from sidar.serve.http.observe.logs import Logged
from sidar.serve.http.observe.metrics import Measured, Metrics, metrics_page
from sidar.serve.http.observe.tracing import Spans, Traced, spans_of
from sidar.serve.http.responses import LIMITED, METRICS, UNREADY
from sidar.serve.http.searches import Searches, search_routes
from sidar.serve.http.views.routes import view_routes
from sidar.serve.http.web import page_file
from sidar.serve.info import Searcher
from sidar.serve.request import Limits
from sidar.version import __version__

DESCRIPTION = (
    "Generative product search: a language model writes the Semantic ID of each product, code by "
    "code."
)


def create_app(
    models: Searcher | Models | Callable[[], Models],
    limits: Limits | None = None,
    config: ServeConfig | None = None,
    open_copies: OpenCopies | None = None,
    log: EventLog | None = None,
    spans: Spans | None = None,
) -> FastAPI:
    """An ASGI app over one retriever, several by label, or a function that loads them while the
    server is already up.

    Until such a function returns, ``/readyz`` and searches answer 503; ``/livez`` is 200 from the
    start. A request beyond ``limits``, default those of ``config``, is refused. ``open_copies``
    loads a bundle of ``config.bundles``; default: into this process, on the CPU. ``log`` takes
    events; default: one in ``config.store``, where that is set, with users hashed without a salt.
    ``spans`` of OpenTelemetry are made; default: those that ``config.otel`` asks for.
    """
    config = config or ServeConfig()
    log = log or open_log(config)
    spans = spans or spans_of(config)
    metrics = Metrics()
    options = EngineOptions(config.queue, config.batch, metrics)
    served = ServedModels.of(models, options)
    bundles = Bundles(served, config.bundles, open_copies, _active_store(config))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.load, bundles.go_on)
            if log is not None:
                tasks.start_soon(keep_written, log)
            if config.store:
                tasks.start_soon(keep_followed, bundles.follow)
            yield
            tasks.cancel_scope.cancel()
        # what was accepted is answered before the process ends
        await anyio.to_thread.run_sync(bundles.close)
        if log is not None:
            await close_log(log)
        if spans is not None:
            await anyio.to_thread.run_sync(spans.close)

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
    access = Access(config.keys, config.read_key)
    searches = Searches(served, limits or _limits(config), config, metrics, log, spans)
    app.include_router(search_routes(searches, access))
    app.include_router(bundle_routes(bundles, access))
    app.include_router(view_routes(served, bundles, searches.limits, config, access))
    if log is not None:
        app.include_router(event_routes(log, access, config.limits.events))
    app.include_router(item_routes(bundles.change_items, access, config.limits.items))
    app.include_router(probe_routes(served, metrics, access))
    app.include_router(page_routes())
    access.describe(app)
    app.add_middleware(Shed, served=served, config=config)
    app.add_middleware(BodyLimit, most=config.limits.body, seconds=config.limits.body_seconds)
    app.add_middleware(Measured, metrics=metrics)
    if config.log.format == "json":
        app.add_middleware(Logged, config=config.log)
    if spans is not None:
        app.add_middleware(Traced, spans=spans)
    return app


def open_log(config: ServeConfig, salt: str | None = "") -> EventLog | None:
    """Return the log in ``config.store``, None where that is empty; ``salt`` as
    :class:`~sidar.serve.events.EventLog` takes it.
    """
    if not config.store:
        return None
    return EventLog(open_events(config.store), config.answers_log or None, salt)


def _active_store(config: ServeConfig) -> SqliteActive | None:
    """Where the active bundle's name is kept: beside the rest, in a file of this machine.

    Replicas that share a database are activated one by one, so it holds no name of theirs.
    """
    if not config.bundles or not config.store or "://" in config.store:
        return None
    return SqliteActive(config.store)


def _limits(config: ServeConfig) -> Limits:
    sizes = config.limits
    return Limits(
        query=sizes.query,
        k=sizes.k,
        history=sizes.history,
        profile=sizes.profile,
        beam=sizes.beam,
    )


def probe_routes(served: ServedModels, metrics: Metrics, access: Access) -> APIRouter:
    """Return the routes that a load balancer and a monitor ask."""
    router = APIRouter()

    @router.get("/livez", summary="The process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", responses=UNREADY, summary="The models are loaded")
    async def readyz() -> dict[str, str]:
        served.label_of(None)
        return {"status": "ready"}

    @router.get(
        "/metrics",
        response_class=Response,
        responses=LIMITED | METRICS,
        dependencies=[Depends(access.needs("read"))],
        summary="Counters for Prometheus",
    )
    async def prometheus() -> Response:
        return metrics_page(metrics, served.engines)

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
