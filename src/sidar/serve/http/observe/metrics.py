"""What the server counts, for Prometheus; no query and no user is in it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidar.serve.engine import Engine

#: Upper ends of the buckets of times, in seconds.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
#: Upper ends of the buckets of the sizes of passes.
SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Metrics:
    """The counters of one application, and what an engine tells them
    (:class:`~sidar.serve.engine.Observer`).
    """

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        registry = self.registry
        self.requests = Counter(
            "sidar_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "sidar_request_seconds",
            "Seconds of a request, waiting included.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.short = Counter(
            "sidar_short_answers", "Short answers by reason.", ["reason"], registry=registry
        )
        self.passes = Histogram(
            "sidar_pass_requests", "Requests of a pass.", buckets=SIZES, registry=registry
        )
        self.pass_seconds = Histogram(
            "sidar_pass_seconds", "Seconds of a pass.", buckets=SECONDS, registry=registry
        )
        self.late = Counter(
            "sidar_expired", "Requests that were not searched: too late.", registry=registry
        )
        self.shed = Counter(
            "sidar_refused", "Requests that found no place in the queue.", registry=registry
        )
        self.waiting = Gauge("sidar_waiting", "Requests that wait.", ["model"], registry=registry)
        self.bundle = Gauge(
            "sidar_bundle", "1 for the bundle that answers.", ["model", "bundle"], registry=registry
        )
        self.version = Gauge(
            "sidar_catalogue_version", "Changes since the bundle.", ["model"], registry=registry
        )

    def passed(self, requests: int, seconds: float) -> None:
        self.passes.observe(requests)
        self.pass_seconds.observe(seconds)

    def expired(self) -> None:
        self.late.inc()

    def refused(self) -> None:
        self.shed.inc()

    def page(self, engines: dict[str, Engine]) -> bytes:
        """Return everything as Prometheus reads it, with the state of ``engines`` now."""
        self.bundle.clear()
        for label, engine in engines.items():
            info = engine.info
            self.waiting.labels(label).set(engine.waiting)
            self.bundle.labels(label, info.hash).set(1)
            self.version.labels(label).set(info.version)
        return generate_latest(self.registry)


@dataclass(frozen=True)
class Measured:
    """ASGI middleware that counts requests and their seconds, by the path of their route."""

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            # paths that no route has would make a counter each
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)


def metrics_page(metrics: Metrics, engines: dict[str, Engine]) -> Response:
    """Return the answer of ``/metrics``."""
    return Response(metrics.page(engines), media_type="text/plain; version=0.0.4; charset=utf-8")
