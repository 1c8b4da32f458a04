"""The click table that the answer is compared with, tuned on the requests and with the BM25 that
the answer has.

Its constants are a half-life and how its back-off fuses BM25, dense and prior.  Both are chosen by
the nDCG@10 of the whole row: weights tuned on the back-off alone would be those of queries that the
counts have decided already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidar.answer.memory import Memory
from sidar.baselines import Fusion, fuse, tune_fusion
from sidar.evaluate.measures.metrics import objective
from sidar.pipeline.rows.answer_log import Log
from sidar.types import Catalogue, Hits, Json, Prompt

#: Half-lives in days to choose from.
HALF_LIVES = (1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 90.0, float("inf"))
#: Results of the back-off that stand behind the counts while weights are tried; the row itself has
#: all.
TRIED = 50


class MemoryFirst:
    """The click table: what was chosen for the query by falling count, then the ranking of a
    back-off.
    """

    def __init__(self, memory: Memory, secret: bytes, alive: np.ndarray, half_life: float) -> None:
        self._memory, self._secret, self._alive, self.half_life = memory, secret, alive, half_life
        self._counts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def counts(self, query: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows (m,) and decayed counts (m,) of what was chosen for ``query``; looked up once."""
        if query not in self._counts:
            self._counts[query] = self._memory.counts(
                query, self._secret, self.half_life, self._alive
            )
        return self._counts[query]

    def over(self, prompts: Sequence[Prompt], backoff: Hits, k: int) -> Hits:
        """Return the counted items of each prompt's query, then those of ``backoff`` that are not
        among them.
        """
        rows = np.full((len(prompts), k), -1, np.int32)
        for q, prompt in enumerate(prompts):
            known, counts = self.counts(prompt.query)
            place = {int(row): at for at, row in enumerate(backoff.rows[q].tolist()) if row >= 0}
            last = len(place)
            # equal counts in the order of the back-off, then by row
            order = sorted(
                range(len(known)),
                key=lambda i: (-counts[i], place.get(int(known[i]), last), known[i]),
            )
            first = known[order]
            rest = backoff.rows[q][(backoff.rows[q] >= 0) & ~np.isin(backoff.rows[q], first)]
            found = np.concatenate([first, rest])[:k]
            rows[q, : len(found)] = found
        scores = np.where(rows >= 0, np.arange(k, 0, -1), 0).astype(np.float32)
        return Hits(rows, scores)


@dataclass(frozen=True)
class MemoryRow:
    """What was chosen for the row: ``half_life`` in days (inf = counts never fade) and the
    ``fusion`` of its back-off.

    ``requests``: number of requests that both were chosen on.
    """

    half_life: float
    fusion: Fusion
    requests: int

    def to_json(self) -> Json:
        """The part ``memory_row`` of ``answer.json``."""
        value = self.fusion.value
        return {
            "half_life": self.half_life if np.isfinite(self.half_life) else None,
            "method": self.fusion.method,
            "weights": dict(zip(("bm25", "dense", "prior"), self.fusion.weights, strict=True)),
            "ndcg@10": value if np.isfinite(value) else None,
            "requests": self.requests,
        }

    @classmethod
    def read(cls, facts: Json) -> MemoryRow | None:
        """What ``answer.json`` says; None where an older version wrote it."""
        row = facts.get("memory_row")
        if row is None:
            return None
        fusion = Fusion(row["method"], tuple(row["weights"].values()))
        return cls(row["half_life"] or float("inf"), fusion, row["requests"])


def fit_memory_row(log: Log, channels: Sequence[Hits], catalogue: Catalogue) -> MemoryRow:
    """Choose the constants of the row; ``channels`` are BM25, dense and prior on the log's fitting
    requests.

    First the half-life over even weights, then the weights, then the half-life again.
    """
    some = log.asked.eval_set(catalogue)
    even = Fusion("rrf", (1 / len(channels),) * len(channels))
    if not len(some):
        return MemoryRow(float("inf"), even, 0)
    half_life = best_half_life(log, fuse(channels), catalogue, HALF_LIVES)
    row = MemoryFirst(log.before, log.secret, catalogue.alive, half_life)
    worth = objective(some, catalogue, "ndcg@10", relevant=0)
    found = [_with_query(log, hits) for hits in channels]
    if log.asked.held_out:
        fusion = tune_fusion(
            [(found, lambda hits: worth(row.over(some.prompts, hits, 10)))], k=TRIED
        )
    else:  # the counts hold the requests themselves and would decide everything
        fusion = tune_fusion([(found, worth)], k=10)
    half_life = best_half_life(log, fusion(channels), catalogue, HALF_LIVES)
    return MemoryRow(half_life, fusion, len(some))


def best_half_life(log: Log, backoff: Hits, catalogue: Catalogue, grid: Sequence[float]) -> float:
    """The half-life of the ``memory`` row: the highest nDCG@10 on the fitting requests, the longest
    of equals.
    """
    some = log.asked.eval_set(catalogue)
    if not len(some):
        return float("inf")  # a log of histories without queries remembers nothing
    ranked = _with_query(log, backoff)
    worth = objective(some, catalogue, "ndcg@10", relevant=0)
    best, value = float("inf"), -1.0
    for half_life in sorted(grid, reverse=True):
        row = MemoryFirst(log.before, log.secret, catalogue.alive, half_life)
        got = worth(row.over(some.prompts, ranked, 10))
        if got > value:
            best, value = half_life, got
    return best


def _with_query(log: Log, hits: Hits) -> Hits:
    """``hits`` of the fitting requests that have a query text."""
    named = [q for q, prompt in enumerate(log.asked.prompts) if prompt.query.strip()]
    return Hits(hits.rows[named], hits.scores[named])
