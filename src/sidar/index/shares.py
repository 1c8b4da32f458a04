"""How an SID's probability is divided among its items: π(item | x) = π(SID | x) · s(item | SID).

s is the item's smoothed share of the training-day interactions inside its SID [ours]:

    s(i | y) = (n_i + α)^{1/τ} / Σ_{j in y} (n_j + α)^{1/τ}

n_i counts training requests in which i was clicked or more, α > 0 is a Dirichlet pseudo-count per
item, so that an item without any interaction is reachable, τ a temperature (1 = the share itself,
larger is flatter).  Only live items share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from sidar.index.prefix import PrefixIndex

Rule = Literal["counts", "uniform"]


@dataclass(frozen=True)
class ItemShares:
    """``log_share`` (items of the index,) float32: log s of each entry of ``index.rows``, −inf for
    a retired item.

    Inside an SID it falls with the place, as the index orders items by the counts that shares are
    made from.
    """

    log_share: np.ndarray

    @cached_property
    def whole(self) -> bool:
        """True where every item has a share."""
        return bool(np.isfinite(self.log_share).all())

    @classmethod
    def of(
        cls,
        index: PrefixIndex,
        alive: np.ndarray | None = None,
        *,
        rule: Rule = "counts",
        pseudo: float = 1.0,
        temperature: float = 1.0,
    ) -> ItemShares:
        """Shares of the items of ``index`` that ``alive`` (N,) bool keeps (None = all).

        An index without counts, written by an older version, shares by its prior, which is log(1 +
        weighted counts). Raises ``ValueError`` for a pseudo-count or temperature that is not
        positive.
        """
        if pseudo <= 0 or temperature <= 0:
            raise ValueError(
                f"decode.share_pseudo {pseudo} and decode.share_temperature {temperature} must be "
                "positive: with a pseudo-count of 0 an item without interactions could never be "
                "found"
            )
        rows = index.rows
        counts = index.counts
        if counts is None and index.prior is not None:
            counts = np.expm1(index.prior)
        if rule == "uniform" or counts is None:
            weight = np.ones(len(rows))
        else:
            weight = (np.maximum(counts[rows], 0).astype(np.float64) + pseudo) ** (1 / temperature)
        if alive is not None:
            weight = weight * alive[rows]
        sid = np.repeat(np.arange(index.n_sids), np.diff(index.rows_start))
        total = np.bincount(sid, weights=weight, minlength=index.n_sids)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(weight) - np.log(total[sid])
        return cls(np.where(weight > 0, logs, -np.inf).astype(np.float32))

    def best_of_sids(self, index: PrefixIndex, allowed: np.ndarray | None = None) -> np.ndarray:
        """Return (n_sids,) float32: log share of the best item of each SID that ``allowed`` (N,)
        bool keeps, −inf where it keeps none.
        """
        shares = self.log_share
        if allowed is not None:
            shares = np.where(allowed[index.rows], shares, np.float32(-np.inf))
        best = np.full(index.n_sids, -np.inf, np.float32)
        sizes = np.diff(index.rows_start)
        filled = np.flatnonzero(sizes > 0)
        if len(filled):
            best[filled] = np.maximum.reduceat(shares, index.rows_start[filled])
        return best
