"""What passes cost, learnt while they run; whether a request would be in time, and how many share a
pass.

Nothing here reads a clock or takes a lock: the engine hands in the time.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

#: Weight that an older pass loses with every newer one of its kind.
FORGET = 0.2
#: Variance of the sizes of passes, over the square of their mean, from which on they tell a fixed
#: part from one for each request.
VARIED = 0.04
#: Kinds whose cost is remembered; the one that was asked for least recently goes.
KINDS = 64
#: Largest part of a request's deadline that the pass which answers it may take: a request that has
#: just missed a pass waits for it and then takes its own, twice as long in all.
PASS_SHARE = 0.35
#: Part of its deadline within which a request must be expected to be answered when it comes: the
#: rest is for passes that take longer than those before them, and for the way to the client.
IN_TIME = 0.75


@dataclass
class Cost:
    """Seconds of a pass of n requests, fixed + each · n, by least squares over decaying weights."""

    weight: float = 0.0
    n: float = 0.0
    seconds: float = 0.0
    n_n: float = 0.0
    n_seconds: float = 0.0

    def note(self, n: int, seconds: float) -> None:
        """Learn from a pass of ``n`` requests that took ``seconds``."""
        for name, value in (
            *(("weight", 1.0), ("n", n), ("seconds", seconds)),
            *(("n_n", n * n), ("n_seconds", n * seconds)),
        ):
            setattr(self, name, (1 - FORGET) * getattr(self, name) + value)

    def of(self, n: int) -> float:
        """Return the seconds that a pass of ``n`` requests will take; 0 before the first pass."""
        if not self.weight:
            return 0.0
        mean_n, mean_seconds = self.n / self.weight, self.seconds / self.weight
        variance = self.n_n / self.weight - mean_n**2
        each = mean_seconds / mean_n
        if variance > VARIED * mean_n**2:
            covariance = self.n_seconds / self.weight - mean_n * mean_seconds
            # chance must not make requests free: a pass would take as many as there are
            each = min(max(covariance / variance, each / 2), each)
        return max(mean_seconds + each * (n - mean_n), 0.0)

    @property
    def each(self) -> float:
        """Seconds per request of the passes so far, latest first; 0 before the first."""
        return self.seconds / self.n if self.n else 0.0


@dataclass
class Pace:
    """The passes under way over ``copies`` of a model, and the cost of those that were; ``batch``:
    most requests of a pass.
    """

    copies: int
    batch: int
    _costs: dict[Hashable, Cost] = field(default_factory=dict)
    # when each pass under way began, and how long it will take
    _running: dict[int, tuple[float, float]] = field(default_factory=dict)
    _passes: int = 0

    def begin(self, now: float, kind: Hashable, n: int) -> int:
        """Note that a pass of ``n`` requests begins, and return its number for :meth:`end`."""
        self._passes += 1
        self._running[self._passes] = (now, self._cost(kind).of(n))
        return self._passes

    def end(self, number: int, now: float, kind: Hashable, n: int, *, counts: bool = True) -> float:
        """Note that a pass is over and return its seconds; one that failed does not count."""
        began, _ = self._running.pop(number)
        if counts:
            self._cost(kind).note(n, now - began)
        return now - began

    def expected(
        self,
        now: float,
        waiting: Mapping[Hashable, int],
        kind: Hashable,
        deadline: float | None = None,
    ) -> float:
        """Return the seconds until one more request of ``kind`` will be answered.

        ``waiting``: how many wait by kind, those of other kinds before this one; ``deadline``:
        seconds that it had when it came.  The copy that is free first takes the next pass.
        """
        busy = [max(0.0, began + takes - now) for began, takes in self._running.values()]
        free = busy + [0.0] * (self.copies - len(busy))
        heapq.heapify(free)
        for other, n in waiting.items():
            if other != kind:
                share = n * self._cost(other).each / self.copies
                free = [at + share for at in free]
        most, cost = self.most(kind, deadline), self._cost(kind)
        full, before = divmod(waiting.get(kind, 0), most)
        for _ in range(full):
            heapq.heapreplace(free, free[0] + cost.of(most))
        # while it waits for a copy its pass fills up
        return free[0] + cost.of(most if free[0] > 0 else before + 1)

    def most(self, kind: Hashable, deadline: float | None) -> int:
        """Return how many requests of ``kind`` a pass takes whose first had ``deadline`` seconds
        when it came, None = no limit.
        """
        if deadline is None or kind is None:
            return self.batch
        cost, most = self._cost(kind), self.batch
        while most > 1 and cost.of(most) > PASS_SHARE * deadline:
            most -= 1
        return most

    def _cost(self, kind: Hashable) -> Cost:
        cost = self._costs.pop(kind, None) or Cost()
        self._costs[kind] = cost
        if len(self._costs) > KINDS:
            del self._costs[next(iter(self._costs))]
        return cost
