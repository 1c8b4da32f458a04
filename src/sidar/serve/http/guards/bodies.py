"""Bodies of requests are read whole before a route sees them: short, soon there, and not packed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class BodyLimit:
    """ASGI middleware that answers 413 beyond ``most`` bytes, 408 after ``seconds`` and 415 for a
    body with a content coding: unpacked it could be of any size.
    """

    app: ASGIApp
    most: int
    seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            await _refuse(415, "send the body as it is, without a content coding")(
                scope, receive, send
            )
            return
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self.most:
            await _refuse(413, self._too_long())(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), self.seconds)
        except ClientDisconnect:
            # nobody waits for an answer, and half a request is none
            return
        except TimeoutError:
            words = f"the body took longer than {self.seconds:g} s"
            await _refuse(408, words)(scope, receive, send)
            return
        if body is None:
            await _refuse(413, self._too_long())(scope, receive, send)
            return
        await self.app(scope, _Replay(body, receive), send)

    def _too_long(self) -> str:
        return f"the body is longer than this server's limit of {self.most:,} bytes"

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is too long. ``ClientDisconnect`` where the client leaves
        before its end.
        """
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            size += len(part)
            if size > self.most:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


class _Replay:
    """Hands the body out once, then whatever else the client sends."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _refuse(status: int, words: str) -> JSONResponse:
    # the rest of the body is not read, so that the connection cannot be used again
    return JSONResponse({"error": words}, status, headers={"Connection": "close"})
