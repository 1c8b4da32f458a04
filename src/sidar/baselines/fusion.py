"""One ranking from several: reciprocal rank fusion or a weighted sum of min-max normalised scores.

Fusion reads Hits only, so any channel joins: BM25, dense, the generative model, or a run of another
system (``evaluate.hits_from_run``). Weights belong to a dev set (:func:`tune_fusion`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from sidar.baselines.ranking import DEPTH, top_k
from sidar.types import Hits

Method = Literal["rrf", "weighted"]

#: [known: Cormack, Clarke, Büttcher 2009] the constant of reciprocal rank fusion.
RRF_K = 60


def contributions(hits: Hits, method: Method) -> np.ndarray:
    """(Q, k) float64 ≥ 0: what each result adds at weight 1; 0 where there is no result.

    rrf: 1 / (60 + rank). weighted: (score − lowest) / (highest − lowest) of the query's results,
    raised by one result's step so that the last result still beats an absent one; a list with one
    score only counts 1 throughout. Less 10⁻⁶ per rank: items of one SID share a score, and their
    order must survive.
    """
    present = hits.rows >= 0
    if method == "rrf":
        return np.where(present, 1.0 / (RRF_K + 1 + np.arange(hits.rows.shape[1])), 0.0)
    scores = hits.scores.astype(np.float64)
    if not scores.shape[1]:
        return scores
    some = present.any(axis=1, keepdims=True)
    low = np.where(some, np.where(present, scores, np.inf).min(axis=1, keepdims=True), 0.0)
    high = np.where(some, np.where(present, scores, -np.inf).max(axis=1, keepdims=True), 0.0)
    spread = np.where(high > low, high - low, 1.0)
    step = 1.0 / np.maximum(present.sum(axis=1, keepdims=True), 1)
    scaled = np.where(high > low, (np.where(present, scores, low) - low) / spread, 1.0)
    order = 1e-6 * np.arange(scores.shape[1])
    return np.where(present, np.maximum((scaled + step) / (1 + step) - order, 1e-9), 0.0)


class _Join:
    """Results of all channels side by side, made once, so that trying weights is a product and a
    top-k.

    ``rows`` (Q, P) the distinct rows that any channel returned, rising, −1 past the end; ``values``
    (Q, P, C).
    """

    def __init__(self, channels: Sequence[Hits], method: Method) -> None:
        if len({len(hits.rows) for hits in channels}) != 1:
            raise ValueError(
                "fusion needs the same queries in each channel, got "
                f"{[len(h.rows) for h in channels]}"
            )
        parts = [(hits.rows >= 0).nonzero() for hits in channels]
        size = 1 + max((int(hits.rows.max(initial=-1)) for hits in channels), default=0)
        keys = [q * size + hits.rows[q, r] for hits, (q, r) in zip(channels, parts, strict=True)]
        # (query, row) pairs, sorted
        pairs, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        query, row = np.divmod(pairs, size)
        # of the row among its query's
        place = np.arange(len(pairs)) - np.searchsorted(query, query)
        self.rows = np.full(
            (len(channels[0].rows), int(place.max(initial=-1)) + 1), -1, dtype=np.int32
        )
        self.rows[query, place] = row
        self.values = np.zeros((*self.rows.shape, len(channels)))
        channel = np.repeat(np.arange(len(channels)), [len(key) for key in keys])
        added = [
            contributions(hits, method)[q, r] for hits, (q, r) in zip(channels, parts, strict=True)
        ]
        self.values[query[inverse], place[inverse], channel] = np.concatenate(added)

    def hits(self, weights: Sequence[float], k: int) -> Hits:
        """Hits under ``weights``; ties by lower row; a result whose channels all
        weigh 0 is none.
        """
        best = top_k(self.values @ np.asarray(weights, dtype=np.float64), k, floor=0)
        if not self.rows.shape[1]:
            return best
        rows = np.take_along_axis(self.rows, np.maximum(best.rows, 0), axis=1)
        return Hits(np.where(best.rows >= 0, rows, -1), best.scores)


def fuse(
    channels: Sequence[Hits],
    method: Method = "rrf",
    weights: Sequence[float] | None = None,
    k: int = DEPTH,
) -> Hits:
    """Fuse ``channels`` (the same queries in each) into one ranking; ``weights`` None = equal.

    Raises ``ValueError`` where queries or weights do not fit the channels.
    """
    if not channels:
        raise ValueError("fusion needs at least one channel")
    weights = [1.0 / len(channels)] * len(channels) if weights is None else list(weights)
    if len(weights) != len(channels) or min(weights) < 0 or max(weights) <= 0:
        raise ValueError(
            f"fusion of {len(channels)} channels needs as many weights ≥ 0, one > 0; got {weights}"
        )
    return _Join(channels, method).hits(weights, min(k, DEPTH))


@dataclass(frozen=True)
class Fusion:
    """A chosen way to fuse, and what it reached on the dev set."""

    method: Method
    weights: tuple[float, ...]
    value: float = float("nan")

    def __call__(self, channels: Sequence[Hits], k: int = DEPTH) -> Hits:
        return fuse(channels, self.method, self.weights, k)


def simplex(n: int, steps: int = 10) -> list[tuple[float, ...]]:
    """All weights of ``n`` channels in steps of 1/``steps`` that sum to 1, the most even first."""
    grid = [w for w in product(range(steps + 1), repeat=n) if sum(w) == steps]
    grid.sort(key=lambda w: (sum(x * x for x in w), w))
    return [tuple(x / steps for x in w) for w in grid]


def tune_fusion(
    folds: Sequence[tuple[Sequence[Hits], Callable[[Hits], float]]],
    methods: Sequence[Method] = ("rrf", "weighted"),
    *,
    steps: int = 10,
    k: int = DEPTH,
) -> Fusion:
    """Choose method and weights on dev sets: the highest mean over ``folds`` of ``objective(fused
    hits)``.

    ``folds``: per dev set its channels' Hits (always in the same order) and its objective. A tie
    goes to the more even weights, then to the earlier method. Raises ``ValueError`` where folds
    differ in their number of channels.
    """
    sizes = {len(channels) for channels, _ in folds}
    if len(sizes) != 1:
        raise ValueError(f"every dev set needs the same channels, got {sorted(sizes)} of them")
    best: Fusion | None = None
    for method in methods:
        joined = [(_Join(channels, method), objective) for channels, objective in folds]
        for weights in simplex(len(folds[0][0]), steps):
            value = float(np.mean([objective(join.hits(weights, k)) for join, objective in joined]))
            if best is None or value > best.value:
                best = Fusion(method, weights, value)
    assert best is not None  # a simplex is never empty
    return best
