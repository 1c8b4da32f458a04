"""Every error is one JSON object with words in ``error``."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sidar.serve.database import StoreError, StoreUnreachableError
from sidar.serve.engine import ClosedError, OverloadedError
from sidar.serve.http.models import NotReadyError
from sidar.serve.request import RequestError, in_words

#: What a disk says that takes nothing more, for now or at all.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_LOG = logging.getLogger("uvicorn.error")


def handle_errors(app: FastAPI) -> None:
    """Answer errors of every kind in words."""

    @app.exception_handler(NotReadyError)
    async def not_ready(_: Request, error: NotReadyError) -> JSONResponse:
        return later(str(error), 2)

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return later(str(error), error.retry_after)

    @app.exception_handler(ClosedError)
    async def closed(_: Request, error: ClosedError) -> JSONResponse:
        return later(str(error), 2)

    @app.exception_handler(StoreUnreachableError)
    async def unreachable(_: Request, error: StoreUnreachableError) -> JSONResponse:
        return not_written(f"the store does not answer: {error}")

    @app.exception_handler(StoreError)
    async def not_kept(_: Request, error: StoreError) -> JSONResponse:
        return not_written(str(error))

    @app.exception_handler(OSError)
    async def not_on_disk(request: Request, error: OSError) -> JSONResponse:
        if error.errno not in FULL:
            # the route and not the path, which may name a user
            route = getattr(request.scope.get("route"), "path", "a request")
            _LOG.error("%s failed", route, exc_info=error)
            return failed(error)
        return not_written(f"the disk cannot be written: {error.strerror}")

    @app.exception_handler(RequestError)
    async def cannot(_: Request, error: RequestError) -> JSONResponse:
        return problem(str(error), 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(in_words(error.errors()), 422)

    @app.exception_handler(HTTPException)
    # no such path, no such method, no text
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return problem(str(error.detail), error.status_code, error.headers)

    @app.exception_handler(Exception)
    # also re-raised, so that the log has the trace
    async def ours(_: Request, error: Exception) -> JSONResponse:
        return failed(error)


def problem(words: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error in words.

    They may repeat what was sent, and JSON can escape half a character, which no answer could.
    """
    readable = words.encode("utf-8", "replace").decode()
    return JSONResponse({"error": readable}, status, headers=headers)


def failed(error: Exception) -> JSONResponse:
    """Return 500: an error that nobody has foreseen."""
    return problem(f"this request failed ({type(error).__name__}); the server's log says more", 500)


def not_written(words: str) -> JSONResponse:
    """Return 503 for what could not be kept; it may be sent again as it is."""
    _LOG.error(words)
    return later(f"{words}; nothing of this request was kept, so send it again", 5)


def later(words: str, seconds: float) -> JSONResponse:
    """Return 503 with ``Retry-After``, at least a second."""
    headers = {"Retry-After": str(max(1, math.ceil(seconds)))}
    return problem(words, 503, headers)
