"""Catalogue rows as results: what a product card shows, beside the scores of its item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sidar.answer.smoothed import Answer
from sidar.serve.results import Result
from sidar.serve.trace import sid_text
from sidar.types import Catalogue, Hits, SemanticIds

#: Least probability whose logarithm is taken.
TINY = 1e-300


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
            result = self._card(place + 1, row, score, steps)
            if cosine is not None:
                result = replace(result, cosine=float(cosine[query, place]))
            results.append(result)
        return results

    def of_answer(
        self, answer: Answer, channels: Mapping[str, Hits], generative: Hits, query: int
    ) -> list[Result]:
        """Return the results of one query of a fused answer; ``generative``: what the beams
        reached.
        """
        assert generative.level_logp is not None
        beam_rows = generative.rows[query].tolist()
        place_of = {row: place for place, row in enumerate(beam_rows) if row >= 0}
        rows_of = {name: set(hits.rows[query].tolist()) for name, hits in channels.items()}
        results = []
        for place, row in enumerate(answer.hits.rows[query].tolist()):
            if row < 0:
                break
            score = float(np.log(max(answer.probability[query, place], TINY)))
            steps = generative.level_logp[query, place_of[row]] if row in place_of else None
            result = self._card(place + 1, row, score, steps)
            count = float(answer.counts[query, place])
            names = ["memory"] if count > 0 else []
            names += [name for name, rows in rows_of.items() if row in rows]
            results.append(replace(result, count=count, channels=tuple(names)))
        return results

    def of_popular(self, hits: Hits) -> list[Result]:
        """Return the results of one list by popularity, whose scores are shares of the clicks."""
        results = []
        for place, row in enumerate(hits.rows[0].tolist()):
            if row < 0:
                break
            score = float(np.log(max(float(hits.scores[0, place]), TINY)))
            card = self._card(place + 1, row, score, None)
            results.append(replace(card, channels=("prior",)))
        return results

    def _card(self, rank: int, row: int, score: float, level_logp: np.ndarray | None) -> Result:
        """``level_logp`` (L,) None = the beams did not reach the item."""
        item = self.catalogue.item(row)
        sid = self.sids.tuple_of(row)
        ends_early = self.variable_length and len(sid) < self.sids.n_levels
        steps: tuple[float, ...] = ()
        probability = None
        if level_logp is not None:
            steps = tuple(float(logp) for logp in level_logp[: len(sid) + ends_early])
            probability = float(np.exp(level_logp.sum()))
        return Result(
            rank=rank,
            item_id=item["item_id"],
            title=item["title"] or "",
            brand=item["brand"] or "",
            price=item["price"],
            image_url=item["image_url"] or "",
            category=tuple(item["category"] or ()),
            score=score,
            probability=probability,
            sid=sid,
            level_logp=steps,
            sid_text=sid_text(sid),
        )
