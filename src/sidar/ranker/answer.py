"""The ranker as an answer: the items that any channel found, or that were chosen for the query
before, in the order of its scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sidar.answer.facts import GENERATIVE
from sidar.answer.smoothed import Answer
from sidar.ranker.features import FeatureMaker, Pairs
from sidar.ranker.requests import candidates
from sidar.ranker.store import Ranker
from sidar.types import Hits, Prompt


class RankedAnswer:
    """``RankedAnswer(ranker, maker).rank(prompts, query_vectors, channels, k)`` → ``Answer``."""

    def __init__(self, ranker: Ranker, maker: FeatureMaker) -> None:
        self.ranker, self.maker = ranker, maker
        known = maker.known
        self._alive = known.items.alive
        # live rows, most popular first, ties by lower row
        order = np.argsort(-known.log_prior, kind="stable")
        self._popular = order[self._alive[order]]

    def candidates(
        self,
        prompts: Sequence[Prompt],
        channels: Mapping[str, Hits],
        allowed: np.ndarray | None = None,
    ) -> Pairs:
        """Return what the ranker orders: the first items of every channel and of the counts."""
        depth = int(self.ranker.facts["depth"])
        known = self.maker.known
        remembered = [known.remembered(prompt.query, depth) for prompt in prompts]
        if allowed is not None:
            remembered = [rows[allowed[rows]] for rows in remembered]
        return candidates(channels, remembered, depth)

    def rank(
        self,
        prompts: Sequence[Prompt],
        query_vectors: np.ndarray,
        channels: Mapping[str, Hits],
        k: int,
        allowed: np.ndarray | None = None,
    ) -> Answer:
        """Return the k best live items of each query; ``query_vectors`` (Q, D).

        ``channels``: results of each channel, already restricted to ``allowed`` (N,) bool (None =
        every live item); of a model, the channel :data:`GENERATIVE`.  ``probability`` is the
        softmax of the scores over a query's candidates: it orders items and is not calibrated.
        Behind the candidates come other items by popularity, with probability 0.  Ties go by lower
        row.
        """
        pairs = self.candidates(prompts, channels, allowed)
        generative = channels.get(GENERATIVE) if self.ranker.reads_beams else None
        features = self.maker.table(prompts, query_vectors, pairs, generative)
        scores = self.ranker.scores(features)
        popular = self._popular if allowed is None else self._popular[allowed[self._popular]]
        k = min(k, len(popular))
        rows = np.full((len(prompts), k), -1, np.int32)
        probability, counts = np.zeros((len(prompts), k)), np.zeros((len(prompts), k))
        seen = np.zeros(len(prompts))
        for q, prompt in enumerate(prompts):
            at = pairs.of_request(q)
            share = _softmax(scores[at])
            best = np.argsort(-share, kind="stable")[:k]
            first = pairs.rows[at][best]
            rest = popular[: k + len(first)]
            rest = rest[~np.isin(rest, first)][: k - len(first)]
            found = np.concatenate([first, rest])
            rows[q, : len(found)] = found
            probability[q, : len(first)] = share[best]
            query = self.maker.known.query(prompt.query)
            seen[q] = query.total
            if query.total:
                place = np.minimum(np.searchsorted(query.rows, found), len(query.rows) - 1)
                same = query.rows[place] == found
                counts[q, : len(found)] = np.where(same, query.counts[place], 0.0)
        hits = Hits(rows, probability.astype(np.float32))
        return Answer(hits, probability, counts, np.zeros_like(counts), seen)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """(n,) exp of ``scores`` (n,) over their sum."""
    if not len(scores):
        return scores
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()
