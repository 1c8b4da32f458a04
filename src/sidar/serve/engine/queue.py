"""A bounded queue of requests, from which a pass takes the oldest and what can join it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from sidar.serve.request import SearchRequest
from sidar.serve.results import SearchAnswer


class OverloadedError(Exception):
    """There is no place for another request now; ``retry_after`` seconds may help."""

    def __init__(self, words: str, retry_after: float) -> None:
        super().__init__(words)
        self.retry_after = retry_after


class ClosedError(Exception):
    """The engine takes no request any more."""


@dataclass(frozen=True)
class Answered:
    """An answer, and the milliseconds for which its request waited before its pass."""

    answer: SearchAnswer
    wait_ms: float


@dataclass(frozen=True)
class Ticket:
    """A request that waits; times are those of ``time.perf_counter()``."""

    request: SearchRequest
    # requests of one kind share a pass; None = this one is answered alone
    kind: Hashable
    arrived: float = field(default_factory=time.perf_counter)
    future: Future[Answered] = field(default_factory=Future)

    @property
    def seconds(self) -> float | None:
        """Seconds from its arrival to its deadline; None where it has none."""
        limit = self.request.timeout_ms
        return None if limit is None else limit / 1000

    @property
    def expires(self) -> float | None:
        """The moment of its deadline; None where it has none."""
        return None if self.seconds is None else self.arrived + self.seconds

    def expired(self, now: float) -> bool:
        """Return whether its deadline is over at ``now``."""
        return self.expires is not None and now >= self.expires

    def remaining(self, now: float) -> SearchRequest:
        """Return the request with what is left of its time at ``now``."""
        if self.expires is None:
            return self.request
        left = max(1, int(1000 * (self.expires - now)))
        return self.request.model_copy(update={"timeout_ms": left})


class TicketQueue:
    """First come, first served, up to ``size`` tickets; safe for many threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._waiting: deque[Ticket] = deque()
        self._kinds: Counter[Hashable] = Counter()
        self._changed = threading.Condition()
        self._idle = 0  # takers that wait for a ticket
        self._takes = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def kinds(self) -> Mapping[Hashable, int]:
        """How many tickets of each kind wait."""
        with self._changed:
            return dict(self._kinds)

    def put(self, ticket: Ticket, retry_after: float) -> None:
        """Add a ticket; :class:`OverloadedError` when the queue is full, :class:`ClosedError` when
        it is closed.
        """
        with self._changed:
            self._check(retry_after)
            self._waiting.append(ticket)
            self._kinds[ticket.kind] += 1
            self._changed.notify()

    def check(self, retry_after: float) -> None:
        """Raise what :meth:`put` would raise now."""
        with self._changed:
            self._check(retry_after)

    def _check(self, retry_after: float) -> None:
        if self._closed:
            raise ClosedError("the server is shutting down")
        if len(self._waiting) >= self.size:
            raise OverloadedError(
                f"{len(self._waiting)} requests wait, which is the most that may (serve.queue)",
                retry_after,
            )

    def take(
        self, most: Callable[[Ticket], int], wanted: int = 1, seconds: float = 0.0
    ) -> list[Ticket] | None:
        """Return the oldest ticket with others of its kind, ``most(oldest)`` in all, waiting for
        one; None when the queue is closed and empty.

        Where there is one, waits up to ``seconds`` until there are ``wanted``.  Other takers that
        wait get an even share of what is there.
        """
        with self._changed:
            self._idle += 1
            while not self._waiting:
                if self._closed:
                    self._idle -= 1
                    return None
                before = self._takes
                self._changed.wait()
                if 0 < len(self._waiting) < wanted:
                    self._gather(wanted, before, seconds)
            self._idle -= 1
            first = self._waiting.popleft()
            takers = 1 + self._idle
            share = -(-self._kinds[first.kind] // takers)
            taken, left = [first], deque[Ticket]()
            room = 1 if first.kind is None else min(most(first), share)
            for ticket in self._waiting:
                joins = ticket.kind == first.kind and len(taken) < room
                (taken if joins else left).append(ticket)
            self._waiting = left
            self._takes += 1
            self._kinds[first.kind] -= len(taken)
            if not self._kinds[first.kind]:
                del self._kinds[first.kind]
            if left and self._idle:
                self._changed.notify()
            return taken

    def _gather(self, wanted: int, before: int, seconds: float) -> None:
        """Wait until ``wanted`` wait, ``seconds`` are over, or another taker has taken some since
        ``before`` takes.
        """
        self._changed.wait_for(
            lambda: len(self._waiting) >= wanted or self._takes > before or self._closed, seconds
        )

    def close(self) -> None:
        """Take no more tickets; those that wait are still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
