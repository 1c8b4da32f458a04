"""How long an SID may be: what its codes cost in bits of information, and how a budget is spent
over a catalogue.

Three readings of "path entropy" (SARQ; no formula is public, all three are [reconstruction],
docs/methods/sarq.md). Each gives an item a cost C(i, l) that never falls with the level l, and a
credit B(i):

    e3   C = −log₂( N(c_1…l) / N )                           B = κ · log₂(1 + n_i)
    e2   C = −log₂( share of traffic under c_1…l )           B = 0
    e1   C = Σ_{j ≤ l} H( softmax(−‖r_{j−1} − e‖² / T_j) )   B = 0

e3 weighs information against evidence; e1 is the entropy of the soft assignment. The length is L_i
= max{ l ∈ [L_min, L_max] : C(i, l) − B(i) ≤ τ }. τ is the one number that decides how many bits all
SIDs have together (Σ_i Σ_{l ≤ L_i} log₂ K_l); a larger τ never shortens an SID, so sorting the
margins C − B finds the τ that bisection would converge to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 1 << 22  # distances at a time


@dataclass(frozen=True)
class PrefixCounts:
    """How many items (or how much traffic) every prefix of a table holds; new items are looked up
    in it.

    ``keys[l]`` (n_l,) int64 rising: place of the prefix's parent in ``keys[l − 1]`` · K_l + its
    last code; ``counts[l]`` (n_l,) int64.
    """

    codebook_sizes: tuple[int, ...]
    keys: list[np.ndarray]
    counts: list[np.ndarray]
    total: int

    @classmethod
    def build(
        cls, codes: np.ndarray, codebook_sizes: Sequence[int], weight: np.ndarray | None = None
    ) -> PrefixCounts:
        """Count ``codes`` (N, L), all of full length; each item counts 1, or
        ``weight`` (N,) int64.
        """
        sizes = tuple(int(size) for size in codebook_sizes)
        each = np.ones(len(codes), np.int64) if weight is None else np.asarray(weight, np.int64)
        parent = np.zeros(len(codes), np.int64)
        keys, counts = [], []
        for level, size in enumerate(sizes):
            found, parent = np.unique(parent * size + codes[:, level], return_inverse=True)
            sums = np.zeros(len(found), np.int64)
            np.add.at(sums, parent, each)
            keys.append(found)
            counts.append(sums)
        return cls(sizes, keys, counts, int(each.sum()))

    def of(self, codes: np.ndarray) -> np.ndarray:
        """(n, L) int64 counts of the prefixes of ``codes`` (n, L); 0 where nobody
        has the prefix.
        """
        out = np.zeros(codes.shape, np.int64)
        at = np.zeros(len(codes), np.int64)
        known = np.ones(len(codes), bool)
        for level, (keys, counts) in enumerate(zip(self.keys, self.counts, strict=True)):
            wanted = at * self.codebook_sizes[level] + codes[:, level]
            at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
            known &= keys[at] == wanted if len(keys) else False
            out[known, level] = counts[at[known]]
        return out

    def information(self, codes: np.ndarray, least: int = 1) -> np.ndarray:
        """(n, L) float64 −log₂(count / total) of every prefix; counts below ``least`` count as
        ``least``; 0 gives inf.

        With ``least=1`` an item under a prefix that nobody has is its only item.
        """
        count = np.maximum(self.of(codes), least)
        with np.errstate(divide="ignore"):
            return math.log2(max(self.total, 1)) - np.log2(count)


def soft_entropy(
    vectors: np.ndarray,
    codes: np.ndarray,
    codebooks: Sequence[np.ndarray],
    temperature: Sequence[float],
) -> np.ndarray:
    """(n, L) float64 bits: Σ_{j ≤ l} of the entropy of the soft assignment of the residual r_{j−1}
    to level j's codes.

    ``vectors`` (n, D), ``codes`` (n, L) the hard assignment that makes the residuals, ``codebooks``
    (K, D) per level.
    """
    out = np.zeros(codes.shape)
    step = max(1, _BLOCK // max(len(book) for book in codebooks))
    for start in range(0, len(codes), step):
        rows = slice(start, start + step)
        residual = np.array(vectors[rows], np.float32)
        for level, book in enumerate(codebooks):
            square = np.maximum(
                (residual**2).sum(1)[:, None] - 2 * residual @ book.T + (book**2).sum(1), 0
            )  # (n, K) squared distances
            logit = -square / max(temperature[level], 1e-12)
            logit -= logit.max(axis=1, keepdims=True)
            weight = np.exp(logit)
            norm = weight.sum(axis=1, keepdims=True)
            out[rows, level] = (
                np.log(norm[:, 0]) - (weight * logit).sum(axis=1) / norm[:, 0]
            ) / math.log(2)
            residual -= book[codes[rows, level]]
    return out.cumsum(axis=1)


def soft_temperature(
    vectors: np.ndarray, codes: np.ndarray, codebooks: Sequence[np.ndarray]
) -> list[float]:
    """Per level the mean squared distance to the chosen code: an item of average fit sees its code
    at weight 1/e.
    """
    residual = np.array(vectors, np.float32)
    found = []
    for level, book in enumerate(codebooks):
        residual -= book[codes[:, level]]
        found.append(float((residual**2).sum(1).mean()))
    return found


def code_bits(lengths: np.ndarray, codebook_sizes: Sequence[int]) -> float:
    """Σ_i Σ_{l ≤ L_i} log₂ K_l: the code budget of a table (docs/methods/sarq.md)."""
    cost = np.concatenate([[0.0], np.cumsum(np.log2(np.asarray(codebook_sizes, float)))])
    return float(cost[np.asarray(lengths)].sum())


def spend(
    margin: np.ndarray,
    codebook_sizes: Sequence[int],
    shortest: int,
    budget: float,
    first: np.ndarray | None = None,
) -> tuple[np.ndarray, float, float]:
    """(N,) int32 lengths that cost at most ``budget`` bits, within one code of it; τ; and the last
    margin paid.

    ``margin`` (N, L) = C − B, rising along L. Codes are granted in the order of their margins.
    Among equal margins (items that are alone under a prefix, unsold items) lower levels come first,
    then items with larger ``first`` (N,), then lower rows; τ is the largest margin that *all* codes
    of that margin were granted at, so a new item is never given more than the catalogue could
    afford; the last margin paid exceeds it where equal margins were split. Raises ``ValueError``
    when no lengths in ``shortest`` … L fit.
    """
    n, levels = margin.shape
    cost = np.log2(np.asarray(codebook_sizes, float))
    least, most = n * float(cost[:shortest].sum()), n * float(cost.sum())
    slack = 1e-9 * max(most, 1.0)
    if not least - slack <= budget <= most + slack:
        raise ValueError(
            f"a budget of {budget / max(n, 1):.2f} bits per item cannot be met: SIDs of {shortest} "
            f"codes take {least / max(n, 1):.2f}, of {levels} codes {most / max(n, 1):.2f}; change "
            "sid.sarq.budget, min_levels or extra_levels"
        )
    open_ = margin[:, shortest:]
    row, level = np.divmod(np.arange(open_.size), max(levels - shortest, 1))
    priority = np.zeros(n) if first is None else np.asarray(first, float)
    order = np.lexsort((row, -priority[row], level, open_.ravel()))
    spent = least + cost[shortest:][level[order]].cumsum()
    granted = order[: int(np.searchsorted(spent, budget + slack, side="right"))]
    granted = granted[np.isfinite(open_.ravel()[granted])]
    lengths = (shortest + np.bincount(row[granted], minlength=n)).astype(np.int32)
    ordered = open_.ravel()[order]
    if len(granted) == 0:
        return lengths, -math.inf, -math.inf
    last = ordered[len(granted) - 1]
    # some codes of this margin had to go without
    if len(granted) < len(ordered) and ordered[len(granted)] == last:
        below = ordered[: len(granted)]
        below = below[below < last]
        return lengths, float(below[-1]) if len(below) else -math.inf, float(last)
    return lengths, float(last), float(last)


def allowed(margin: np.ndarray, shortest: int, tau: float) -> np.ndarray:
    """(n,) int32 lengths by the rule: the deepest level with margin (n, L) at most ``tau``, at
    least ``shortest``.
    """
    return (shortest + (margin[:, shortest:] <= tau).sum(axis=1)).astype(np.int32)
