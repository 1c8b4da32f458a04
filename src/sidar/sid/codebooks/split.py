"""Large SIDs are split into groups after the fit (CQ-SID's post-processing, docs/methods/cqsid.md).

An SID of c > T_max items becomes G = min(⌈c / T_max⌉, G_max) SIDs: the group g is appended to the
last code, s_3‖g. Group 0 keeps the code s_3; every further pair (s_3, g) that occurs is one new
code of the last level, which grows by their number. The paper numbers them s_3‖000 … s_3‖099 and so
has 100 times the codes, most of them unused.

The paper splits at random. Here the items are ordered by a random projection of their vectors and
cut into G equal parts: as random as that inside a bucket, but the cuts can be kept, so that an item
that comes later has a defined group, and the same item always has the same. [reconstruction]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def projection(vectors: np.ndarray, seed: int) -> np.ndarray:
    """(N,) float32 along one random direction of the vectors' space, which is a function of
    ``seed``.

    Summed in float64, so that equal vectors are equal here wherever they stand in the array.
    """
    direction = np.random.default_rng([seed, 13]).standard_normal(vectors.shape[1])
    found = np.zeros(len(vectors), np.float32)
    for start in range(0, len(vectors), 8192):
        found[start : start + 8192] = vectors[start : start + 8192].astype(np.float64) @ direction
    return found


@dataclass(frozen=True)
class BucketSplit:
    """S split SIDs: ``buckets`` (S, L) their codes before, ``starts`` (S + 1,) into ``cuts``, the
    projections at which groups 1, 2, … begin, ``room`` (S,) items of a full group; ``pairs`` (P, 2)
    last code and group of each new code.
    """

    last_size: int
    buckets: np.ndarray
    starts: np.ndarray
    cuts: np.ndarray
    room: np.ndarray
    pairs: np.ndarray

    @classmethod
    def fit(
        cls,
        codes: np.ndarray,
        projected: np.ndarray,
        sizes: Sequence[int],
        most: int | None,
        groups: int,
    ) -> BucketSplit:
        """Split what holds more than ``most`` of the items with ``codes`` (N, L), into ``groups``
        parts at most.
        """
        buckets, inverse, count = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        large = np.flatnonzero(count > most) if most is not None else np.zeros(0, np.int64)
        order = np.lexsort((np.arange(len(codes)), projected, inverse.reshape(-1)))
        begin = np.cumsum(count) - count
        starts, cuts, room, pairs = [0], [], [], set()
        for bucket in large:
            size, parts = int(count[bucket]), min(-(-int(count[bucket]) // (most or 1)), groups)
            full = -(-size // parts)
            inside = projected[order[begin[bucket] : begin[bucket] + size]]
            # between two items
            cuts.append((inside[full::full] + inside[full - 1 : -1 : full]) / 2)
            pairs |= {(int(buckets[bucket, -1]), group) for group in range(1, len(cuts[-1]) + 1)}
            starts.append(starts[-1] + len(cuts[-1]))
            room.append(full)
        return cls(
            int(sizes[-1]),
            buckets[large].astype(np.int32),
            np.asarray(starts, np.int64),
            np.concatenate([*cuts, np.zeros(0, np.float32)]).astype(np.float32),
            np.asarray(room, np.int64),
            np.asarray(sorted(pairs), np.int64).reshape(-1, 2),
        )

    @property
    def size(self) -> int:
        """Codes of the last level, new ones included."""
        return self.last_size + len(self.pairs)

    def apply(self, codes: np.ndarray, projected: np.ndarray, *, whole: bool = False) -> np.ndarray:
        """Codes (N, L) with their groups; a bucket that was not split stays as it is, however large
        it grows.

        An item belongs to the group whose cuts enclose its projection. Identical vectors may lie on
        a cut: each alone goes to the upper group, those of a ``whole`` catalogue fill the groups in
        the order of their rows.
        """
        out = np.array(codes, np.int32)
        if not len(self.buckets) or not len(codes):
            return out
        _, inverse = np.unique(np.concatenate([self.buckets, out]), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        bucket_of = np.full(int(inverse.max()) + 1, -1, np.int64)
        bucket_of[inverse[: len(self.buckets)]] = np.arange(len(self.buckets))
        bucket = bucket_of[inverse[len(self.buckets) :]]
        order = np.argsort(bucket, kind="stable")
        bounds = np.searchsorted(bucket[order], np.arange(len(self.buckets) + 1))
        code_of = {
            (int(code), int(group)): self.last_size + i
            for i, (code, group) in enumerate(self.pairs)
        }
        for number in range(len(self.buckets)):
            rows = order[bounds[number] : bounds[number + 1]]
            if not len(rows):
                continue
            cuts = self.cuts[self.starts[number] : self.starts[number + 1]]
            base = int(self.buckets[number, -1])
            group = _groups(projected[rows], cuts, int(self.room[number]), whole)
            names = np.asarray([base, *(code_of[base, g] for g in range(1, len(cuts) + 1))])
            out[rows, -1] = names[group]
        return out

    def base(self, codes: np.ndarray) -> np.ndarray:
        """``codes`` (n, ≤ L) without their groups: the codes of the quantiser."""
        out = np.array(codes, np.int64)
        if out.shape[1] == 0 or not len(self.pairs):
            return out
        new = out[:, -1] >= self.last_size
        out[new, -1] = self.pairs[out[new, -1] - self.last_size, 0]
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            name: getattr(self, name) for name in ("buckets", "starts", "cuts", "room", "pairs")
        }


def _groups(value: np.ndarray, cuts: np.ndarray, room: int, whole: bool) -> np.ndarray:
    """(n,) group of each projection ``value`` of one bucket, in the order of rows."""
    low, high = (
        np.searchsorted(cuts, value, side="left"),
        np.searchsorted(cuts, value, side="right"),
    )
    group = high.copy()
    if not whole or not (low < high).any():
        return group
    taken = np.bincount(group[low == high], minlength=len(cuts) + 1)
    for tied in np.unique(value[low < high]):
        same = np.flatnonzero(value == tied)
        at, last = int(low[same[0]]), int(high[same[0]])
        for row in same:
            while at < last and taken[at] >= room:
                at += 1
            group[row] = at
            taken[at] += 1
    return group
