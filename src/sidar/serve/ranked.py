"""From the beams of a pass to the results of each query: by the model alone, reranked, or fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sidar.baselines import DEPTH
from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares
from sidar.serve.bundle.encoder import Vectors
from sidar.serve.cards import Cards
from sidar.serve.fused import FusedAnswer
from sidar.serve.plan import SearchPlan
from sidar.serve.results import Result
from sidar.types import Hits, Prompt

if TYPE_CHECKING:
    from sidar.decode import Beams
    from sidar.lm.prompts import Encoded


@dataclass(frozen=True)
class Ranked:
    """The results of each query, and the (Q,) decayed counts of what was chosen for it before."""

    results: list[list[Result]]
    seen: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """What orders the items that a pass reached; ``allowed`` (N,) bool, None = every item of the
    index.
    """

    index: PrefixIndex
    cards: Cards
    shares: ItemShares | None
    allowed: np.ndarray | None
    vectors: Vectors | None
    fused: FusedAnswer | None

    def rank(
        self,
        prompts: Sequence[Prompt],
        tokens: Sequence[Encoded],
        beams: Beams,
        plans: Sequence[SearchPlan],
    ) -> Ranked:
        """Return the ``k`` best items of each query; the plans are of one kind.

        A ranking does not depend on where it is cut, so all are cut at the largest k and then each
        at its own.
        """
        plan = plans[0]
        k = min(max(plan.k for plan in plans), len(self.cards.catalogue))
        depth = DEPTH if plan.fused else k
        vectors = cosine = None
        if plan.weight is not None or plan.fused:
            vectors = self.query_vectors(prompts, tokens)
        if plan.weight is None or vectors is None:
            hits = self.items(beams, depth)
        else:
            hits, cosine = self._reranked(beams, vectors, depth, plan.weight)
        places = range(len(prompts))
        if self.fused is None or not plan.fused or vectors is None:
            results = [self.cards.of_hits(hits, place, cosine) for place in places]
            seen = np.zeros(len(prompts))
        else:
            queries = [prompt.query for prompt in prompts]
            channels = self.fused.channels(queries, vectors, hits)
            answer = self.fused.rank(prompts, vectors, channels, k, plan.fuse)
            results = [self.cards.of_answer(answer, channels, hits, place) for place in places]
            seen = answer.seen
        return Ranked([cut[: plan.k] for cut, plan in zip(results, plans, strict=True)], seen)

    def items(self, beams: Beams, k: int) -> Hits:
        """Return the k best items of the beams of each query."""
        from sidar.decode import to_hits

        return to_hits(beams, self.index, k, shares=self.shares, allowed=self.allowed)

    def query_vectors(self, prompts: Sequence[Prompt], tokens: Sequence[Encoded]) -> np.ndarray:
        """(Q, D) vectors of the queries, as they are held against item vectors."""
        assert self.vectors is not None
        read = [token.vector for token in tokens if token.vector is not None]
        # the model's own reading will do
        if self.vectors.same and len(read) == len(tokens) and read:
            return np.stack(read)
        return self.vectors.search([prompt.query for prompt in prompts])

    def _reranked(
        self, beams: Beams, queries: np.ndarray, k: int, weight: float
    ) -> tuple[Hits, np.ndarray]:
        """The k best of all items that the beams reach, and the cosine of each;
        ``queries`` (Q, D).
        """
        from sidar.decode.rerank import Pool

        assert self.vectors is not None
        assert self.vectors.items is not None
        pool = Pool.of(
            beams, self.index, queries, self.vectors.items, shares=self.shares, allowed=self.allowed
        )
        order, _ = pool.order(weight)
        return pool.ranked(weight, k), np.take_along_axis(pool.cosine, order, 1)[:, :k]
