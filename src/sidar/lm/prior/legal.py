"""The SIDs of an index as tensors, in the layouts that the prior of
:mod:`sidar.lm.prior.geometry` reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sidar.index import PrefixIndex

#: SIDs whose vectors are held at a time while lengths and moments are computed.
CHUNK = 1 << 14
#: SIDs, evenly spaced, from which :attr:`Moments.covariance` is computed.
SAMPLED = 1 << 16
#: SIDs of a :class:`Group`: their numbers for 64 prompts are 4 MB.
GROUP = 1 << 14


class Legal:
    """The SIDs of an index on ``device``, made from its ``centroids`` (ΣK, D); depths and prefix
    ids as in :class:`sidar.index.PrefixIndex`.

    SIDs: ``codes`` (n_sids, L) int32 rows of ``centroids``, absent levels 0; ``weights`` (n_sids,
    L) 1 / ‖v_y‖ of the sum v_y of the SID's centroids, absent levels 0; ``level_codes[l]``
    (n_sids,), ``has[l]`` 1 or 0 and ``inverse`` 1 / ‖v_y‖ say the same by column. ``low[d]`` and
    ``count[d]`` (n_d,): the first SID number below each prefix of depth d and how many there are,
    one range. ``first_of`` (n_sids,) int32 prefix of depth 1 of each SID.

    Choices: what may follow a prefix, its children in order and before them EOS where it is an SID.
    Per depth d < L: ``choice_start[d]`` (n_d + 1,) first choice of each prefix,
    ``choice_column[d]`` code, or K for EOS, and ``choice_of[d]`` (n_sids,) int32 the choice by
    which an SID goes on at depth d, −1 where it has ended before.
    """

    def __init__(
        self, index: PrefixIndex, centroids: np.ndarray, device: torch.device | str = "cpu"
    ) -> None:
        self.index, self.centroids, self.device = index, centroids, torch.device(device)
        self.sizes, self.n_sids = tuple(index.codebook_sizes), index.n_sids

        def on(array: np.ndarray, dtype: type = np.int64) -> Tensor:
            return torch.from_numpy(np.array(array, dtype)).to(self.device)

        parents = [np.repeat(np.arange(len(s) - 1), np.diff(s)) for s in index.child_start]
        self.code = [on(codes) for codes in index.codes]
        self._keys = [  # rising
            on(p) * size + c for p, c, size in zip(parents, self.code, self.sizes, strict=True)
        ]
        low = _first_sids(index)
        lengths = (index.table >= 0).sum(1)
        first_row = np.cumsum([0, *self.sizes[:-1]])
        codes = np.where(index.table >= 0, index.table + first_row, 0)
        inverse = self._inverse_lengths(codes, index.table >= 0)
        self.codes = on(codes, np.int32)
        self.weights = on(inverse[:, None] * (index.table >= 0), np.float32)
        self.fixed = index.fixed_length
        self.inverse = on(inverse, np.float32)
        self.level_codes = [on(column) for column in codes.T]
        self.has = [on(column, np.float32) for column in (index.table >= 0).T]
        self.low = [on(low[0])]
        self.count = [on(np.full(1, self.n_sids))]
        self.choice_start: list[Tensor] = []
        self.choice_column: list[Tensor] = []
        self.choice_of: list[Tensor] = []
        for depth in range(len(self.sizes)):
            children = np.searchsorted(low[depth + 1], np.arange(self.n_sids), side="right") - 1
            if depth == 0:
                self.first_of = on(children, np.int32)
            counts = np.bincount(children[lengths > depth], minlength=len(low[depth + 1]))
            start, column, of = _choices(index, depth, lengths, parents[depth], children)
            self.low.append(on(low[depth + 1]))
            self.count.append(on(counts))
            self.choice_start.append(on(start))
            self.choice_column.append(on(column))
            self.choice_of.append(on(of, np.int32))
        # the SIDs below prefixes of depth 1 are all SIDs
        self._first_low = np.append(low[1], self.n_sids)

    def __deepcopy__(self, memo: dict[int, object]) -> Legal:
        """Nothing in here changes, so copies of a model share it."""
        return self

    def to(self, device: torch.device) -> Legal:
        return self if device == self.device else Legal(self.index, self.centroids, device)

    def child(self, depth: int, prefixes: Tensor, codes: Tensor) -> Tensor:
        """int64 ids at ``depth`` + 1 of ``prefixes`` (any shape, −1 = none) followed by ``codes``;
        −1 = not live.
        """
        keys, wanted = self._keys[depth], prefixes * self.sizes[depth] + codes
        if not len(keys):
            return torch.full_like(wanted, -1)
        at = torch.searchsorted(keys, wanted.contiguous()).clamp(max=len(keys) - 1)
        return torch.where((keys[at] == wanted) & (prefixes >= 0), at, -1)

    def blocks(
        self, rows: int, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, int, int, int]]:
        """(p, q, a, b): the prefixes p … q − 1 of depth 1 and their SIDs a … b − 1, of ``rows``
        SIDs or one prefix.

        ``first``, ``last``: the first prefix and the one after the last, of all.
        """
        low, p = self._first_low, first
        last = len(low) - 1 if last is None else last
        while p < last:
            q = max(p + 1, int(np.searchsorted(low, low[p] + rows, side="right")) - 1)
            yield p, min(q, last), int(low[p]), int(low[min(q, last)])
            p = q

    @cached_property
    def groups(self) -> list[Group]:
        """Blocks of :data:`GROUP` SIDs with their SIDs sorted by code."""
        return [Group(self, *block) for block in self.blocks(GROUP)]

    def _inverse_lengths(self, codes: np.ndarray, has: np.ndarray) -> np.ndarray:
        lengths = [
            np.linalg.norm(_sums(self.centroids, codes[i : i + CHUNK], has[i : i + CHUNK]), axis=1)
            for i in range(0, len(codes), CHUNK)
        ]
        length = np.concatenate([*lengths, np.zeros(0, np.float32)])
        return 1 / np.where(length > 1e-6, length, 1)

    @cached_property
    def moments(self) -> Moments:
        """How the SIDs of each prefix of depth 1 lie."""
        return Moments(self)


class Group:
    """The SIDs a … b − 1 of the prefixes p … q − 1 of depth 1, for sums by code.

    Per level: ``order[l]`` int32 places of the SIDs that have a code there, sorted by it;
    ``weights[l]`` of these SIDs; ``starts[l]`` (K_l,) int32 first place in that order of each code.
    """

    def __init__(self, legal: Legal, p: int, q: int, a: int, b: int) -> None:
        self.p, self.q, self.a, self.b = p, q, a, b
        codes, weights = legal.codes[a:b], legal.weights[a:b]
        self.order, self.weights, self.starts = [], [], []
        first = 0
        for level, size in enumerate(legal.sizes):
            here = (weights[:, level] != 0).nonzero()[:, 0]
            sorted_codes, at = (codes[here, level] - first).sort(stable=True)
            order = here[at]
            every = torch.arange(size, dtype=torch.int32, device=legal.device)
            self.order.append(order.int())
            self.weights.append(weights[order, level])
            self.starts.append(torch.searchsorted(sorted_codes, every, out_int32=True))
            first += size


class Moments:
    """Count, mean and spread of the SIDs' unit vectors u_y = v_y / ‖v_y‖ below each prefix p of
    depth 1.

    ``log_count`` (n_1,); the mean is ``first`` (n_1,) times the centroid of p's own code plus
    ``rest`` (n_1, D); ``spread`` (n_1,) the trace of the covariance, and ``covariance`` (D, D) that
    of all prefixes pooled, of trace 1. Everything is of the stored centroids, which no training
    moves.
    """

    def __init__(self, legal: Legal) -> None:
        centroids = torch.from_numpy(np.asarray(legal.centroids, np.float32)).to(legal.device)
        counts = legal.count[1]
        n, dim = len(counts), centroids.shape[1]
        mean, self.rest = centroids.new_zeros(n, dim), centroids.new_zeros(n, dim)
        every = max(1, legal.n_sids // SAMPLED)
        for _, _, a, b in legal.blocks(CHUNK):
            rows = legal.first_of[a:b].long()
            unit = weighted_sums(legal.codes[a:b], legal.weights[a:b], centroids)
            mean.index_add_(0, rows, unit)
            below = (
                weighted_sums(legal.codes[a:b, 1:], legal.weights[a:b, 1:], centroids)
                if len(legal.sizes) > 1
                else 0
            )
            self.rest.index_add_(0, rows, below + torch.zeros_like(unit))
        mean /= counts[:, None]
        self.rest /= counts[:, None]
        self.first = (
            legal.weights.new_zeros(n).index_add(0, legal.first_of.long(), legal.weights[:, 0])
            / counts
        )
        self.log_count = counts.float().log()
        self.spread = (1 - mean.square().sum(1)).clamp(min=0)
        at = torch.arange(0, legal.n_sids, every, device=legal.device)
        covariance = centroids.new_zeros(dim, dim)
        for part in at.split(CHUNK):
            unit = weighted_sums(legal.codes[part], legal.weights[part], centroids)
            apart = unit - mean[legal.first_of[part].long()]
            covariance += apart.T @ apart
        self.covariance = covariance / covariance.trace().clamp(min=1e-12)


def weighted_sums(rows: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    """(n, B): Σ_l ``weights`` (n, l) · ``table`` (K, B) [``rows`` (n, l) int32], in one pass."""
    n, width = rows.shape
    starts = torch.arange(0, n * width, width, dtype=rows.dtype, device=rows.device)
    return F.embedding_bag(
        rows.reshape(-1), table, starts, mode="sum", per_sample_weights=weights.reshape(-1)
    )


def _sums(centroids: np.ndarray, codes: np.ndarray, has: np.ndarray) -> np.ndarray:
    """(n, D) sums of the rows ``codes`` (n, L) of ``centroids`` where ``has``."""
    total = np.zeros((len(codes), centroids.shape[1]), np.float32)
    for level in range(codes.shape[1]):
        total += centroids[codes[:, level]] * has[:, level, None]
    return total


def _first_sids(index: PrefixIndex) -> list[np.ndarray]:
    """Per depth 0 … L, (n_d,): first SID number below each prefix."""
    low = [index.sid_of[-1].astype(np.int64)]
    for depth in range(index.n_levels - 1, -1, -1):
        start, ends = index.child_start[depth], index.sid_of[depth]
        below = np.append(low[0], index.n_sids)[start[:-1]]
        # an SID that ends here comes first
        low.insert(0, np.where(ends >= 0, ends, below).astype(np.int64))
    return low


def _choices(
    index: PrefixIndex, depth: int, lengths: np.ndarray, parents: np.ndarray, children: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``choice_start``, ``choice_column`` and ``choice_of`` of one depth.

    ``lengths`` (n_sids,); ``parents`` (n_{d+1},) of the prefixes of the next depth; ``children``
    (n_sids,) the prefix of the next depth that an SID begins with, where it is longer than
    ``depth``.
    """
    ends = index.sid_of[depth] >= 0  # (n_d,)
    before = np.cumsum(ends)  # EOS choices up to and with each prefix
    start = index.child_start[depth] + np.append(0, before)
    choice = np.arange(len(parents)) + before[parents]  # of each child
    column = np.full(len(parents) + int(ends.sum()), index.codebook_sizes[depth], np.int64)
    column[choice] = index.codes[depth]
    of = np.full(index.n_sids, -1, np.int64)
    longer = lengths > depth
    of[longer] = choice[children[longer]]
    of[index.sid_of[depth][ends]] = start[:-1][ends]
    return start, column, of
