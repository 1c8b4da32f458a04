"""What was shown: the logger, a noisy mixture of a lexical score, popularity and an explorer.

It is none of the scored baselines (docs/evaluation.md): no BM25, no embedding, no truth. Its
lexical score is the share of a query's idf that a product's words cover.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidar.simulate.config import LoggerConfig
from sidar.simulate.facts import Facts
from sidar.simulate.lexicon import plain, singular
from sidar.types import Catalogue

_NEVER = -1e9


@dataclass(frozen=True)
class Shown:
    """What R requests showed: ``rows`` (R, W) int64 in order of position, the first ``n`` (R,) of
    them real.
    """

    rows: np.ndarray
    n: np.ndarray

    def flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(S,) request number, row and 1-based position of everything shown, request by request."""
        real = np.arange(self.rows.shape[1]) < self.n[:, None]
        request, place = np.nonzero(real)
        return request, self.rows[real], place + 1


class Shelf:
    """Candidates of each phrasing, made on first use; :meth:`show` ranks them for a
    day's requests.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        facts: Facts,
        queries: Sequence[str],
        homes: Sequence[str],
        launch: np.ndarray,
        cfg: LoggerConfig,
        rng: np.random.Generator,
    ) -> None:
        """``homes`` (Q): department that the shop files a phrasing under; ``launch`` (N,) µs, 0 =
        always there.
        """
        self._queries, self._homes, self._launch, self._cfg, self._rng = (
            queries,
            homes,
            launch,
            cfg,
            rng,
        )
        found: dict[str, list[int]] = defaultdict(list)
        texts = zip(
            catalogue.column("title"),
            catalogue.column("brand"),
            catalogue.column("category"),
            strict=True,
        )
        for row, (title, brand, path) in enumerate(texts):
            for word in _words(f"{title} {brand or ''} {' '.join((path or [])[-2:])}"):
                found[word].append(row)
        self._postings = {word: np.asarray(rows) for word, rows in found.items()}
        self._idf = {
            word: float(np.log(len(catalogue) / len(rows))) + 0.1 for word, rows in found.items()
        }
        ratings = np.log1p(facts.ratings)
        self._ratings = ratings / max(float(ratings.max()), 1.0)
        self._members = {
            h: np.flatnonzero([d == h for d in facts.department]) for h in set(facts.department)
        }
        self._clicks = np.zeros(len(catalogue))
        self._pools: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def learn(self, clicked_rows: np.ndarray) -> None:
        """Add a day's clicks to popularity: tomorrow's ranking feeds on today's
        log, as in a shop.
        """
        self._clicks += np.bincount(clicked_rows, minlength=len(self._clicks))

    def popularity(self) -> np.ndarray:
        """(N,) in [0, 1]: half the source's ratings, half the log's clicks of earlier days."""
        clicks = np.log1p(self._clicks)
        return 0.5 * self._ratings + 0.5 * clicks / max(float(clicks.max()), 1.0)

    def show(self, query: np.ndarray, ts: np.ndarray, random: np.ndarray) -> Shown:
        """Result pages of R requests: ``query`` (R,) phrasing numbers, ``ts`` (R,) µs, ``random``
        (R,) bool.

        Score = lexical + popularity + bonus of new items + Gumbel noise; the explorer lifts a few
        other candidates to a random place; a random request shows the same items in uniformly
        random order.
        """
        cfg, rng = self._cfg, self._rng
        pools = {int(q): self._pool(int(q)) for q in np.unique(query)}
        rows = np.stack([pools[int(q)][0] for q in query])  # (R, P), −1 = no candidate
        score = cfg.lexical * np.stack([pools[int(q)][1] for q in query])
        score += cfg.popularity * self.popularity()[rows] + cfg.fresh * (self._launch[rows] > 0)
        score += rng.gumbel(scale=cfg.noise, size=score.shape) if cfg.noise else 0.0
        there = (rows >= 0) & (self._launch[rows] <= ts[:, None])
        score = np.where(there, score, _NEVER)

        width = min(cfg.shown_max, rows.shape[1])
        n = np.minimum(
            rng.integers(cfg.shown_min, cfg.shown_max + 1, len(query)), there.sum(axis=1)
        )
        best = -np.sort(-score, axis=1)[:, :width]  # (R, width)
        place = (rng.random(score.shape) * n[:, None]).astype(np.int64)
        # (R,) of a candidate to be lifted
        chance = cfg.explore * n / np.maximum(there.sum(axis=1), 1)
        lifted = there & (rng.random(score.shape) < chance[:, None])
        score = np.where(
            lifted, np.take_along_axis(best, np.minimum(place, width - 1), axis=1) + 1e-9, score
        )

        order = np.argsort(-score, axis=1, kind="stable")[:, :width]
        key = np.where(random[:, None], rng.random(order.shape), np.arange(width)[None, :])
        key = np.where(np.arange(width) < n[:, None], key, np.inf)  # only what is shown is shuffled
        order = np.take_along_axis(order, np.argsort(key, axis=1, kind="stable"), axis=1)
        return Shown(np.take_along_axis(rows, order, axis=1), n)

    def _pool(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """(P,) candidate rows and (P,) lexical scores in [0, 1] of one phrasing."""
        if query not in self._pools:
            cfg, n = self._cfg, len(self._launch)
            covered, total = np.zeros(n), 1e-9
            for word in _words(self._queries[query]):
                idf = self._idf.get(word)
                total += float(np.log(n)) if idf is None else idf  # an unknown word is a rare one
                if idf is not None:
                    covered[self._postings[word]] += idf
            covered /= total
            best = np.argsort(-(covered + 1e-3 * self._ratings), kind="stable")[: cfg.pool]
            home = np.setdiff1d(self._members.get(self._homes[query], np.empty(0, np.int64)), best)
            weights = self._ratings[home] + 0.05
            take = min(cfg.popular, len(home))
            popular = (
                self._rng.choice(home, size=take, replace=False, p=weights / weights.sum())
                if take
                else home[:0]
            )
            rows = np.full(min(cfg.pool, n) + cfg.popular, -1, dtype=np.int64)
            rows[: len(best)] = best
            rows[len(best) : len(best) + take] = popular
            self._pools[query] = rows, np.where(rows >= 0, covered[rows], 0.0)
        return self._pools[query]


def _words(text: str) -> list[str]:
    """Distinct words in a fixed order: sums over them must not depend on how sets are hashed."""
    return sorted({singular(word) for word in plain(text).split()})
