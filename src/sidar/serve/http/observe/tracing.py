"""Spans for OpenTelemetry: a request, its wait in the queue, its pass, and the phases of that.

Off, and nothing of OpenTelemetry is imported, unless ``serve.otel`` or the standard variables name
a collector.  What a model did is known from its answer, also where a worker process gave it, so
those spans are made afterwards, with the times that the answer tells.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidar.config.serve import ServeConfig
from sidar.serve.engine.queue import Answered

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

#: Variables of OpenTelemetry that name a collector.
VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
#: Phases of a pass, one after the other, and parts of the last one that have times of their own.
PHASES = ("prompt", "prefill", "decode", "cards")
CHANNELS = ("bm25", "dense", "memory", "ranker")
_MISSING = "OpenTelemetry is not installed: pip install 'sidar[otel]'"


@dataclass(frozen=True)
class Spans:
    """Makes spans with ``tracer``; ``content``: with queries and pseudonyms of users."""

    provider: TracerProvider
    tracer: Tracer
    content: bool = False

    @classmethod
    def of(cls, provider: TracerProvider, content: bool = False) -> Spans:
        """Return what makes spans of ``provider``."""
        return cls(provider, provider.get_tracer("sidar"), content)

    def answered(
        self, answered: Answered, label: str, began_ns: int, query: str, user: str
    ) -> None:
        """Make the spans below the present request of an answer that was asked for at
        ``began_ns``, nanoseconds since 1970.
        """
        answer = answered.answer
        waited = self._span("queue", began_ns, answered.wait_ms)
        about: dict[str, str | int] = {
            "sidar.model": label,
            "sidar.bundle": answer.bundle,
            "sidar.catalogue_version": answer.catalogue_version,
            "sidar.beam": answer.beam,
            "sidar.fuse": answer.fuse,
            "sidar.requested": answer.requested,
            "sidar.returned": answer.returned,
            "sidar.reason": answer.reason or "",
        }
        if self.content:
            about |= {"sidar.query": query, "enduser.pseudo.id": user}
        timing = answer.timing_ms
        self._pass(waited, timing, about)

    def _pass(
        self, began_ns: int, timing: Mapping[str, float], about: Mapping[str, str | int]
    ) -> None:
        from opentelemetry.trace import set_span_in_context

        span = self.tracer.start_span("pass", start_time=began_ns, attributes=about)
        below = set_span_in_context(span)
        now = began_ns
        for phase in PHASES:
            before, now = now, self._span(phase, now, timing.get(phase, 0.0), below)
        # the channels are asked at the beginning of the last phase
        now = before
        for channel in CHANNELS:
            if channel in timing:
                now = self._span(f"channel {channel}", now, timing[channel], below)
        span.end(end_time=began_ns + _ns(timing.get("total", 0.0)))

    def _span(self, name: str, began_ns: int, ms: float, below: Context | None = None) -> int:
        """Make a span of ``ms`` milliseconds and return its end; ``below`` None = the present."""
        ended = began_ns + _ns(ms)
        self.tracer.start_span(name, context=below, start_time=began_ns).end(end_time=ended)
        return ended

    def close(self) -> None:
        """Send what is left."""
        self.provider.shutdown()


def spans_of(config: ServeConfig) -> Spans | None:
    """Return what makes the spans that ``config`` or the environment asks for; None = none.

    Raises ``ValueError`` where the config asks for them and OpenTelemetry is not installed.
    """
    asked = config.otel.endpoint
    if not asked and not any(os.environ.get(name) for name in VARIABLES):
        return None
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        if asked:
            raise ValueError(f"serve.otel.endpoint is set, but {_MISSING}") from error
        # the variables may be those of all services of a machine
        logging.getLogger("uvicorn.error").warning("no spans are sent: %s", _MISSING)
        return None
    name = os.environ.get("OTEL_SERVICE_NAME") or config.otel.service
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    traces = f"{asked.rstrip('/')}/v1/traces" if asked else None
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=traces)))
    return Spans.of(provider, config.otel.content)


@dataclass(frozen=True)
class Traced:
    """ASGI middleware that makes a span of each request, below the caller's where it names one.

    Paths are those of routes, so that no id of an item or user stands in a span.
    """

    app: ASGIApp
    spans: Spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        method = str(scope["method"])
        with self.spans.tracer.start_as_current_span(
            method,
            context=extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
            # the words of an exception may repeat what was sent
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            try:
                await self.app(scope, receive, watched)
            except BaseException as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__name__)
                raise
            finally:
                route = getattr(scope.get("route"), "path", "none")
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)


def _ns(ms: float) -> int:
    return int(1_000_000 * ms)


def now_ns() -> int:
    """Return the moment as spans have it."""
    return time.time_ns()
