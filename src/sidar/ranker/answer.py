"""The ranker as an answer: the items that any channel found, or that were chosen for the query
before, in the order of its scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sidar.answer.facts import GENERATIVE
from sidar.answer.smoothed import Answer, Posterior, SmoothedMemory
from sidar.ranker.features import FeatureMaker, Pairs
from sidar.ranker.requests import candidates
from sidar.ranker.residual import Shrinkage
from sidar.ranker.store import Ranker
from sidar.types import Hits, Prompt


class RankedAnswer:
    """``RankedAnswer(ranker, maker, smoothed).rank(prompts, query_vectors, channels, k)`` →
    ``Answer``.

    ``smoothed``: the answer that a ranker with a shrinkage is added to.
    """

    def __init__(self, ranker: Ranker, maker: FeatureMaker, smoothed: SmoothedMemory) -> None:
        self.ranker, self.maker, self.smoothed = ranker, maker, smoothed
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
        more: Sequence[np.ndarray] | None = None,
    ) -> Pairs:
        """Return what the ranker orders: the first items of every channel and of the counts, and
        ``more``.
        """
        depth = int(self.ranker.facts["depth"])
        known = self.maker.known
        remembered = [known.remembered(prompt.query, depth) for prompt in prompts]
        if allowed is not None:
            remembered = [rows[allowed[rows]] for rows in remembered]
        return candidates(channels, remembered, depth, more)

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
        row.  With a shrinkage the candidates share out what the smoothed answer gives them.
        """
        if self.ranker.shrinkage is not None:
            return self._moved(prompts, query_vectors, channels, k, allowed, self.ranker.shrinkage)
        pairs = self.candidates(prompts, channels, allowed)
        scores = self.ranker.scores(self.features(prompts, query_vectors, channels, pairs))
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

    def features(
        self,
        prompts: Sequence[Prompt],
        query_vectors: np.ndarray,
        channels: Mapping[str, Hits],
        pairs: Pairs,
    ) -> np.ndarray:
        """Return the features (P, F) of candidates."""
        generative = channels.get(GENERATIVE) if self.ranker.reads_beams else None
        return self.maker.table(prompts, query_vectors, pairs, generative)

    def _moved(
        self,
        prompts: Sequence[Prompt],
        query_vectors: np.ndarray,
        channels: Mapping[str, Hits],
        k: int,
        allowed: np.ndarray | None,
        shrinkage: Shrinkage,
    ) -> Answer:
        """Return the smoothed answer with λ times the learner's score added to its log P.

        A query whose λ is 0 has the smoothed answer as it is, and costs no feature.
        """
        posterior = self.smoothed.posterior([one.query for one in prompts], channels, allowed)
        answer = posterior.answer(k)
        weights = shrinkage.of(answer.seen > 0)
        moved = np.flatnonzero(weights)
        some = [prompts[q] for q in moved.tolist()]
        given = {name: hits.take(moved.tolist()) for name, hits in channels.items()}
        first = self.first(posterior, moved, k)
        pairs = self.candidates(some, given, allowed, first)
        gains = self.ranker.scores(self.features(some, query_vectors[moved], given, pairs))
        for r, q in enumerate(moved.tolist()):
            at = pairs.of_request(r)
            rows, parts = pairs.rows[at], posterior.parts(q, pairs.rows[at])
            probability = moved_share(parts[0], weights[q] * gains[at])
            best = np.argsort(-probability, kind="stable")[: answer.hits.rows.shape[1]]
            answer.hits.rows[q, : len(best)] = rows[best]
            answer.hits.scores[q, : len(best)] = probability[best]
            answer.probability[q, : len(best)] = probability[best]
            answer.counts[q, : len(best)], answer.pool[q, : len(best)] = parts[1:, best]
        return answer

    def first(
        self, posterior: Posterior, queries: Sequence[int] | np.ndarray, k: int
    ) -> list[np.ndarray]:
        """Return the first items of the smoothed answer to each of ``queries``, which are
        candidates, so that λ → 0 leads to its k best items.
        """
        most = max(k, int(self.ranker.facts["depth"]))
        return [posterior.best(int(q), most) for q in queries]


def moved_share(probability: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return (n,) P e^g over Σ P e^g, times Σ P: what candidates have together stays theirs."""
    if not len(probability):
        return probability
    powers = probability * np.exp(gains - gains.max())
    return powers * (probability.sum() / powers.sum())


def _softmax(scores: np.ndarray) -> np.ndarray:
    """(n,) exp of ``scores`` (n,) over their sum."""
    if not len(scores):
        return scores
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()
