"""Where a fused answer comes from: how memory, channels and prior share the probability of an item.

    P(i) = [c_q(i) + κ (1 − ε) pool(i) + κ ε prior(i)] / (n_q + κ)

The three summands are exact parts of P(i): what was chosen before, the pool of the channels, and
popularity.  The pool is a product, whose logarithm is a sum; so its part is divided among the
channels by how far each lifts the item above where it would be, had the channel not returned it,

    lift_c(i) = w_c · (log p_c(i) − log p_c(unlisted)) ≥ 0,    p_c(unlisted) = δ / N,

which are the Shapley values of log pool(i) against the same item returned by none. [ours]  What is
left, the pool's part of an item that no channel lifts included, is the prior's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sidar.answer.smoothed import PRIOR, Answer, AnswerParams, Pooled, channel_probability
from sidar.types import Hits

#: Name of what was chosen for the query before, among the channels.
MEMORY = "memory"
#: Shares below this are not worth a word.
LEAST = 1e-4


def origins(
    params: AnswerParams, answer: Answer, channels: Mapping[str, Hits], query: int, n_live: int
) -> list[tuple[tuple[str, float], ...]]:
    """Return, for each item of one query of ``answer``, the share of memory, each channel and the
    prior in its probability; largest first, together 1 but for shares below :data:`LEAST`.

    ``channels``: the Hits that the answer was made from; ``n_live`` is N, the number of live,
    allowed items.
    """
    rows = answer.hits.rows[query]
    rows = rows[rows >= 0]
    counts, pool = answer.counts[query, : len(rows)], answer.pool[query, : len(rows)]
    summed = answer.probability[query, : len(rows)] * (answer.seen[query] + params.kappa)
    summed = np.maximum(summed, np.finfo(float).tiny)
    shares = {MEMORY: counts / summed}
    pooled = params.kappa * (1 - params.epsilon) * pool / summed
    lifts = _lifts(params, channels, query, rows, n_live)
    lifted = np.sum(list(lifts.values()), axis=0) if lifts else np.zeros(len(rows))
    for name, lift in lifts.items():
        shares[name] = pooled * np.divide(lift, lifted, np.zeros(len(rows)), where=lifted > 0)
    shares[PRIOR] = np.maximum(1.0 - np.sum(list(shares.values()), axis=0), 0.0)
    return [_largest_first(shares, place) for place in range(len(rows))]


def _largest_first(shares: Mapping[str, np.ndarray], place: int) -> tuple[tuple[str, float], ...]:
    kept = [(name, float(values[place])) for name, values in shares.items()]
    kept = [pair for pair in kept if pair[1] >= LEAST]
    return tuple(sorted(kept, key=lambda pair: -pair[1]))


def _lifts(
    params: AnswerParams,
    channels: Mapping[str, Hits],
    query: int,
    rows: np.ndarray,
    n_live: int,
) -> dict[str, np.ndarray]:
    """Return lift_c (k,) of the items ``rows`` (k,) by channel."""
    if not params.channels:
        return {}
    pooled = Pooled.of([channels[name].take([query]) for name in params.channels])
    place_of = {row: place for place, row in enumerate(pooled.rows[0].tolist()) if row >= 0}
    # past the end of what was returned stands an item that no channel returned
    places = [place_of.get(row, len(place_of)) for row in rows.tolist()]
    lifts = {}
    for at, name in enumerate(params.channels):
        scores = pooled.scores[:, : len(place_of), at] / params.temperatures[name]
        scores = np.pad(scores, ((0, 0), (0, 1)), constant_values=np.nan)
        logs = np.log(channel_probability(scores, params.delta, n_live)[0])
        lifts[name] = params.weights[name] * (logs[places] - logs[-1])
    return lifts
