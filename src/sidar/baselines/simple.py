"""The floors and the ceiling of the topic: popularity, random order, and the oracle that knows the
topic only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidar.baselines.ranking import DEPTH, top_k
from sidar.types import Catalogue, EvalSet, Hits


class Popularity:
    """The same list for every query: live items by a prior (N,) fitted on training days only; ties
    by lower row.
    """

    name = "popularity"
    about = "the same list for every query, by the prior of the training days"

    def __init__(self, prior: np.ndarray, *, alive: np.ndarray | None = None) -> None:
        self.scores = np.asarray(prior, dtype=np.float32)[None]
        if alive is not None:
            self.scores = np.where(alive, self.scores, -np.inf).astype(np.float32)

    def search(
        self, queries: Sequence[str], k: int = DEPTH, *, allowed: np.ndarray | None = None
    ) -> Hits:
        """The k most popular items, repeated for each query; ``allowed`` (N,) bool: only these."""
        scores = self.scores if allowed is None else np.where(allowed, self.scores, -np.inf)
        one = top_k(scores, k)
        return Hits(
            np.repeat(one.rows, len(queries), axis=0), np.repeat(one.scores, len(queries), axis=0)
        )


class RandomOrder:
    """Live items in a seeded random order, another one for each query position."""

    name = "random"
    about = "a seeded random order"

    def __init__(self, n_items: int, *, alive: np.ndarray | None = None, seed: int = 0) -> None:
        self.rows = (
            np.arange(n_items, dtype=np.int32)
            if alive is None
            else np.flatnonzero(alive).astype(np.int32)
        )
        self.seed = seed

    def search(self, queries: Sequence[str], k: int = DEPTH) -> Hits:
        """k different random items for each query."""
        rng = np.random.default_rng(self.seed)
        k = min(k, DEPTH)
        rows = np.full((len(queries), k), -1, dtype=np.int32)
        for q in range(len(queries)):
            drawn = rng.choice(self.rows, size=min(k, len(self.rows)), replace=False)
            rows[q, : len(drawn)] = drawn
        return Hits(rows, np.where(rows >= 0, np.arange(k, 0, -1), 0).astype(np.float32))


def topic_oracle(
    eval_set: EvalSet, catalogue: Catalogue, seeds: Sequence[int] = (0,), k: int = DEPTH
) -> list[Hits]:
    """Per seed: the judged pool of each query (every grade, irrelevant ones too) in random order.

    It knows the topic of a query and nothing about the order inside (docs/evaluation.md). The mean
    over all orders is exact and needs no seed: ``evaluate.expected_scores(truth,
    GroupRanking.of_pool(truth), measures)``.
    """
    pools = []
    for query_id in eval_set.query_ids:
        rows = catalogue.rows(eval_set.qrels.get(query_id, {}))
        pools.append(rows[rows >= 0])
    width = min(k, max(map(len, pools), default=0))
    out = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        ranked = np.full((len(pools), width), -1, dtype=np.int32)
        for q, pool in enumerate(pools):
            order = rng.permutation(pool)[:width]
            ranked[q, : len(order)] = order
        out.append(
            Hits(ranked, np.where(ranked >= 0, np.arange(width, 0, -1), 0).astype(np.float32))
        )
    return out
