"""What every lexical channel does with its scores: the best items of a query, of some or of all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from sidar.baselines.ranking import DEPTH, top_k
from sidar.types import Hits

#: Queries that are scored together: it bounds the memory at this many × n scores.
_BLOCK = 64


class Lexical(ABC):
    """A channel that scores items by the words of a query; ``rows`` (n,) int32 rising are its live
    items.
    """

    rows: np.ndarray

    @abstractmethod
    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """(Q, n) float32 scores of the live items; 0 where no word of the query occurs."""

    @abstractmethod
    def scores_of(self, query: str, rows: np.ndarray) -> np.ndarray:
        """(n,) float32 scores of the catalogue ``rows`` (n,) alone; 0 for a retired item.

        Equal to :meth:`scores`; the work follows the number of rows, not of items.
        """

    def search(
        self, queries: Sequence[str], k: int = DEPTH, *, allowed: np.ndarray | None = None
    ) -> Hits:
        """The best k items of each query; items without any word of the query are no results.

        ``allowed`` (N,) bool: only these rows are.
        """
        out = None if allowed is None else ~allowed[self.rows]
        parts = []
        for start in range(0, max(len(queries), 1), _BLOCK):
            scores = self.scores(queries[start : start + _BLOCK])
            if out is not None:
                scores[:, out] = 0
            parts.append(top_k(scores, k, rows=self.rows, floor=0))
        return Hits(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )
