"""Which queries an item is contrasted with: what the log says of training days
(docs/methods/cqsid.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Drawn:
    """P pairs of one batch: ``places`` (P,) of the items in the batch, ``queries`` (P,), ``hidden``
    (P, P) bool.
    """

    places: np.ndarray
    queries: np.ndarray
    hidden: np.ndarray


class QueryPairs:
    """Pairs (P, 2) of query number and item row, by item.

    An item without a query takes no part (it is masked).
    """

    def __init__(self, vectors: np.ndarray, pairs: np.ndarray, n_items: int, seed: int) -> None:
        pairs = np.unique(np.asarray(pairs, np.int64).reshape(-1, 2), axis=0)
        vectors = np.asarray(vectors, np.float32)
        outside = (pairs < 0) | (pairs >= [len(vectors), n_items])
        if outside.any():
            query, item = pairs[int(outside.any(axis=1).argmax())]
            raise ValueError(
                f"query_item_pairs names query {query} and item row {item}, but there are "
                f"{len(vectors)} query vectors and {n_items} items"
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"the vector of query {int(finite.argmin())} is not finite; embed the queries again"
            )
        self.vectors, self.seed = vectors, seed
        self.keys = pairs[:, 1] * len(vectors) + pairs[:, 0]
        self.keys.sort()
        self.start = np.searchsorted(self.keys, np.arange(n_items + 1) * len(vectors))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def items(self) -> int:
        """Items that have a query."""
        return int((np.diff(self.start) > 0).sum())

    def draw(self, rows: np.ndarray, most: int, step: int) -> Drawn:
        """For the first ``most`` rows (B,) of a batch that have a query, one of its queries each:
        f(seed, step).
        """
        count = self.start[rows + 1] - self.start[rows]
        places = np.flatnonzero(count)[:most]
        rng = np.random.default_rng([self.seed, 11, step])
        chosen = self.start[rows[places]] + rng.integers(count[places])
        queries = self.keys[chosen] % max(len(self.vectors), 1)
        every = rows[places][:, None] * len(self.vectors) + queries
        at = np.minimum(np.searchsorted(self.keys, every), max(len(self.keys) - 1, 0))
        hidden = self.keys[at] == every if len(self.keys) else np.zeros(every.shape, bool)
        np.fill_diagonal(hidden, False)
        return Drawn(places, queries, hidden)
