"""What the codes keep of the items, as a search sees it: recall of quantised dense, by which
codebook sizes are judged.

The figures of collisions say how many items share an SID, not whether near items can still be told
from far ones. Here an item, or a query of the training log, looks for its answers among the SIDs'
reconstructions (baselines/quantised.py ranks the same way), and the exact vectors are the measure.
No test query is read.
"""

from __future__ import annotations

import numpy as np

from sidar.sid.tokenizer import Tokenizer
from sidar.types import Json, SemanticIds

#: Items, and pairs of query and item, that are looked at.
SAMPLE = 512
NEIGHBOURS = 10
DEPTH = 100
_BLOCK = 32  # queries at a time: 32 × a million items are 128 MB


def quantised_recall(
    vectors: np.ndarray,
    sids: SemanticIds,
    tokenizer: Tokenizer,
    *,
    query_vectors: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
    seed: int = 0,
) -> Json:
    """JSON-able: ``neighbours``, the share of an item's 10 nearest other items among the first 100
    of quantised dense.

    With ``query_vectors`` (M, D) and ``pairs`` (P, 2) of query and row also ``pairs``, the share of
    pairs whose item is among the query's first 100, and ``pairs_exact``, the same with the items'
    own vectors.

    ``vectors`` (N, D) by row; ``tokenizer`` says what codes keep (its ``reconstruct``). Items of
    one SID come in random order: an SID that straddles rank 100 counts by the share of its items
    that fit. Rows without an SID are not looked for. At most 512 items and pairs, chosen by
    ``seed``.
    """
    rows = np.flatnonzero(sids.lengths > 0)
    if len(rows) < 2:
        return {}
    clusters = _Clusters(sids, tokenizer, rows)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(rows, min(SAMPLE, len(rows)), replace=False))
    width = min(NEIGHBOURS, len(rows) - 1)
    shares = []
    for start in range(0, len(chosen), _BLOCK):
        block = chosen[start : start + _BLOCK]
        queries = np.asarray(vectors[block], np.float32)
        exact = _scores(queries, vectors)[:, rows]
        # an item is no neighbour of its own
        exact[np.arange(len(block)), np.searchsorted(rows, block)] = -np.inf
        near = rows[np.argpartition(-exact, width - 1, axis=1)[:, :width]]
        shares.append(clusters.reach(queries, near, besides=block))
    found: Json = {
        "depth": DEPTH,
        "items": len(chosen),
        "neighbours": float(np.concatenate(shares).mean()),
    }
    if query_vectors is None or pairs is None:
        return found
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    pairs = pairs[sids.lengths[pairs[:, 1]] > 0]
    if not len(pairs):
        return found
    pairs = pairs[np.sort(rng.choice(len(pairs), min(SAMPLE, len(pairs)), replace=False))]
    hit, exact_hit = [], []
    for start in range(0, len(pairs), _BLOCK):
        query, row = pairs[start : start + _BLOCK].T
        queries = np.asarray(query_vectors[query], np.float32)
        hit.append(clusters.reach(queries, row[:, None]))
        scores = _scores(queries, vectors)
        own = scores[np.arange(len(row)), row]
        exact_hit.append((scores[:, rows] > own[:, None]).sum(1) < DEPTH)
    found |= {
        "query_item_pairs": len(pairs),
        "pairs": float(np.concatenate(hit).mean()),
        "pairs_exact": float(np.concatenate(exact_hit).mean()),
    }
    return found


class _Clusters:
    """The SIDs of a table: reconstructions of length 1, numbers of items, and the
    SID of each row.
    """

    def __init__(self, sids: SemanticIds, tokenizer: Tokenizer, rows: np.ndarray) -> None:
        codes, inverse, self.size = np.unique(
            sids.codes[rows], axis=0, return_inverse=True, return_counts=True
        )
        self.of = np.full(len(sids), -1, np.int64)
        self.of[rows] = inverse.reshape(-1)
        vectors = tokenizer.reconstruct(codes)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors = vectors / np.where(length > 0, length, 1)

    def reach(
        self, queries: np.ndarray, wanted: np.ndarray, besides: np.ndarray | None = None
    ) -> np.ndarray:
        """(Q,) share of the rows ``wanted`` (Q, n) among the first 100 items; ``besides`` (Q,) rows
        do not count.
        """
        scores = queries @ self.vectors.T  # (Q, SIDs)
        order = np.argsort(-scores, axis=1, kind="stable")
        sizes = self.size[order]
        if besides is not None:
            sizes = sizes - (order == self.of[besides][:, None])
        before = np.cumsum(sizes, axis=1) - sizes
        # share of each SID's items that comes in time
        fits = np.clip(DEPTH - before, 0, sizes) / np.maximum(sizes, 1)
        share = np.empty_like(fits)
        np.put_along_axis(share, order, fits, 1)
        return np.take_along_axis(share, self.of[wanted], 1).mean(1)


def _scores(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(Q, N) inner products, a block of memory-mapped rows at a time."""
    step = 1 << 16
    return np.concatenate(
        [
            queries @ np.asarray(vectors[at : at + step], np.float32).T
            for at in range(0, len(vectors), step)
        ],
        axis=1,
    )


def spoken(found: Json) -> str:
    """One clause for the stage's summary, "" where there is nothing to say."""
    if not found:
        return ""
    said = f"; quantised dense keeps {found['neighbours']:.0%} of near items"
    if "pairs" in found:
        said += f" and {found['pairs']:.0%} of logged answers (exact {found['pairs_exact']:.0%})"
    return said
