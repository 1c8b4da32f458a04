"""Clients that keep a server waiting, or send more than it asked for."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx

from benchmarks.faults.load import Clients, search
from benchmarks.faults.server import Server

HEAD = b"POST /v1/search HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True)
class Limits:
    """The server's deadlines in seconds, and its longest body."""

    header: float
    body: float
    stall: float
    most: int

    @property
    def longest(self) -> float:
        """Seconds after which every slow client is cut, on a machine that does other things."""
        return 3 * max(self.header, self.body, self.stall) + 10


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as wire:
        yield wire


def drip(server: Server, start: bytes, pause: float, limits: Limits) -> tuple[bool, bytes]:
    """Send ``start`` and then a byte each ``pause`` seconds; return whether the server ended it,
    and what it said.
    """
    until = time.monotonic() + limits.longest
    said = b""
    with connected(server) as wire:
        wire.sendall(start)
        wire.settimeout(pause)
        while time.monotonic() < until:
            try:
                part = wire.recv(65536)
            except TimeoutError:
                with suppress(OSError):
                    wire.sendall(b"x")
                continue
            except OSError:
                return True, said
            if not part:
                return True, said
            said += part
    return False, said


def status_of(said: bytes) -> int:
    """The status of an answer; 0 where there is none."""
    words = said.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def never_reads(server: Server, limits: Limits, requests: int = 4000) -> bool:
    """Ask again and again on one connection and read nothing; return whether it is cut."""
    body = b'{"query": "tent", "k": 50, "explain": true}'
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    # the kernel keeps megabytes of answers before the server has any that it cannot send
    until = time.monotonic() + 60 + limits.longest
    with connected(server) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.settimeout(1)
        sent = 0
        while time.monotonic() < until:
            try:
                if sent < requests:
                    wire.sendall(one)
                    sent += 1
                else:
                    time.sleep(0.5)
                    wire.sendall(b" ")
            except TimeoutError:
                continue
            except OSError:
                return True
    return False


def send_all(server: Server, content: bytes) -> bytes:
    """Send as much of ``content`` as the server takes and return what it said."""
    said = b""
    with connected(server) as wire:
        with suppress(OSError):
            wire.sendall(content)
        with suppress(OSError):
            while part := wire.recv(65536):
                said += part
    return said


def _chunked(size: int) -> bytes:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (size // 65536 + 2)


def _bomb(size: int) -> bytes:
    packed = gzip.compress(b" " * size)
    about = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    return HEAD + about + packed


def cut(server: Server, limits: Limits, crowd: int) -> dict[str, float]:
    """Return how many of each kind of client were cut; ``crowd`` slow ones come at once, while an
    honest one searches.
    """
    figures: dict[str, float] = {}
    ended, said = drip(server, HEAD[:40], 0.2, limits)
    figures["slow_headers_cut"] = int(ended and status_of(said) == 408)
    body = HEAD + b"Content-Length: 100000\r\n\r\n{"
    ended, said = drip(server, body, 0.2, limits)
    figures["slow_bodies_cut"] = int(ended and status_of(said) == 408)
    ended, said = drip(server, b"", limits.longest / 4, limits)
    figures["silent_clients_cut"] = int(ended)
    figures["clients_that_never_read_cut"] = int(never_reads(server, limits))
    figures["long_chunked_bodies_cut"] = int(
        status_of(send_all(server, _chunked(limits.most))) == 413
    )
    long = HEAD + b"Content-Length: %d\r\n\r\n" % (limits.most + 1)
    figures["long_bodies_cut"] = int(status_of(send_all(server, long)) == 413)
    figures["gzip_bombs_cut"] = int(status_of(send_all(server, _bomb(200 << 20))) == 415)
    return figures | _crowd(server, limits, crowd)


def _crowd(server: Server, limits: Limits, crowd: int) -> dict[str, float]:
    before = server.rss_mib()
    wires = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(crowd)]
    try:
        for place, wire in enumerate(wires):
            wire.sendall(HEAD[: 20 + place % 40])
        honest = Clients(server.address, lambda client, *_: search(client, "tent")).start()
        time.sleep(limits.header / 2)
        for wire in wires:
            with suppress(OSError):
                wire.sendall(b"x")
        time.sleep(limits.header)
        calls = honest.stop()
        gone = sum(_is_gone(wire, limits) for wire in wires)
    finally:
        for wire in wires:
            wire.close()
    good = sum(
        isinstance(call.reply, httpx.Response) and call.reply.status_code == 200 for call in calls
    )
    return {
        "slow_crowd": crowd,
        "slow_crowd_cut": gone,
        "slow_crowd_rss_growth_mib": round(server.rss_mib() - before, 1),
        "slow_crowd_honest_searches": len(calls),
        "slow_crowd_honest_answered": good,
    }


def _is_gone(wire: socket.socket, limits: Limits) -> bool:
    wire.settimeout(limits.longest)
    try:
        while wire.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
