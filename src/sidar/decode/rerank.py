"""Expand and rerank: the items that the beams reach, ordered by log π(SID) and the dense score
together [ours].

Items of one SID share its log-probability, and a few codes of a vector keep little of an item
(docs/grown.md): the model finds the right corner of the catalogue, the item's own vector says which
item of it.

    score(i) = log π(SID of i | x) + log s(i | SID) + w · cos(q, i)

s is the item's share inside its SID (:mod:`sidar.index.shares`), q and i are the vectors of query
and item; w is chosen on validation sets, 0 leaves the order of the beams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sidar.decode.beam import Beams
from sidar.decode.hits import to_hits
from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares
from sidar.types import Hits

#: Most items of a query that are reranked: a bound where SIDs hold thousands.
MOST = 4096
#: Weights that :func:`choose_weight` tries, from the model alone to (nearly) the vectors alone.
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0, 200.0, 1000.0)


@dataclass(frozen=True)
class Pool:
    """The expanded items of Q queries, best first: ``hits`` (Q, P) and each item's ``cosine``."""

    hits: Hits
    cosine: np.ndarray  # (Q, P) float32, 0 where there is no item

    @classmethod
    def of(
        cls,
        beams: Beams,
        index: PrefixIndex,
        queries: np.ndarray,
        items: np.ndarray,
        *,
        shares: ItemShares | None = None,
        allowed: np.ndarray | Sequence[np.ndarray | None] | None = None,
    ) -> Pool:
        """Expand ``beams``; ``queries`` (Q, D) and ``items`` (N, D, may be memory-mapped) are
        vectors of length 1.

        ``shares`` and ``allowed`` as in :func:`sidar.decode.to_hits`. ``ValueError`` where they do
        not fit.
        """
        if len(queries) != len(beams.sids) or queries.shape[1:] != items.shape[1:]:
            raise ValueError(
                f"query vectors {queries.shape} do not fit {len(beams.sids)} queries and item "
                f"vectors {items.shape}"
            )
        if len(index.rows) and int(index.rows.max()) >= len(items):
            raise ValueError(
                f"the index names row {int(index.rows.max())}, there are {len(items)} item "
                "vectors; make both anew with `sidar embed` and `sidar index`"
            )
        size = np.diff(index.rows_start)
        held = np.where(beams.sids >= 0, size[np.maximum(beams.sids, 0)], 0).sum(1)
        hits = to_hits(
            beams, index, int(min(held.max(initial=0), MOST)), shares=shares, allowed=allowed
        )
        cosine = np.zeros(hits.rows.shape, np.float32)
        for q, rows in enumerate(hits.rows):
            n = int((rows >= 0).sum())
            cosine[q, :n] = np.asarray(items[rows[:n]], np.float32) @ queries[q]
        return cls(hits, cosine)

    def order(self, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """(Q, P) places of the pool by falling score, ties in its own order, and these scores (Q,
        P) float64.
        """
        if not np.isfinite(weight) or weight < 0:
            raise ValueError(f"a weight of the dense score is a number ≥ 0, got {weight}")
        score = np.where(
            self.hits.rows >= 0, self.hits.scores + weight * self.cosine.astype(np.float64), -np.inf
        )
        order = np.argsort(-score, axis=1, kind="stable")
        return order, np.take_along_axis(score, order, 1)

    def ranked(self, weight: float, k: int) -> Hits:
        """The k best items under ``weight``, as Hits with the SID of each; their scores are the
        sums.
        """
        order, score = (x[:, :k] for x in self.order(weight))
        sids, steps = self.hits.sids, self.hits.level_logp
        return Hits(
            np.take_along_axis(self.hits.rows, order, 1),
            score.astype(np.float32),
            None if sids is None else np.take_along_axis(sids, order[..., None], 1),
            None if steps is None else np.take_along_axis(steps, order[..., None], 1),
        )


def choose_weight(
    folds: Sequence[tuple[Pool, Callable[[Hits], float]]],
    k: int = 100,
    weights: Sequence[float] = WEIGHTS,
) -> tuple[float, float]:
    """The weight of the highest mean objective over validation sets, and that mean; the lowest
    weight of equals.

    ``folds``: per set its pool and what its ranked hits are worth. Without any set: 0 and NaN.
    """
    if not folds:
        return 0.0, float("nan")
    means = [
        float(np.mean([objective(pool.ranked(w, k)) for pool, objective in folds])) for w in weights
    ]
    best = int(np.argmax(means))
    return float(weights[best]), means[best]
