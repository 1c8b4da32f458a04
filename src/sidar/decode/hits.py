"""From ranked SIDs to ranked items: an item scores log π(SID | x) + log s(item | SID), cut at k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidar.decode.beam import Beams
from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares
from sidar.types import Hits


def to_hits(
    beams: Beams,
    index: PrefixIndex,
    k: int,
    *,
    shares: ItemShares | None = None,
    allowed: np.ndarray | Sequence[np.ndarray | None] | None = None,
) -> Hits:
    """Return the k best items of each query's beams as :class:`sidar.types.Hits`, with the SID of
    each item.

    With ``shares`` an item scores log π(SID) + log s(item | SID); ties go by the place of the SID
    in the beam, then by the index's order inside the SID.  Without, SIDs are listed whole, one
    after another, and all items of an SID have its score.  ``allowed`` (N,) bool, or such a
    mask or None for each query, keeps only some rows, before the cut at k; shares are not
    renormalised over them.
    """
    q, levels = len(beams.sids), index.n_levels
    query, beam = np.nonzero(beams.sids >= 0)
    sid = beams.sids[query, beam]
    start = index.rows_start[sid].astype(np.int64)
    size = index.rows_start[sid + 1] - start
    if allowed is None and (shares is None or shares.whole):
        # shares fall inside an SID, so no item beyond its first k can be among the best k
        size = np.minimum(size, k)
    at = np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
    query, beam = np.repeat(query, size), np.repeat(beam, size)
    rows, score = index.rows[at], beams.scores[query, beam]
    keep = np.ones(len(rows), bool)
    if shares is not None:
        score = score + shares.log_share[at]
        keep = score > -np.inf
    if allowed is not None:
        keep &= _allowed(allowed, query, rows)
    if not keep.all():
        query, beam, rows, score = (part[keep] for part in (query, beam, rows, score))
    if shares is not None:
        # stable: entries stand by beam, then by place inside the SID
        order = np.lexsort((-score, query))
        query, beam, rows, score = (part[order] for part in (query, beam, rows, score))
    place = np.arange(len(query)) - np.searchsorted(query, query)
    first = place < k
    query, beam, rows, score, place = (part[first] for part in (query, beam, rows, score, place))
    hits = Hits(
        rows=np.full((q, k), -1, np.int32),
        scores=np.full((q, k), -np.inf if beams.sids.shape[1] else 0.0, np.float32),
        sids=np.full((q, k, levels), -1, np.int32),
        level_logp=np.zeros((q, k, levels), np.float32),
    )
    assert hits.sids is not None
    assert hits.level_logp is not None
    hits.rows[query, place] = rows
    hits.scores[query, place] = score
    hits.sids[query, place] = beams.codes[query, beam]
    hits.level_logp[query, place] = beams.level_logp[query, beam, :levels]
    return hits


def _allowed(
    allowed: np.ndarray | Sequence[np.ndarray | None], query: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return (m,) bool of the entries ``rows`` (m,), which stand query by query."""
    if isinstance(allowed, np.ndarray) and allowed.ndim == 1:
        return np.asarray(allowed[rows], bool)
    keep = np.ones(len(rows), bool)
    ends = np.searchsorted(query, np.arange(len(allowed) + 1))
    for place, mask in enumerate(allowed):
        if mask is not None:
            own = slice(ends[place], ends[place + 1])
            keep[own] = mask[rows[own]]
    return keep
