"""Catalogue rows as results: what a product card shows, beside the scores of its item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidar.answer.smoothed import Answer
from sidar.serve.results import Result
from sidar.serve.trace import sid_text
from sidar.types import Catalogue, Hits, SemanticIds

#: Least probability whose logarithm is taken.
TINY = 1e-300
#: Fields of the catalogue that a result shows.
SHOWN = ("item_id", "title", "brand", "price", "image_url", "category")


@dataclass(frozen=True)
class Cards:
    """Write the results of a query; ``variable_length``: the model scores ends of shorter SIDs."""

    catalogue: Catalogue
    sids: SemanticIds
    variable_length: bool

    def of_hits(self, hits: Hits, query: int, cosine: np.ndarray | None = None) -> list[Result]:
        """Return the model's results of one query; ``cosine`` (Q, k) where they were reranked."""
        assert hits.level_logp is not None
        results = []
        for place, row in enumerate(hits.rows[query].tolist()):
            if row < 0:
                break
            score, steps = float(hits.scores[query, place]), hits.level_logp[query, place]
            near = None if cosine is None else float(cosine[query, place])
            results.append(self._card(place + 1, row, score, steps, cosine=near))
        return results

    def of_answer(
        self,
        answer: Answer,
        channels: Mapping[str, Hits],
        generative: Hits,
        query: int,
        origins: Sequence[tuple[tuple[str, float], ...]] = (),
    ) -> list[Result]:
        """Return the results of one query of a fused answer; ``generative``: what the beams
        reached, ``origins``: where each item comes from, nothing = not told.
        """
        assert generative.level_logp is not None
        beam_rows = generative.rows[query].tolist()
        place_of = {row: place for place, row in enumerate(beam_rows) if row >= 0}
        rows = answer.hits.rows[query]
        rows = rows[rows >= 0]
        found_by = {
            name: (hits.rows[query] == rows[:, None]).any(axis=1).tolist()
            for name, hits in channels.items()
        }
        results = []
        for place, row in enumerate(rows.tolist()):
            score = math.log(max(float(answer.probability[query, place]), TINY))
            steps = generative.level_logp[query, place_of[row]] if row in place_of else None
            count = float(answer.counts[query, place])
            names = ["memory"] if count > 0 else []
            names += [name for name, found in found_by.items() if found[place]]
            more = {"count": count, "channels": tuple(names)}
            told = origins[place] if origins else ()
            results.append(self._card(place + 1, row, score, steps, **more, origins=told))
        return results

    def of_popular(self, hits: Hits) -> list[Result]:
        """Return the results of one list by popularity, whose scores are shares of the clicks."""
        results = []
        for place, row in enumerate(hits.rows[0].tolist()):
            if row < 0:
                break
            score = float(np.log(max(float(hits.scores[0, place]), TINY)))
            results.append(self._card(place + 1, row, score, None, channels=("prior",)))
        return results

    def _card(
        self, rank: int, row: int, score: float, level_logp: np.ndarray | None, **more: Any
    ) -> Result:
        """``level_logp`` (L,) None = the beams did not reach the item."""
        item_id, title, brand, price, image_url, category = self.catalogue.fields(row, SHOWN)
        sid = self.sids.tuple_of(row)
        ends_early = self.variable_length and len(sid) < self.sids.n_levels
        steps: tuple[float, ...] = ()
        probability = None
        if level_logp is not None:
            steps = tuple(level_logp[: len(sid) + ends_early].tolist())
            probability = float(np.exp(level_logp.sum()))
        return Result(
            rank=rank,
            item_id=item_id,
            title=title or "",
            brand=brand or "",
            price=price,
            image_url=image_url or "",
            category=tuple(category or ()),
            score=score,
            probability=probability,
            sid=sid,
            level_logp=steps,
            sid_text=sid_text(sid),
            **more,
        )
