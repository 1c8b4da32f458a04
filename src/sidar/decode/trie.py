"""A prefix index as torch tensors: the ragged gathers of a search, on the device of the scorer.

A filter is a view of it: the same arrays, and masks of the prefixes that still lead to an allowed
item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sidar.index import LivePrefixes, PrefixIndex


class Children(NamedTuple):
    """The live children of n prefixes, one after the other: m = Σ counts entries, siblings by
    rising code.
    """

    rows: Tensor  # (m,) int64, which of the n prefixes
    ids: Tensor  # (m,) int64, prefix id at depth + 1
    codes: Tensor  # (m,) int64
    counts: Tensor  # (n,) int64


class LiveMasks(NamedTuple):
    """:class:`~sidar.index.LivePrefixes` on the device of a trie, made once per filter."""

    prefixes: list[Tensor]  # per depth 0..L, (n_d,) bool
    sids: Tensor  # (n_sids,) bool
    first: Tensor  # int64, the surviving prefixes of depth 1


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

    def live_masks(self, live: LivePrefixes) -> LiveMasks:
        """Return ``live`` on the device of the trie; :meth:`within` takes it."""
        prefixes = [self._tensor(mask) for mask in live.masks]
        return LiveMasks(prefixes, self._tensor(live.sids), prefixes[1].nonzero().flatten())

    def within(self, masks: Sequence[LiveMasks | None]) -> Trie:
        """Return a view for as many prompts as ``masks``: of each only what its mask allows, None =
        everything.

        A search through the view takes prompts in that order.
        """
        if not any(mask is not None for mask in masks):
            return self
        return _LiveTrie(self, tuple(masks))

    def of_prompts(self, places: Sequence[int]) -> Trie:
        """Return the view for some of the prompts, by their places; without a filter it is the
        same for all.
        """
        return self

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
        inside = prefixes >= 0
        if depth == 0 and bool(inside.all()):  # the root of each query: one list, repeated
            n, ids = len(prefixes), torch.arange(len(self._codes[0]), device=self.device)
            rows = torch.arange(n, device=self.device)[:, None].expand(n, len(ids))
            codes = self.codes(0, ids).repeat(n)
            counts = prefixes.new_full((n,), len(ids))
            return Children(rows.flatten(), ids.repeat(n), codes, counts)
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
        return self._number(depth, prefixes)

    def _number(self, depth: int, prefixes: Tensor) -> Tensor:
        """SID numbers as the index has them, whatever a filter allows."""
        if self._sid_of is None:
            return prefixes if depth == self.n_levels else torch.full_like(prefixes, -1)
        if not len(self._sid_of[depth]):  # no SID is that long
            return torch.full_like(prefixes, -1)
        return torch.where(prefixes >= 0, self._sid_of[depth][prefixes.clamp(min=0)].long(), -1)

    def first_sid(self, depth: int, prefixes: Tensor) -> Tensor:
        """int64 lowest SID number below live ``prefixes`` of ``depth``: what ties are broken by.

        A filter does not change it: numbers below two prefixes are two ranges, so any number of
        each tells which comes first.
        """
        found = self._number(depth, prefixes)
        for d in range(depth, self.n_levels):
            prefixes = (
                self._start[d][prefixes.clamp(min=0)].long().clamp(max=len(self._codes[d]) - 1)
            )
            found = torch.where(found >= 0, found, self._number(d + 1, prefixes))
        return found


class _LiveTrie(Trie):
    """A trie without what the filter of each prompt rules out; it shares the arrays of ``whole``.

    Prefixes that a search asks for stand prompt by prompt, equally many of each.
    """

    def __init__(self, whole: Trie, masks: tuple[LiveMasks | None, ...]) -> None:
        self.__dict__.update(whole.__dict__)
        self._whole, self._masks = whole, masks
        # one mask for all rows is one gather
        self._alike = masks[0] if all(mask is masks[0] for mask in masks) else None

    def of_prompts(self, places: Sequence[int]) -> Trie:
        return self._whole.within([self._masks[place] for place in places])

    def children(self, depth: int, prefixes: Tensor) -> Children:
        if depth == 0 and len(prefixes) == 1 and self._alike is not None:
            ids = self._alike.first
            counts = ids.new_full((1,), len(ids))
            return Children(torch.zeros_like(ids), ids, self.codes(0, ids), counts)
        rows, ids, codes, counts = self._whole.children(depth, prefixes)
        if self._alike is not None:
            alive = self._alike.prefixes[depth + 1][ids]
        else:
            of_each = counts.view(len(self._masks), -1).sum(1).tolist()
            parts = zip(self._masks, ids.split(of_each), strict=True)
            alive = torch.cat(
                [
                    torch.ones_like(part, dtype=torch.bool)
                    if mask is None
                    else mask.prefixes[depth + 1][part]
                    for mask, part in parts
                ]
            )
        kept = alive.nonzero().flatten()
        rows = rows[kept]
        return Children(rows, ids[kept], codes[kept], rows.bincount(minlength=len(prefixes)))

    def sid_of(self, depth: int, prefixes: Tensor) -> Tensor:
        numbers = self._number(depth, prefixes)
        if self.fixed_length:  # a surviving prefix of the last depth is a surviving SID
            return numbers
        at = numbers.clamp(min=0)
        if self._alike is not None:
            alive = self._alike.sids[at]
        else:
            by_prompt = at.view(len(self._masks), -1)
            parts = [
                torch.ones_like(part, dtype=torch.bool) if mask is None else mask.sids[part]
                for mask, part in zip(self._masks, by_prompt, strict=True)
            ]
            alive = torch.stack(parts).view(at.shape)
        return numbers.masked_fill(~alive, -1)
