"""Clients that keep a server busy, and note what they sent and what came back."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.faults.server import bearer


@dataclass
class Call:
    """One request: when its last byte was sent (inf: never), and its answer; ``reply`` None = none
    came.
    """

    sent: float
    reply: httpx.Response | None
    error: str = ""


class Noting(httpx.HTTPTransport):
    """A connection that notes when a request was sent whole."""

    sent = math.inf

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": self._note}
        return super().handle_request(request)

    def _note(self, event: str, _: Any) -> None:
        if event == "http11.send_request_body.complete":
            self.sent = time.monotonic()


@dataclass
class Clients:
    """``n`` threads that repeat ``visit`` (client, round) until :meth:`stop`.

    A visit that ends in a transport error is noted in ``calls`` with its words.
    """

    address: str
    visit: Callable[[httpx.Client, int, int], httpx.Response | None]
    n: int = 1
    calls: list[Call] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> Clients:
        self._threads = [
            threading.Thread(target=self._run, args=(place,), daemon=True)
            for place in range(self.n)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> list[Call]:
        """Let every thread end its visit, and return what all of them noted."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.calls

    def _run(self, place: int) -> None:
        wire = Noting()
        with httpx.Client(
            base_url=self.address, timeout=120, headers=bearer("boss"), transport=wire
        ) as client:
            turn = 0
            while not self._stop.is_set():
                self._once(client, wire, place, turn)
                turn += 1

    def _once(self, client: httpx.Client, wire: Noting, place: int, turn: int) -> None:
        wire.sent = math.inf
        try:
            reply = self.visit(client, place, turn)
        except httpx.TransportError as error:
            self.calls.append(Call(wire.sent, None, f"{type(error).__name__}: {error}"))
            # a server that is gone is not asked as fast as possible
            time.sleep(0.05)
            return
        if reply is not None:
            self.calls.append(Call(wire.sent, reply))


def search(client: httpx.Client, query: str, k: int = 5, **more: Any) -> httpx.Response:
    """One search."""
    return client.post("/v1/search", json={"query": query, "k": k, **more})
