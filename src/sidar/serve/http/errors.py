"""Every error is one JSON object with words in ``error``."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sidar.serve.http.models import NotReadyError
from sidar.serve.request import RequestError, in_words


def handle_errors(app: FastAPI) -> None:
    """Answer errors of every kind in words."""

    @app.exception_handler(NotReadyError)
    async def not_ready(_: Request, error: NotReadyError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "2"})

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
