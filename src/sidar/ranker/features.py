"""Features of requests and items as one table, (pairs, columns) float32, NaN = not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sidar.ranker.columns import Column, names_of
from sidar.ranker.knowledge import Known, QueryFacts
from sidar.types import Hits, Prompt


class Lexical(Protocol):
    """A lexical channel that scores given items: :meth:`sidar.baselines.Bm25.scores_of`."""

    def scores_of(self, query: str, rows: np.ndarray) -> np.ndarray:
        """Return (n,) scores of catalogue ``rows`` (n,) for ``query``."""


@dataclass(frozen=True)
class Pairs:
    """Requests and their candidates, one after another: candidates of request r are
    ``rows[starts[r] : starts[r + 1]]``.
    """

    starts: np.ndarray  # (R + 1,) int64
    rows: np.ndarray  # (P,) int64

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> Pairs:
        """Join the candidates of each request."""
        sizes = [len(each) for each in rows]
        joined = np.concatenate(rows) if len(rows) else np.empty(0)
        return cls(np.cumsum([0, *sizes]), joined.astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """(R,) candidates of each request."""
        return np.diff(self.starts)

    def of_request(self, r: int) -> slice:
        """Return where the candidates of request ``r`` stand."""
        return slice(int(self.starts[r]), int(self.starts[r + 1]))


class FeatureMaker:
    """``FeatureMaker(columns, known, lexical, vectors).table(prompts, query_vectors, pairs)``.

    ``vectors`` (N, D) of the items, of length 1, may be memory-mapped.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        known: Known,
        lexical: Lexical,
        vectors: np.ndarray,
    ) -> None:
        self.columns, self.known = tuple(columns), known
        self._lexical, self._vectors = lexical, vectors
        self._place = {name: at for at, name in enumerate(names_of(columns))}

    def table(
        self,
        prompts: Sequence[Prompt],
        query_vectors: np.ndarray,
        pairs: Pairs,
        generative: Hits | None = None,
        own: Sequence[Mapping[int, float]] | None = None,
    ) -> np.ndarray:
        """Return the features (P, F) float32 of ``pairs``.

        ``query_vectors`` (R, D); ``generative``: the model's hits for the same prompts, where the
        columns read beams; ``own``: per request the counts that it added itself.
        """
        out = np.full((len(pairs.rows), len(self.columns)), np.nan, np.float32)
        for r, prompt in enumerate(prompts):
            at = pairs.of_request(r)
            rows, part = pairs.rows[at], out[at]
            if not len(rows):
                continue
            # an empty query was never asked for anything by name
            query = self.known.query(prompt.query, None if own is None else dict(own[r]))
            self._text(part, prompt, query_vectors[r], rows)
            self._counted(part, query, rows)
            self._of_item(part, rows)
            self._history(part, prompt.history, rows)
            if generative is not None:
                self._beam(part, generative, r, rows)
        return out

    def _put(self, part: np.ndarray, name: str, values: np.ndarray | float) -> None:
        """Write one column of a request's part, where the ranker reads it."""
        if name in self._place:
            part[:, self._place[name]] = values

    def _text(self, part: np.ndarray, prompt: Prompt, vector: np.ndarray, rows: np.ndarray) -> None:
        """Write what the query's text says of the items."""
        if not prompt.query.strip():
            self._put(part, "query_words", 0.0)
            return
        bm25 = self._lexical.scores_of(prompt.query, rows)
        cosine = np.asarray(self._vectors[rows], np.float32) @ vector
        self._put(part, "bm25", bm25)
        self._put(part, "bm25_gap", bm25 - bm25.max())
        self._put(part, "cosine", cosine)
        self._put(part, "cosine_gap", cosine - cosine.max())
        self._put(part, "query_words", len(prompt.query.split()))

    def _counted(self, part: np.ndarray, query: QueryFacts, rows: np.ndarray) -> None:
        """Write what was chosen for the query; nothing is known of one that nobody has asked."""
        if not query.total:
            return
        items = self.known.items
        place = np.minimum(np.searchsorted(query.rows, rows), len(query.rows) - 1)
        there = query.rows[place] == rows
        counts = np.where(there, query.counts[place], 0.0)
        self._put(part, "count", np.log1p(counts))
        self._put(part, "count_recent", np.log1p(np.where(there, query.recent[place], 0.0)))
        self._put(part, "count_share", counts / query.total)
        self._put(part, "query_count", np.log1p(query.total))
        self._put(part, "price_gap", items.log_price[rows] - query.log_price)
        for name, numbers, shares in (
            ("category_share", items.leaf[rows], query.leaf),
            ("root_share", items.root[rows], query.root),
        ):
            found = [shares.get(number, 0.0) for number in numbers.tolist()]
            self._put(part, name, np.where(numbers >= 0, found, np.nan))

    def _of_item(self, part: np.ndarray, rows: np.ndarray) -> None:
        """Write what is known of the items, whoever asks."""
        known = self.known
        self._put(part, "share", known.log_share[rows])
        self._put(part, "prior", known.log_prior[rows])
        self._put(part, "item_age", known.age[rows])
        self._put(part, "last_chosen", known.last_chosen[rows])
        self._put(part, "price", known.items.log_price[rows])

    def _history(self, part: np.ndarray, history: tuple[int, ...], rows: np.ndarray) -> None:
        """Write what the items have in common with the user's history; NaN without one."""
        self._put(part, "history_length", float(len(history)))
        if not history:
            return
        items, past = self.known.items, np.asarray(history, np.int64)
        self._put(part, "history_item", (rows[:, None] == past).mean(1))
        for name, numbers in (("history_brand", items.brand), ("history_category", items.leaf)):
            same = (numbers[rows][:, None] == numbers[past]).mean(1)
            self._put(part, name, np.where(numbers[rows] >= 0, same, np.nan))
        mean = np.asarray(self._vectors[past], np.float32).mean(0)
        length = float(np.linalg.norm(mean))
        if length > 0:
            cosine = np.asarray(self._vectors[rows], np.float32) @ (mean / length)
            self._put(part, "history_cosine", cosine)
        prices = items.log_price[past]
        if np.isfinite(prices).any():
            self._put(part, "history_price", items.log_price[rows] - np.nanmean(prices))

    def _beam(self, part: np.ndarray, hits: Hits, r: int, rows: np.ndarray) -> None:
        """Write what the model says of the items that its beams reached."""
        assert hits.level_logp is not None
        found = np.flatnonzero(hits.rows[r] >= 0)
        if not len(found):
            return
        steps = hits.level_logp[r, found]  # (n, L)
        logp = steps.sum(1, dtype=np.float64)
        # items of one SID share its log π, so distinct values are distinct SIDs [ours: two SIDs of
        # exactly one log π take one place]
        distinct = np.unique(logp)
        order = np.argsort(hits.rows[r, found], kind="stable")
        sorted_rows = hits.rows[r, found][order]
        place = np.minimum(np.searchsorted(sorted_rows, rows), len(order) - 1)
        there = sorted_rows[place] == rows
        at = order[place]
        self._put(part, "logp", np.where(there, logp[at], np.nan))
        self._put(part, "logp_gap", np.where(there, logp[at] - distinct[-1], np.nan))
        higher = len(distinct) - 1 - np.searchsorted(distinct, logp[at])
        self._put(part, "beam_place", np.where(there, higher, np.nan))
        for level in range(steps.shape[1]):
            self._put(part, f"logp_{level + 1}", np.where(there, steps[at, level], np.nan))


def hide_query(table: np.ndarray, columns: Sequence[Column]) -> np.ndarray:
    """Return ``table`` as if nobody had asked its queries before: their counts become NaN."""
    out = table.copy()
    out[:, [at for at, column in enumerate(columns) if column.of_query]] = np.nan
    return out
