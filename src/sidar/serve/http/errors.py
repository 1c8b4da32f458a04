"""Every error is one JSON object with words in ``error``."""

from __future__ import annotations

import math

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sidar.serve.database import StoreUnreachableError
from sidar.serve.engine import ClosedError, OverloadedError
from sidar.serve.http.models import NotReadyError
from sidar.serve.request import RequestError, in_words


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
        return later(f"the store does not answer: {error}", 2)

    @app.exception_handler(RequestError)
    async def cannot(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": in_words(error.errors())}, 422)

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


def later(words: str, seconds: float) -> JSONResponse:
    """Return 503 with ``Retry-After``, at least a second."""
    headers = {"Retry-After": str(max(1, math.ceil(seconds)))}
    return JSONResponse({"error": words}, 503, headers=headers)
