"""The answer: what was chosen for this query, smoothed with what the channels say of it [ours].

    P(i | q, u)  = (c_q(i) + κ P₀(i | q, u)) / (n_q + κ)
    P₀(i | q, u) = (1 − ε) pool(i) + ε prior(i)
    pool(i)     ∝ prior(i)^{w_prior} · Π_c p_c(i)^{w_c}     over the items that any channel returned
    p_c(i)  = (1 − δ) softmax(score_c / T_c)(i) + δ / N  over channel c's ≤ 500 results,
              δ / N  elsewhere

c_q(i) are the decayed counts of the memory and n_q their sum, over live, allowed items; prior is
the smoothed popularity of the training days over these N items.  So P sums to 1 over them, an empty
log gives P₀, and a query that no channel reaches gives counts and prior.  Items that a user's
history or their novelty speaks for come in through P₀.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sidar.answer.memory import Memory
from sidar.types import Hits, Json

#: Pseudo-count of every item in the prior, so that a new item can be answered.
PRIOR_PSEUDO = 1.0
#: Name of the prior among the pool's weights; it has no temperature.
PRIOR = "prior"


@dataclass(frozen=True)
class AnswerParams:
    """The fitted constants: ``weights`` of each channel and of ``prior``, ``temperatures`` of each
    channel.
    """

    kappa: float
    half_life: float  # days
    epsilon: float
    delta: float
    weights: Mapping[str, float]
    temperatures: Mapping[str, float]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in a fixed order."""
        return tuple(self.temperatures)

    def to_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True)
class Pooled:
    """The results of several channels side by side: ``rows`` (Q, U) int64, rising, −1 past the end;
    ``scores`` (Q, U, C) float64, NaN where a channel did not return the item."""

    rows: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, channels: Sequence[Hits], depth: int = 500) -> Pooled:
        """Put the first ``depth`` results of each channel side by side; ``ValueError`` where their
        queries differ.
        """
        if len({len(hits.rows) for hits in channels}) > 1:
            raise ValueError(
                f"channels answer different numbers of queries: {[len(h.rows) for h in channels]}"
            )
        queries = len(channels[0].rows) if channels else 0
        found = [hits.rows[:, :depth] for hits in channels]
        size = 1 + max((int(rows.max(initial=-1)) for rows in found), default=0)
        places = [(rows >= 0).nonzero() for rows in found]
        keys = [q * size + rows[q, r] for rows, (q, r) in zip(found, places, strict=True)]
        joined = np.concatenate(keys) if keys else np.empty(0, np.int64)
        pairs, inverse = np.unique(joined, return_inverse=True)
        query, row = np.divmod(pairs, size)
        place = np.arange(len(pairs)) - np.searchsorted(query, query)
        rows_out = np.full((queries, int(place.max(initial=-1)) + 1), -1, np.int64)
        rows_out[query, place] = row
        scores = np.full((*rows_out.shape, len(channels)), np.nan)
        channel = np.repeat(np.arange(len(channels)), [len(key) for key in keys])
        values = [hits.scores[q, r] for hits, (q, r) in zip(channels, places, strict=True)]
        if values:
            scores[query[inverse], place[inverse], channel] = np.concatenate(values)
        return cls(rows_out, scores)


def log_pool(
    pooled: Pooled, params: AnswerParams, log_prior: np.ndarray, n_live: int
) -> np.ndarray:
    """Return log pool (Q, U) of :class:`Pooled` items, −inf past the end.

    ``log_prior`` (Q, U) of the same items; ``n_live`` is N, the number of live, allowed items.
    """
    total = params.weights.get(PRIOR, 0.0) * log_prior
    for channel, name in enumerate(params.channels):
        score = pooled.scores[:, :, channel] / params.temperatures[name]
        p = channel_probability(score, params.delta, n_live)
        total = total + params.weights[name] * np.log(p)
    total = np.where(pooled.rows >= 0, total, -np.inf)
    return total - _logsumexp(total)


def channel_probability(scores: np.ndarray, delta: float, n_live: int) -> np.ndarray:
    """Return p_c (Q, U) of ``scores`` (Q, U) over the temperature, NaN where the channel did not
    return the item; uniform for a query that it returned nothing for.
    """
    listed = np.isfinite(scores)
    logs = np.where(listed, scores, -np.inf)
    logs = logs - _logsumexp(logs)
    share = np.where(listed.any(axis=1, keepdims=True), delta, 1.0)
    return (1 - share) * np.exp(np.where(listed, logs, -np.inf)) + share / n_live


def _logsumexp(values: np.ndarray) -> np.ndarray:
    """(Q, 1) log Σ exp over each row; 0 for a row of −inf, so that subtracting it
    changes nothing.
    """
    if not values.shape[1]:
        return np.zeros((len(values), 1))
    top = values.max(axis=1, keepdims=True)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = safe + np.log(np.exp(values - safe).sum(axis=1, keepdims=True))
    return np.where(np.isfinite(top), total, 0.0)


def popularity(counts: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """Return the prior (N,) float64: smoothed shares of training ``counts`` (N,) over the
    ``allowed`` items.
    """
    weight = np.maximum(counts, 0).astype(np.float64) + PRIOR_PSEUDO
    if allowed is not None:
        weight = np.where(allowed, weight, 0.0)
    total = weight.sum()
    return weight / total if total > 0 else weight


@dataclass(frozen=True)
class Answer:
    """Ranked items, best first, ``hits.scores`` = P as float32.

    ``probability`` (Q, k) float64 is P, ``counts`` (Q, k) c_q of each item, ``pool`` (Q, k) its
    share of the pool, ``seen`` (Q,) is n_q.
    """

    hits: Hits
    probability: np.ndarray
    counts: np.ndarray
    pool: np.ndarray
    seen: np.ndarray


class SmoothedMemory:
    """``SmoothedMemory(params, counts, alive, memory, secret).rank(queries, channels, k)`` →
    :class:`Answer`.

    ``counts`` (N,) training interactions by row, ``alive`` (N,) bool; ``memory`` None = an empty
    log.
    """

    def __init__(
        self,
        params: AnswerParams,
        counts: np.ndarray,
        alive: np.ndarray,
        memory: Memory | None = None,
        secret: bytes = b"",
    ) -> None:
        self.params, self.memory, self.secret = params, memory, secret
        self._counts, self.alive = counts, alive
        self._prior = popularity(counts, alive)
        # live rows, most popular first
        self._order = np.argsort(-self._prior, kind="stable")[: int(alive.sum())]

    @property
    def counts(self) -> np.ndarray:
        """(N,) training interactions by row."""
        return self._counts

    def over(self, counts: np.ndarray, alive: np.ndarray) -> SmoothedMemory:
        """Return the same answer over a catalogue that goes on from this one's rows."""
        return SmoothedMemory(self.params, counts, alive, self.memory, self.secret)

    def rank(
        self,
        queries: Sequence[str],
        channels: Mapping[str, Hits],
        k: int,
        allowed: np.ndarray | None = None,
    ) -> Answer:
        """Return the k most probable live items of each query.

        ``channels``: the Hits of each channel of ``params``, for the same queries, already
        restricted to ``allowed`` (N,) bool (None = every live item).  Ties go by lower row.
        """
        mask, prior, order = self.alive, self._prior, self._order
        if allowed is not None:
            mask = self.alive & allowed
            prior = popularity(self._counts, mask)
            # the allowed ones keep their order: their shares grow by one factor
            order = self._order[mask[self._order]]
        pooled = Pooled.of([channels[name] for name in self.params.channels])
        if not self.params.channels:
            pooled = Pooled(
                np.full((len(queries), 0), -1, np.int64), np.zeros((len(queries), 0, 0))
            )
        # a placeholder past the end: the prior of whatever stands there may be 0
        log_prior = np.log(np.where(pooled.rows >= 0, prior[np.maximum(pooled.rows, 0)], 1.0))
        logs = log_pool(pooled, self.params, log_prior, max(len(order), 1))
        k = min(k, len(order))
        known = [self._known(query, mask) for query in queries]
        joined = _Joined.of(pooled, np.exp(logs), known, order[:k])
        seen = np.array([float(counts.sum()) for _, counts in known])
        epsilon = np.where((pooled.rows >= 0).any(axis=1), self.params.epsilon, 1.0)[joined.query]
        smoothing = (1 - epsilon) * joined.share + epsilon * prior[joined.rows]
        probability = (joined.count + self.params.kappa * smoothing) / (
            seen[joined.query] + self.params.kappa
        )
        # stable: candidates of a query stand by row
        best = np.lexsort((-probability, joined.query))
        query = joined.query[best]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        best, query, place = (part[place < k] for part in (best, query, place))
        rows = np.full((len(queries), k), -1, np.int32)
        rows[query, place] = joined.rows[best]
        values = np.zeros((3, len(queries), k))
        for out, of_each in zip(values, (probability, joined.count, joined.share), strict=True):
            out[query, place] = of_each[best]
        return Answer(
            Hits(rows, values[0].astype(np.float32)), values[0], values[1], values[2], seen
        )

    def _known(self, query: str, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (m,) that the memory knows for a query, and their counts."""
        if self.memory is None:
            return np.empty(0, np.int64), np.empty(0)
        return self.memory.counts(query, self.secret, self.params.half_life, mask)

    def distribution(
        self, query: str, channels: Mapping[str, Hits], allowed: np.ndarray | None = None
    ) -> np.ndarray:
        """Return P (N,) float64 of every item, 0 for one that is not live and allowed."""
        answer = self.rank([query], channels, len(self.alive), allowed)
        out = np.zeros(len(self.alive))
        rows = answer.hits.rows[0]
        out[rows[rows >= 0]] = answer.probability[0][rows >= 0]
        return out


@dataclass(frozen=True)
class _Joined:
    """The candidates of all queries, query by query, rising rows: those of the pool, of the memory,
    and the most popular. Each (m,); ``share`` of the pool and ``count`` of the memory are 0 where
    it has none.
    """

    query: np.ndarray
    rows: np.ndarray
    share: np.ndarray
    count: np.ndarray

    @classmethod
    def of(
        cls,
        pooled: Pooled,
        pool: np.ndarray,
        known: Sequence[tuple[np.ndarray, np.ndarray]],
        popular: np.ndarray,
    ) -> _Joined:
        """``pool`` (Q, U) are the shares of the pooled items.

        ``popular`` (k,) rows: beyond pool and memory the prior decides alone, so that the first k
        are enough.
        """
        queries = len(known)
        of_pool, place = np.nonzero(pooled.rows >= 0)
        of_known = np.repeat(np.arange(queries), [len(rows) for rows, _ in known])
        parts = [
            (of_pool, pooled.rows[of_pool, place]),
            (of_known, np.concatenate([rows for rows, _ in known] or [np.empty(0, np.int64)])),
            (np.repeat(np.arange(queries), len(popular)), np.tile(popular, queries)),
        ]
        size = 1 + max((int(rows.max(initial=0)) for _, rows in parts), default=0)
        keys = np.concatenate([query * size + rows for query, rows in parts])
        found, at = np.unique(keys, return_inverse=True)
        share, count = np.zeros(len(found)), np.zeros(len(found))
        share[at[: len(of_pool)]] = pool[of_pool, place]
        if len(of_known):
            of_memory = at[len(of_pool) : len(of_pool) + len(of_known)]
            count[of_memory] = np.concatenate([counts for _, counts in known])
        return cls(*np.divmod(found, size), share, count)
