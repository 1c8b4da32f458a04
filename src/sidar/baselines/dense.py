"""Dense retrieval: exact inner products of the query's vector with every item's, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sidar.baselines.ranking import DEPTH, top_k
from sidar.types import Hits

#: Where at most one item in this many is allowed, the allowed ones are compared alone.
_SPARSE = 16


class Encoder(Protocol):
    """What a dense channel needs of an embedder (``sidar.embed``)."""

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """(n, D) float32 vectors, L2-normalised."""


class VectorChannel(Protocol):
    """A dense channel that takes query vectors: :class:`Dense`, or one through an index."""

    def search_vectors(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> Hits:
        """The k best items of each of ``queries`` (Q, D) among the ``allowed`` (N,) bool."""


class Dense:
    """Exact search over item vectors (N, D), which may be memory-mapped; ``alive`` (N,) bool leaves
    out the retired.

    ``Dense(vectors, embedder).search(queries)`` encodes and searches; :meth:`search_vectors` takes
    vectors.
    """

    name = "dense"

    def __init__(
        self,
        vectors: np.ndarray,
        embedder: Encoder,
        *,
        alive: np.ndarray | None = None,
        block: int = 1 << 16,
        how: str = "zero-shot",
    ) -> None:
        if alive is not None and alive.shape != vectors.shape[:1]:
            raise ValueError(
                f"{len(vectors)} item vectors but {len(alive)} live flags; run the stage embed "
                "again"
            )
        self.vectors = vectors
        self.embedder = embedder
        self.alive = alive
        self.block = block
        self.about = f"exact inner product of query and item vectors, {how}"

    def search(
        self, queries: Sequence[str], k: int = DEPTH, *, allowed: np.ndarray | None = None
    ) -> Hits:
        """The k nearest items of each query text; ``allowed`` as in :meth:`search_vectors`."""
        if not len(queries):
            return Hits(
                np.full((0, min(k, DEPTH)), -1, np.int32), np.zeros((0, min(k, DEPTH)), np.float32)
            )
        return self.search_vectors(self.embedder.encode(list(queries)), k, allowed=allowed)

    def search_vectors(
        self, queries: np.ndarray, k: int = DEPTH, *, allowed: np.ndarray | None = None
    ) -> Hits:
        """The k items of highest inner product with ``queries`` (Q, D); ties by lower row.

        ``allowed`` (N,) bool: only these rows. Keeps the best k seen while it walks over blocks of
        items, so memory is Q × (block + k).
        """
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"query vectors {queries.shape} do not fit item vectors {self.vectors.shape}"
            )
        k = min(k, DEPTH)
        if allowed is not None:
            mask = allowed if self.alive is None else allowed & self.alive
            # a few rows of a memory-mapped file are read faster than all of it
            if mask.sum() * _SPARSE <= len(mask):
                return self._of_rows(queries, k, np.flatnonzero(mask))
        else:
            mask = self.alive
        rows = np.full((len(queries), 0), -1, dtype=np.int32)
        scores = np.full((len(queries), 0), -np.inf, dtype=np.float32)
        for start in range(0, len(self.vectors), self.block):
            block = np.asarray(self.vectors[start : start + self.block], dtype=np.float32)
            values = queries.astype(np.float32) @ block.T  # (Q, block)
            if mask is not None:
                values[:, ~mask[start : start + self.block]] = -np.inf
            found = top_k(values, k)
            # Earlier blocks stand first, so the stable sort keeps the lower row where scores are
            # equal.
            rows = np.concatenate(
                [rows, np.where(found.rows >= 0, found.rows + start, -1).astype(np.int32)], axis=1
            )
            scores = np.concatenate(
                [scores, np.where(found.rows >= 0, found.scores, -np.inf)], axis=1
            )
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        return Hits(rows, np.where(rows >= 0, scores, 0).astype(np.float32))

    def _of_rows(self, queries: np.ndarray, k: int, rows: np.ndarray) -> Hits:
        """The k best of ``rows`` (n,) alone."""
        vectors = np.asarray(self.vectors[rows], dtype=np.float32)
        return top_k(queries.astype(np.float32) @ vectors.T, k, rows=rows.astype(np.int32))
