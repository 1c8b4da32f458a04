"""Open-loop load: searches arrive at a given rate, whatever the answers do.

A closed loop, whose clients wait for an answer before they ask again, slows down with the server
and hides its queue [source: Schroeder, Wierman and Harchol-Balter, "Open versus closed: a
cautionary tale", NSDI 2006]. Arrivals are Poisson: gaps are drawn from an exponential distribution.
Latency counts from the moment at which a search was due, so a sender that falls behind does not
flatter the server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from sidar.client.exchange import Server
from sidar.serve.request import SearchRequest, in_words

#: Bounds of one run: a slip of the keyboard must not become an attack.
MOST_RATE, MOST_SECONDS = 2000.0, 3600.0
#: Searches that may be without an answer; more are counted as ``unsent``.
MOST_OPEN = 4096


@dataclass(frozen=True)
class LoadPlan:
    """Searches a second, for how long; an answer is good within ``within_ms``."""

    rate: float
    seconds: float
    within_ms: float = 1000.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("rate", self.rate, MOST_RATE),
            ("seconds", self.seconds, MOST_SECONDS),
        ):
            if not 0 < value <= most:
                raise ValueError(f"--{name} {value:g} is not above 0 and at most {most:g}")

    def moments(self) -> list[float]:
        """Return the seconds from the start at which searches are due, ascending."""
        draws, moment, due = random.Random(self.seed), 0.0, []
        while (moment := moment + draws.expovariate(self.rate)) < self.seconds:
            due.append(moment)
        return due


@dataclass
class LoadReport:
    """What the senders saw, in milliseconds and counts; ``statuses`` are those but 200."""

    plan: LoadPlan
    answered_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    deadline: int = 0
    failed: int = 0
    unsent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def good(self) -> int:
        """How many answers came within ``within_ms``."""
        return sum(ms <= self.plan.within_ms for ms in self.answered_ms)

    def figures(self) -> dict[str, Any]:
        """Return the report as flat JSON; a percentile of nothing is null."""
        # everyone who was sent ended in one of these
        sent = len(self.answered_ms) + self.deadline + self.failed + self.statuses.total()
        return {
            **asdict(self.plan),
            "sent": sent,
            "answered": len(self.answered_ms),
            "good": self.good,
            "goodput": round(self.good / self.plan.seconds, 3),
            "p50_ms": percentile(self.answered_ms, 0.50),
            "p95_ms": percentile(self.answered_ms, 0.95),
            "p99_ms": percentile(self.answered_ms, 0.99),
            "refused_503": self.statuses[503],
            "limited_429": self.statuses[429],
            "other_statuses": sum(
                count for status, count in self.statuses.items() if status not in (429, 503)
            ),
            "deadline": self.deadline,
            "failed": self.failed,
            "unsent": self.unsent,
            "lag_p99_ms": percentile(self.lag_ms, 0.99),
        }


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the least value that at least ``share`` of the values do not exceed (nearest rank)."""
    if not values:
        return None
    place = max(1, math.ceil(share * len(values)))
    return round(sorted(values)[place - 1], 3)


def read_requests(path: Path, k: int, timeout_ms: int | None) -> list[SearchRequest]:
    """Return the searches of a file: a query a line, or (``.jsonl``) a request as JSON a line.

    ``k`` and ``timeout_ms`` are those of plain queries. ``ValueError`` names the line that is
    wrong, or the file where it has none.
    """
    requests = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            if path.suffix == ".jsonl":
                requests.append(SearchRequest.model_validate_json(line))
            else:
                requests.append(SearchRequest.of(line.strip(), k, timeout_ms=timeout_ms))
        except ValidationError as error:
            raise ValueError(f"{path}:{number}: {in_words(error.errors())}") from None
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    if not requests:
        raise ValueError(f"{path} has no queries; write one a line")
    return requests


def check_address(url: str, allow_remote: bool) -> None:
    """Raise ``ValueError`` for an address that is not this machine, unless it may be."""
    host = urlsplit(url).hostname
    if host is None:
        raise ValueError(f"{url!r} is no address such as http://127.0.0.1:8000")
    if allow_remote:
        return
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ValueError(f"{host}: {error}") from None
    if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise ValueError(
            f"{host} is another machine; --allow-remote sends load to it, and its operators "
            "should know"
        )


async def send_load(
    server: Server,
    requests: Sequence[SearchRequest],
    plan: LoadPlan,
    transport: httpx.AsyncBaseTransport | None = None,
) -> LoadReport:
    """Send ``requests`` again and again as ``plan`` says, and wait for what is under way."""
    report = LoadReport(plan)
    bodies = [
        request.model_dump(mode="json", exclude_defaults=True) | {"query": request.query}
        for request in requests
    ]
    limits = httpx.Limits(max_connections=MOST_OPEN, max_keepalive_connections=256)
    # no proxy of the environment: it would be what is measured
    options = {**server.options(), "limits": limits, "trust_env": False, "transport": transport}
    under_way: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(**options) as http:
        started = time.perf_counter()
        for place, moment in enumerate(plan.moments()):
            await asyncio.sleep(max(0.0, started + moment - time.perf_counter()))
            if len(under_way) >= MOST_OPEN:
                report.unsent += 1
                continue
            body = bodies[place % len(bodies)]
            task = asyncio.create_task(_ask(http, body, started + moment, report))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return report


async def _ask(
    http: httpx.AsyncClient, body: dict[str, Any], due: float, report: LoadReport
) -> None:
    report.lag_ms.append(1000 * (time.perf_counter() - due))
    try:
        reply = await http.post("v1/search", json=body)
        late = reply.status_code == 200 and reply.json()["reason"] == "deadline"
    except (httpx.TransportError, json.JSONDecodeError, KeyError):
        report.failed += 1
        return
    if late:
        report.deadline += 1
    elif reply.status_code == 200:
        report.answered_ms.append(1000 * (time.perf_counter() - due))
    else:
        report.statuses[reply.status_code] += 1
