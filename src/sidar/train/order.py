"""Which examples a step trains on: a function of (seed, step), length-bucketed, and nothing else.

Examples come from streams (parts of a mixture).  A *pool* is the next ``WINDOW`` batches' worth of
examples; it is sorted by length and cut into batches, whose order is shuffled, so that a batch pads
little and no epoch looks alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np

#: Batches per pool: long enough for even lengths, short enough that a pool is prepared in a blink.
WINDOW = 16

#: (stream, index inside the stream, how often that index was drawn before)
Draw = tuple[str, int, int]

T = TypeVar("T")


class Order:
    """Draws from streams of given sizes and shares (which need not sum to 1; empty streams give
    theirs away).
    """

    def __init__(
        self, sizes: dict[str, int], shares: dict[str, float], batch_size: int, seed: int
    ) -> None:
        live = {
            name: shares[name] for name in shares if sizes.get(name, 0) > 0 and shares[name] > 0
        }
        if not live:
            raise ValueError(f"nothing to train on: streams of sizes {sizes} with shares {shares}")
        self.sizes, self.batch_size, self.seed = sizes, batch_size, seed
        pool = WINDOW * batch_size
        exact = {name: share / sum(live.values()) * pool for name, share in live.items()}
        self._counts = {name: int(n) for name, n in exact.items()}
        by_remainder = sorted(exact, key=lambda name: self._counts[name] - exact[name])
        for name in by_remainder[: pool - sum(self._counts.values())]:
            self._counts[name] += 1
        self._permutation = lru_cache(maxsize=2 * len(live))(self._permute)

    def pool(self, number: int) -> list[Draw]:
        """The draws of pool ``number``, stream by stream."""
        draws: list[Draw] = []
        for name, count in self._counts.items():
            size = self.sizes[name]
            for place in range(number * count, (number + 1) * count):
                epoch, inside = divmod(place, size)
                draws.append((name, int(self._permutation(name, epoch)[inside]), epoch))
        return draws

    def split(self, number: int, lengths: Sequence[int]) -> list[np.ndarray]:
        """``WINDOW`` arrays of ``batch_size`` places into pool ``number``, whose examples have
        these ``lengths``.
        """
        rng = np.random.default_rng([self.seed, 1, number])
        jitter = rng.random(len(lengths))  # ties must not keep one stream's examples together
        ranked = np.lexsort((jitter, np.asarray(lengths)))
        batches = ranked.reshape(WINDOW, self.batch_size)
        return [rng.permutation(batches[b]) for b in rng.permutation(WINDOW)]

    def _permute(self, name: str, epoch: int) -> np.ndarray:
        stream = list(self.sizes).index(name)
        return np.random.default_rng([self.seed, 2, stream, epoch]).permutation(self.sizes[name])


class Pools(Generic[T]):
    """Batches of prepared examples: ``prepare`` turns a pool's draws into examples, ``length``
    orders them.
    """

    def __init__(
        self, order: Order, prepare: Callable[[list[Draw]], list[T]], length: Callable[[T], int]
    ) -> None:
        self._order, self._prepare, self._length = order, prepare, length
        self._number = -1
        self._batches: list[list[T]] = []

    def batch(self, step: int) -> list[T]:
        """The examples of optimizer step ``step`` (0-based)."""
        number, inside = divmod(step, WINDOW)
        if number != self._number:
            examples = self._prepare(self._order.pool(number))
            places = self._order.split(number, [self._length(x) for x in examples])
            self._batches = [[examples[i] for i in batch] for batch in places]
            self._number = number
        return self._batches[inside]
