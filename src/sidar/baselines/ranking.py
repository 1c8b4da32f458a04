"""From scores of all items to ranked Hits: one tie-break for every baseline (lower row first)."""

from __future__ import annotations

import numpy as np

from sidar.types import Hits

#: Every channel is cut here.
DEPTH = 500


def top_k(
    scores: np.ndarray, k: int, *, rows: np.ndarray | None = None, floor: float = -np.inf
) -> Hits:
    """The k best of ``scores`` (Q, n) as Hits, ties by lower row; scores ≤ ``floor`` are no
    results.

    ``rows`` (n,) int32 rising catalogue rows of the columns; None = the columns are the rows.
    """
    n = scores.shape[1]
    k = min(k, DEPTH)
    width = min(k, n)
    out_rows = np.full((len(scores), k), -1, dtype=np.int32)
    out_scores = np.zeros((len(scores), k), dtype=np.float32)
    for q, values in enumerate(scores):
        if width < n:
            # All items at or above the k-th score, so that ties at the cut are broken by row and
            # not by chance.
            kth = np.partition(values, n - width)[n - width]
            found = np.flatnonzero(values >= kth) if kth > floor else np.flatnonzero(values > floor)
        else:
            found = np.flatnonzero(values > floor)
        best = found[np.argsort(-values[found], kind="stable")][:width]
        out_rows[q, : len(best)] = best if rows is None else rows[best]
        out_scores[q, : len(best)] = values[best]
    return Hits(out_rows, out_scores)
