"""Which prefixes of an index still lead to an allowed item, at every level.

A prefix survives a filter if an SID below it, or the SID that it is itself, holds an allowed item.
SIDs below a prefix are one range of numbers, and so are its children, so each level follows from
the one below with a cumulative sum. [ours]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sidar.index.prefix import PrefixIndex


@dataclass(frozen=True)
class LivePrefixes:
    """``masks[d]`` (n_d,) bool, d = 0..L: the prefixes of depth d that survive; ``sids`` (n_sids,)
    bool: the SIDs that do.
    """

    masks: list[np.ndarray]
    sids: np.ndarray

    @classmethod
    def of(cls, index: PrefixIndex, allowed: np.ndarray) -> LivePrefixes:
        """Return the survivors of the ``allowed`` rows (N,) bool; ``ValueError`` where the index
        names a row beyond them.
        """
        if len(index.rows) and int(index.rows.max()) >= len(allowed):
            raise ValueError(
                f"the index names row {int(index.rows.max())}, the filter decides on "
                f"{len(allowed)} rows; make the index again with `sidar index`"
            )
        sids = _any_in_ranges(allowed[index.rows], index.rows_start)
        masks = [_ends(index, index.n_levels, sids)]
        for depth in range(index.n_levels - 1, -1, -1):
            below = _any_in_ranges(masks[0], index.child_start[depth])
            if not index.fixed_length:
                below |= _ends(index, depth, sids)
            masks.insert(0, below)
        return cls(masks, sids)

    @cached_property
    def n_sids(self) -> int:
        """SIDs that hold an allowed item."""
        return int(self.sids.sum())

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Surviving prefixes by depth, 0..L."""
        return tuple(int(mask.sum()) for mask in self.masks)

    @property
    def widest(self) -> int:
        """A beam of this width loses nothing: prefixes of a level, and SIDs that may have ended
        above it, together.

        Where all SIDs have one length, none ends above.
        """
        ended = max(0, self.n_sids - self.counts[-1])
        return max(self.counts) + ended

    @property
    def nbytes(self) -> int:
        """Bytes of the masks."""
        return self.sids.nbytes + sum(mask.nbytes for mask in self.masks)


def _any_in_ranges(flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whether any of ``flags`` (m,) bool is set in the range
    ``starts[i] : starts[i + 1]``.
    """
    # a sum per range, and not a reduction per range: numpy's has no empty ranges
    before = np.zeros(len(flags) + 1, np.int32 if len(flags) < 1 << 31 else np.int64)
    np.cumsum(flags, out=before[1:])
    at = before[starts]
    return np.asarray(at[1:] > at[:-1])


def _ends(index: PrefixIndex, depth: int, sids: np.ndarray) -> np.ndarray:
    """Return (n_depth,) bool: prefixes that are themselves a surviving SID."""
    if index.fixed_length and depth == index.n_levels:
        return sids  # the prefixes of the last depth are the SIDs, in their order
    numbers = index.sid_of[depth]
    is_sid = numbers >= 0
    ends = np.zeros(len(numbers), bool)
    ends[is_sid] = sids[numbers[is_sid]]
    return ends
