"""From ranked SIDs to ranked items: SIDs in beam order, inside an SID by the prior, cut at k."""

from __future__ import annotations

import numpy as np

from sidar.decode.beam import Beams
from sidar.index import PrefixIndex
from sidar.types import Hits


def to_hits(beams: Beams, index: PrefixIndex, k: int, *, allowed: np.ndarray | None = None) -> Hits:
    """The first k items of each query's beams, as :class:`sidar.types.Hits` with the SID of each item.

    All items of an SID share its score: inside it the index's order decides (prior, then row), so ties have a
    stated order and a Run made from the hits can number them. ``allowed`` (N,) bool or (Q, N) bool keeps only some
    rows, before the cut at k.
    """
    if allowed is None:
        rows, source = index.expand_with_source(beams.sids, k)
    else:
        rows, source = _allowed(beams, index, k, np.asarray(allowed, dtype=bool))
    have = source >= 0
    at = np.where(have, source, 0)
    query = np.arange(len(at))[:, None]
    if not beams.sids.shape[1]:
        levels = index.n_levels
        return Hits(
            rows, np.zeros_like(rows, np.float32), np.full((*rows.shape, levels), -1), np.zeros((*rows.shape, levels))
        )
    return Hits(
        rows=rows,
        scores=np.where(have, beams.scores[query, at], -np.inf).astype(np.float32),
        sids=np.where(have[:, :, None], beams.codes[query, at], -1),
        level_logp=np.where(have[:, :, None], beams.level_logp[query, at, : index.n_levels], 0.0),
    )


def _allowed(beams: Beams, index: PrefixIndex, k: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As ``PrefixIndex.expand_with_source``, over allowed rows only."""
    rows = np.full((len(beams.sids), k), -1, np.int32)
    source = np.full((len(beams.sids), k), -1, np.int32)
    for query, sids in enumerate(beams.sids):
        place = np.flatnonzero(sids >= 0)
        start = index.rows_start[sids[place]].astype(np.int64)
        size = index.rows_start[sids[place] + 1] - start
        at = np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
        found = index.rows[at]
        keep = np.flatnonzero((allowed if allowed.ndim == 1 else allowed[query])[found])[:k]
        rows[query, : len(keep)] = found[keep]
        source[query, : len(keep)] = np.repeat(place, size)[keep]
    return rows, source
