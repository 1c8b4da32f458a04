"""A cache with a bound in bytes, least recently used first out, for several threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class ByteCache(Generic[T]):
    """Values by key, together at most ``limit`` bytes.

    Two threads that miss the same key both make the value, and one of the two is kept: making takes
    long, and a lock around it would hold up every other key.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def items(self) -> list[tuple[Hashable, T]]:
        """Return what is kept, least recently used first."""
        with self._lock:
            return [(key, value) for key, (value, _) in self._values.items()]

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Return the value of ``key``, made by ``make`` where there is none; ``size`` tells its
        bytes. A value above the limit is returned and not kept.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value = make()
        nbytes = size(value)
        with self._lock:
            if key in self._values:
                return self._values[key][0]
            if nbytes > self.limit:
                return value
            self._values[key] = (value, nbytes)
            self.nbytes += nbytes
            while self.nbytes > self.limit:
                _, (_, freed) = self._values.popitem(last=False)
                self.nbytes -= freed
        return value
