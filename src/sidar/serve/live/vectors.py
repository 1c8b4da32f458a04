"""Item vectors of a catalogue that changes, beside those of the bundle, which stay where they are.

A bundle's vectors are a memory-mapped file, so an array with a few more rows would be all of it in
memory. Here new vectors stand in a block of their own, and each row says where its vector is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsIndex, cast

import numpy as np

#: Vectors in the block that no row reads any more are left there up to this many, or half of it.
_SPARE = 1024


class _Block:
    """Vectors (m, D), of which ``used`` are written; those never change, and more come behind."""

    def __init__(self, dim: int, dtype: np.dtype) -> None:
        self.data = np.empty((64, dim), dtype)
        self.used = 0

    def append(self, vectors: np.ndarray) -> int:
        """Write ``vectors`` (m, D) and return the place of the first."""
        first, self.used = self.used, self.used + len(vectors)
        if self.used > len(self.data):
            grown = np.empty((2 * self.used, self.data.shape[1]), self.data.dtype)
            grown[:first] = self.data[:first]
            self.data = grown
        self.data[first : self.used] = vectors
        return first


class LiveVectors:
    """(N, D) vectors that are read as an array is: by row, rows or slice.

    ``base`` (n, D) are those of the bundle; ``place`` (N,) int64 says where the vector of a row is:
    below n in ``base``, from n on in the ``block``.
    """

    def __init__(self, base: np.ndarray, block: _Block, place: np.ndarray) -> None:
        self._base, self._block, self._place = base, block, place
        self.shape = (len(place), base.shape[1])
        self.ndim, self.dtype = 2, base.dtype

    @classmethod
    def of(cls, before: np.ndarray, n: int, vectors: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return ``before`` with ``n`` rows and other ``vectors`` (D,) by row; every row behind
        those of ``before`` needs one.
        """
        place = np.full(n, -1, np.int64)
        if isinstance(before, LiveVectors):
            base, block = before._base, before._block
            place[: len(before)] = before._place
        else:
            base, block = before, _Block(before.shape[1], before.dtype)
            place[: len(before)] = np.arange(len(before))
        kept = np.flatnonzero(place >= len(base))
        if block.used > 2 * len(kept) + _SPARE:
            fresh = _Block(base.shape[1], base.dtype)
            fresh.append(block.data[place[kept] - len(base)])
            block, place[kept] = fresh, len(base) + np.arange(len(kept))
        rows = np.fromiter(vectors, np.int64)
        new = np.array(list(vectors.values()), base.dtype).reshape(len(rows), base.shape[1])
        place[rows] = len(base) + block.append(new) + np.arange(len(rows))
        # what reads vectors takes rows and slices of an array, and knows of no other kind
        return cast(np.ndarray, cls(base, block, place))

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, rows: slice | np.ndarray | SupportsIndex) -> np.ndarray:
        place = self._place[rows]
        moved = np.asarray(place >= len(self._base))
        if isinstance(rows, slice) and not moved.any() and (np.diff(place) == 1).all():
            # a stretch of the file, which is not copied
            return self._base[place[0] : place[-1] + 1] if len(place) else self._base[:0]
        out = np.array(self._base[np.where(moved, 0, place)])
        if moved.any():
            out[moved] = self._block.data[place[moved] - len(self._base)]
        return out
