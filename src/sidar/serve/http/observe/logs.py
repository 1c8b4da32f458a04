"""The server's log as JSON lines: one per request, by its id.

A line says what a monitor needs: route, status, milliseconds, and of every answer its
``request_id`` (which events name), its bundle, and how many items it has. No query and no user is
in it, unless ``serve.log`` says so.
"""

from __future__ import annotations

import json
import logging
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidar.config.serve import LogConfig

if TYPE_CHECKING:
    from sidar.serve.http.schemas import SearchResponse
    from sidar.serve.request import SearchRequest

LOGGER = logging.getLogger("sidar.requests")
#: The header by which a proxy names a request; every answer has it.
REQUEST_ID = "X-Request-ID"
#: What is taken from that header: nothing that could begin a second line.
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass(frozen=True)
class Line:
    """The answers of the request that is under way, and what may be said of them."""

    config: LogConfig
    answers: list[dict[str, Any]]


_LINE: ContextVar[Line | None] = ContextVar("sidar_log_line", default=None)


def note_answer(request: SearchRequest, response: SearchResponse) -> None:
    """Add an answer to the line of its request; nothing where no lines are written."""
    line = _LINE.get()
    if line is None:
        return
    note: dict[str, Any] = {
        "request_id": response.request_id,
        "model": response.model,
        "bundle": response.bundle,
        "returned": response.returned,
        "reason": response.reason,
    }
    if line.config.queries:
        note["query"] = request.query
    if line.config.users:
        note["user_id"] = request.user_id
    line.answers.append(note)


@dataclass(frozen=True)
class Logged:
    """ASGI middleware that writes a line per request and names it in ``X-Request-ID``.

    A request that has such a header keeps it, so that the lines of a proxy and of the server meet.
    """

    app: ASGIApp
    config: LogConfig

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        name = given if _ID.fullmatch(given) else uuid4().hex
        line, started, status = Line(self.config, []), time.perf_counter(), 500

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = name
            await send(message)

        token = _LINE.set(line)
        try:
            await self.app(scope, receive, named)
        finally:
            _LINE.reset(token)
            fields = {
                "id": name,
                "method": scope["method"],
                # not the path: it may hold a user's id
                "route": getattr(scope.get("route"), "path", "none"),
                "status": status,
                "ms": round(1000 * (time.perf_counter() - started), 3),
            }
            if line.answers:
                fields["answers"] = line.answers
            LOGGER.info("request", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Writes each record as one line of JSON, an exception's trace in the field ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def uvicorn_options(config: LogConfig) -> dict[str, Any]:
    """Return the arguments of ``uvicorn.run`` by which its log is written as ``config`` says."""
    if config.format == "text":
        return {"log_level": "warning"}
    return {"log_config": _everything_as_json()}


def _everything_as_json() -> dict[str, Any]:
    """Return settings for :func:`logging.config.dictConfig`: JSON lines on stderr."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "sidar.serve.http.observe.logs.JsonLines"}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://sys.stderr",
            }
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {
            LOGGER.name: {"level": "INFO"},
            "uvicorn": {"level": "INFO"},
            # one line per request is enough
            "uvicorn.access": {"level": "WARNING"},
        },
    }
