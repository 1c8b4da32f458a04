"""An engine: one thread per model copy, each of which answers what waits, pass after pass.

While a pass is under way requests gather for the next, so passes are small when there is little to
do and large when there is much.  Clients that were answered together ask again together: where a
pass had several requests and nobody waits at its end, the first that comes waits for the others,
for milliseconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from sidar.serve.engine.pace import IN_TIME, Pace
from sidar.serve.engine.process import WorkerProcess
from sidar.serve.engine.queue import (
    Answered,
    ClosedError,
    OverloadedError,
    Ticket,
    TicketQueue,
)
from sidar.serve.info import BundleInfo, Searcher
from sidar.serve.request import SearchRequest
from sidar.serve.results import SearchAnswer

#: Seconds that the first request waits for as many as the pass before had.
GATHER = 0.004


class Observer(Protocol):
    """Is told what an engine does, e.g. to count it."""

    def passed(self, requests: int, seconds: float) -> None:
        """Note that a pass answered ``requests`` in ``seconds``."""

    def expired(self) -> None:
        """Note that a request was not searched because its deadline was over."""

    def refused(self) -> None:
        """Note that a request found no place, or no time before its deadline."""


class Engine:
    """``Engine([retriever]).submit(request).result()``: copies of one model behind one queue.

    ``queue``: most requests that wait; ``batch``: most that share a pass.
    """

    def __init__(
        self,
        copies: Sequence[Searcher],
        *,
        queue: int = 256,
        batch: int = 32,
        observer: Observer | None = None,
    ) -> None:
        self._copies, self._observer = list(copies), observer
        self._queue = TicketQueue(queue)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._pace = Pace(len(self._copies), batch)
        self._in_passes = 0

    @property
    def info(self) -> BundleInfo:
        """What the model's bundle says of itself, as it is now."""
        return self._copies[0].info

    @property
    def copies(self) -> Sequence[Searcher]:
        """The copies of the model."""
        return tuple(self._copies)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def busy(self) -> int:
        """How many requests are in passes."""
        return self._in_passes

    def submit(self, request: SearchRequest) -> Future[Answered]:
        """Queue a request and return its future answer.

        Raises ``RequestError`` where the model cannot answer as asked; :class:`OverloadedError`
        when the queue is full, or so long that the deadline would pass before the turn of this one;
        :class:`ClosedError` after :meth:`close`.
        """
        ticket = self._ticket(request)
        try:
            expected = self._expected(ticket)
            self._queue.put(ticket, retry_after=expected)
        except OverloadedError:
            self._count_refused()
            raise
        self._start()
        return ticket.future

    def check(self, request: SearchRequest) -> None:
        """Raise what :meth:`submit` would raise now, without queueing the request."""
        ticket = self._ticket(request)
        try:
            expected = self._expected(ticket)
            self._queue.check(retry_after=expected)
        except OverloadedError:
            self._count_refused()
            raise

    def _ticket(self, request: SearchRequest) -> Ticket:
        return Ticket(request, self.info.kind(request))

    def _expected(self, ticket: Ticket) -> float:
        """Return the seconds until ``ticket`` will be answered; :class:`OverloadedError` where that
        is too long for its deadline.
        """
        waiting, limit = self._queue.kinds, ticket.seconds
        with self._lock:
            expected = self._pace.expected(ticket.arrived, waiting, ticket.kind, limit)
        if limit is not None and expected > IN_TIME * limit:
            raise OverloadedError(
                f"{sum(waiting.values())} requests wait, so this one would miss its deadline",
                expected,
            )
        return expected

    def _count_refused(self) -> None:
        if self._observer is not None:
            self._observer.refused()

    def close(self) -> None:
        """Take no more requests, answer those that wait, and return when all are answered."""
        self._queue.close()
        for thread in self._threads:
            thread.join()
        for copy in self._copies:
            if isinstance(copy, WorkerProcess):
                copy.close()

    def _start(self) -> None:
        """Start the threads with the first request: an engine that nobody asks costs none."""
        if self._threads:
            return
        with self._lock:
            if self._threads:
                return
            threads = [
                threading.Thread(target=self._serve, args=(copy,), daemon=True)
                for copy in self._copies
            ]
            for thread in threads:
                thread.start()
            self._threads = threads

    def _serve(self, copy: Searcher) -> None:
        last = 1
        while (tickets := self._queue.take(self._room, last, GATHER)) is not None:
            now = time.perf_counter()
            ready = [ticket for ticket in tickets if self._wanted(ticket, now)]
            last = len(ready)
            if ready:
                self._pass(copy, ready, now)

    def _room(self, first: Ticket) -> int:
        """Return how many requests share the pass of ``first``."""
        with self._lock:
            return self._pace.most(first.kind, first.seconds)

    def _wanted(self, ticket: Ticket, now: float) -> bool:
        """Whether somebody still waits for the answer; one that is too late is answered here."""
        if not ticket.future.set_running_or_notify_cancel():
            return False
        if not ticket.expired(now):
            return True
        late = self.info.too_late(ticket.request)
        ticket.future.set_result(Answered(late, 1000 * (now - ticket.arrived)))
        if self._observer is not None:
            self._observer.expired()
        return False

    def _pass(self, copy: Searcher, tickets: Sequence[Ticket], now: float) -> None:
        kind, size = tickets[0].kind, len(tickets)
        with self._lock:
            self._in_passes += size
            number = self._pace.begin(now, kind, size)
        error: Exception | None = None
        answers: Sequence[SearchAnswer] = ()
        try:
            answers = copy.answer([ticket.remaining(now) for ticket in tickets])
        except Exception as failure:
            error = failure
        with self._lock:
            self._in_passes -= size
            ended = time.perf_counter()
            seconds = self._pace.end(number, ended, kind, size, counts=error is None)
        if error is not None:
            self._fail(copy, tickets, error)
            return
        if self._observer is not None:
            self._observer.passed(size, seconds)
        for ticket, answer in zip(tickets, answers, strict=True):
            ticket.future.set_result(Answered(answer, 1000 * (now - ticket.arrived)))

    def _fail(self, copy: Searcher, tickets: Sequence[Ticket], error: Exception) -> None:
        """Hand on the error of one request alone; of several, answer each alone, so that one does
        not fail the others.
        """
        if len(tickets) == 1:
            tickets[0].future.set_exception(error)
            return
        for ticket in tickets:
            self._pass(copy, [ticket], time.perf_counter())


__all__ = ["Answered", "ClosedError", "Engine", "Observer", "OverloadedError", "Ticket"]
