"""From the beams of a pass to the results of each query: by the model alone, reranked, or fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sidar.answer.smoothed import popularity
from sidar.baselines import DEPTH, Popularity
from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares
from sidar.serve.bundle.encoder import Vectors
from sidar.serve.cards import Cards
from sidar.serve.fused import FusedAnswer, training_clicks
from sidar.serve.plan import SearchPlan
from sidar.serve.results import Result
from sidar.serve.trace import Stopwatch
from sidar.types import Hits, Prompt

if TYPE_CHECKING:
    from sidar.decode import Beams
    from sidar.lm.prompts import Encoded


@dataclass(frozen=True)
class Ranked:
    """The results of each query, and the (Q,) decayed counts of what was chosen for it before.

    ``spent``: milliseconds of each channel and of fusing them; empty where the model is alone.
    """

    results: list[list[Result]]
    seen: np.ndarray
    spent: dict[str, float] = field(default_factory=dict)


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
        explained: bool = False,
    ) -> Ranked:
        """Return the ``k`` best items of each query; the plans are of one kind. ``explained``:
        also where each item of a fused answer comes from.

        A ranking does not depend on where it is cut, so all are cut at the largest k and then each
        at its own.
        """
        plan = plans[0]
        k = min(max(plan.k for plan in plans), len(self.cards.catalogue))
        depth = DEPTH if plan.fused else k
        vectors = cosine = None
        if plan.weight is not None or plan.fused:
            vectors = self.query_vectors(prompts, tokens)
        allowed = [self.allowed if one.allowed is None else one.allowed.rows for one in plans]
        if plan.weight is None or vectors is None:
            hits = self.items(beams, depth, allowed)
        else:
            hits, cosine = self._reranked(beams, vectors, depth, plan.weight, allowed)
        seen = np.zeros(len(prompts))
        spent: dict[str, float] = {}
        if self.fused is None or not plan.fused or vectors is None:
            every = range(len(prompts))
            results = [self.cards.of_hits(hits, place, cosine) for place in every]
        else:
            results = [[] for _ in prompts]
            for places in _alike(plans):
                some, some_seen = self._fused(
                    prompts, vectors, hits, plans, places, k, explained, spent
                )
                seen[places] = some_seen
                for place, result in zip(places, some, strict=True):
                    results[place] = result
        cut = [every[: plan.k] for every, plan in zip(results, plans, strict=True)]
        return Ranked(cut, seen, spent)

    def _fused(
        self,
        prompts: Sequence[Prompt],
        vectors: np.ndarray,
        hits: Hits,
        plans: Sequence[SearchPlan],
        places: list[int],
        k: int,
        explained: bool,
        spent: dict[str, float],
    ) -> tuple[list[list[Result]], np.ndarray]:
        """Return the results at ``places``, whose plans have one filter, and what was seen of
        their queries.
        """
        assert self.fused is not None
        allowed = plans[places[0]].allowed
        rows = None if allowed is None else allowed.rows
        some = [prompts[place] for place in places]
        queries = [prompt.query for prompt in some]
        generative = hits if len(places) == len(plans) else hits.take(places)
        clock = Stopwatch(phases=spent)
        channels = self.fused.channels(queries, vectors[places], generative, rows, clock)
        fuse = plans[places[0]].fuse
        answer = self.fused.rank(some, vectors[places], channels, k, fuse, rows)
        clock.lap(fuse)
        results = []
        for place in range(len(places)):
            told = self.fused.origins(answer, channels, place, fuse, rows) if explained else []
            results.append(self.cards.of_answer(answer, channels, generative, place, told))
        return results, answer.seen

    def items(
        self, beams: Beams, k: int, allowed: Sequence[np.ndarray | None] | None = None
    ) -> Hits:
        """Return the k best items of the beams of each query; ``allowed``: the rows (N,) of each,
        default all live ones.
        """
        from sidar.decode import to_hits

        kept = self.allowed if allowed is None else _one_or_all(allowed)
        return to_hits(beams, self.index, k, shares=self.shares, allowed=kept)

    def popular(self, allowed: np.ndarray, k: int) -> list[Result]:
        """Return the k items of the ``allowed`` (N,) with the most clicks on training days."""
        clicks = training_clicks(self.index, len(allowed))
        channel = Popularity(popularity(clicks, allowed), alive=allowed)
        return self.cards.of_popular(channel.search([""], k))

    def query_vectors(self, prompts: Sequence[Prompt], tokens: Sequence[Encoded]) -> np.ndarray:
        """(Q, D) vectors of the queries, as they are held against item vectors."""
        assert self.vectors is not None
        read = [token.vector for token in tokens if token.vector is not None]
        # the model's own reading will do
        if self.vectors.same and len(read) == len(tokens) and read:
            return np.stack(read)
        return self.vectors.search([prompt.query for prompt in prompts])

    def _reranked(
        self,
        beams: Beams,
        queries: np.ndarray,
        k: int,
        weight: float,
        allowed: Sequence[np.ndarray | None],
    ) -> tuple[Hits, np.ndarray]:
        """The k best of all items that the beams reach, and the cosine of each;
        ``queries`` (Q, D).
        """
        from sidar.decode.rerank import Pool

        assert self.vectors is not None
        assert self.vectors.items is not None
        kept = _one_or_all(allowed)
        pool = Pool.of(
            beams, self.index, queries, self.vectors.items, shares=self.shares, allowed=kept
        )
        order, _ = pool.order(weight)
        return pool.ranked(weight, k), np.take_along_axis(pool.cosine, order, 1)[:, :k]


def _alike(plans: Sequence[SearchPlan]) -> list[list[int]]:
    """Return the places of the plans by their filter."""
    places: dict[int, list[int]] = {}
    for place, plan in enumerate(plans):
        places.setdefault(id(plan.allowed), []).append(place)
    return list(places.values())


def _one_or_all(
    allowed: Sequence[np.ndarray | None],
) -> np.ndarray | Sequence[np.ndarray | None] | None:
    """Return the mask that all queries share, or theirs one by one."""
    return allowed[0] if all(mask is allowed[0] for mask in allowed) else allowed
