"""A prefix index as torch tensors: the ragged gathers of a search, on the device of the scorer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sidar.index import PrefixIndex


class Children(NamedTuple):
    """The live children of n prefixes, one after the other: m = Σ counts entries, siblings by
    rising code.
    """

    rows: Tensor  # (m,) int64, which of the n prefixes
    ids: Tensor  # (m,) int64, prefix id at depth + 1
    codes: Tensor  # (m,) int64
    counts: Tensor  # (n,) int64


class Trie:
    """View of a :class:`PrefixIndex` on ``device``; on the CPU it shares the index's memory and
    costs nothing to make.

    Make one and pass it wherever an index is taken to keep the arrays on an accelerator between
    searches.
    """

    def __init__(self, index: PrefixIndex, device: torch.device | str = "cpu") -> None:
        self.index = index
        self.device = torch.device(device)
        self.codebook_sizes = tuple(index.codebook_sizes)
        self.n_levels = index.n_levels
        self.n_sids = index.n_sids
        self.fixed_length = index.fixed_length
        self._start = [self._tensor(start) for start in index.child_start]
        # torch gathers no uint16 on every device: the same bits as int16, widened after the gather
        self._codes = [
            self._tensor(codes.view(np.int16) if codes.dtype == np.uint16 else codes)
            for codes in index.codes
        ]
        self._sid_of = (
            None if index.fixed_length else [self._tensor(numbers) for numbers in index.sid_of]
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        """The array on the device; copied on the CPU only where it is read-only, which torch has no
        word for.
        """
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.device)

    def codes(self, depth: int, ids: Tensor) -> Tensor:
        """int64 last code of the prefixes ``ids`` of ``depth`` + 1, any shape."""
        found = self._codes[depth][ids]
        return found.long() & 0xFFFF if found.dtype == torch.int16 else found.long()

    def children(self, depth: int, prefixes: Tensor) -> Children:
        """Live children of ``prefixes`` (n,) int64 at ``depth`` < L; −1 stands for no prefix and
        has none.
        """
        if depth == 0 and len(prefixes) == 1:
            ids = torch.arange(len(self._codes[0]), device=self.device)
            return Children(
                torch.zeros_like(ids), ids, self.codes(0, ids), ids.new_full((1,), len(ids))
            )
        inside = prefixes >= 0
        at = prefixes.clamp(min=0)
        first = self._start[depth][at].long()
        counts = (self._start[depth][at + 1].long() - first) * inside
        rows = torch.repeat_interleave(counts)
        ids = (
            torch.arange(len(rows), device=self.device)
            + (first - (counts.cumsum(0) - counts))[rows]
        )
        return Children(rows, ids, self.codes(depth, ids), counts)

    def sid_of(self, depth: int, prefixes: Tensor) -> Tensor:
        """int64 SID numbers of ``prefixes`` of ``depth``; −1 for one that is no SID (or for prefix
        −1).
        """
        if self._sid_of is None:
            return prefixes if depth == self.n_levels else torch.full_like(prefixes, -1)
        if not len(self._sid_of[depth]):  # no SID is that long
            return torch.full_like(prefixes, -1)
        return torch.where(prefixes >= 0, self._sid_of[depth][prefixes.clamp(min=0)].long(), -1)

    def first_sid(self, depth: int, prefixes: Tensor) -> Tensor:
        """int64 lowest SID number below live ``prefixes`` of ``depth``: what ties are broken by."""
        found = self.sid_of(depth, prefixes)
        for d in range(depth, self.n_levels):
            prefixes = (
                self._start[d][prefixes.clamp(min=0)].long().clamp(max=len(self._codes[d]) - 1)
            )
            found = torch.where(found >= 0, found, self.sid_of(d + 1, prefixes))
        return found
