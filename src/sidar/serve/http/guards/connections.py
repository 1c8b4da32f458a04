"""Connections that keep a server waiting are cut: headers that do not end, answers nobody reads.

uvicorn waits for both as long as it takes, so a client that sends a byte a minute would hold a
connection for ever. Slow bodies are the matter of :mod:`sidar.serve.http.guards.bodies`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

#: Looks at a connection before a stall of ``stall_seconds`` is noticed.
LOOKS = 4


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with two deadlines; :func:`guarded` sets them.

    ``header_seconds`` from the connection, or from the first byte of a later request, until its
    headers are whole; ``stall_seconds`` without a byte of the answer leaving.
    """

    header_seconds = 10.0
    stall_seconds = 10.0

    # uvicorn narrows the type of asyncio's protocol, too
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_due: asyncio.TimerHandle | None = None
        self._unsent, self._looks_without_progress = 0, 0
        self._next_look = self.loop.call_later(self.stall_seconds / LOOKS, self._look)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        self._have_headers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # IDLE = the next request has not begun, or its headers are not whole
        if self.conn.their_state is h11.IDLE:
            self._await_headers()
        else:
            self._have_headers()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in the words of every other error."""
        self._refuse(400, msg)

    def _await_headers(self) -> None:
        if self._headers_due is None and not self.transport.is_closing():
            self._headers_due = self.loop.call_later(self.header_seconds, self._headers_late)

    def _have_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _headers_late(self) -> None:
        self._headers_due = None
        if not self.transport.is_closing() and self.conn.our_state is h11.IDLE:
            self._refuse(408, f"the headers took longer than {self.header_seconds:g} s")

    def _look(self) -> None:
        """Drop the connection where nothing of what waits to be sent has left for too long."""
        unsent = self.transport.get_write_buffer_size()
        stalled = unsent > 0 and unsent >= self._unsent
        self._looks_without_progress = self._looks_without_progress + 1 if stalled else 0
        self._unsent = unsent
        if self._looks_without_progress > LOOKS:
            # close() would wait until the rest is read
            self.transport.abort()
            return
        self._next_look = self.loop.call_later(self.stall_seconds / LOOKS, self._look)

    def _refuse(self, status: int, words: str) -> None:
        """Answer before there is a request, and end the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # an answer is under way, so that another one would be part of it
            self.transport.close()
            return
        body = json.dumps({"error": words}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        events: list[h11.Event] = [
            h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def guarded(header_seconds: float, stall_seconds: float) -> type[GuardedProtocol]:
    """Return the protocol with these deadlines, as ``uvicorn.Config(http=…)`` takes it."""
    limits: dict[str, Any] = {"header_seconds": header_seconds, "stall_seconds": stall_seconds}
    return type("GuardedProtocol", (GuardedProtocol,), limits)
