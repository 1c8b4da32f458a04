"""Titles as a channel: items by the share of the query's words that stand in their title."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sidar.baselines import Channel, ChannelInputs, register_channel
from sidar.types import Hits, Prompt


class WordsOptions(BaseModel):
    """Overlap of words with titles."""

    model_config = ConfigDict(extra="forbid")
    clicks: float = Field(0.1, ge=0, description="Weight of an item's share of training clicks.")


@register_channel("words", options=WordsOptions)
class WordOverlap(Channel):
    """The share of the query's words in the title, plus a little for clicked items."""

    options: WordsOptions

    @property
    def about(self) -> str:
        return f"share of the query's words in the title + {self.options.clicks:g} x clicks"

    def fit(self, inputs: ChannelInputs) -> WordOverlap:
        titles = inputs.catalogue.column("title")
        self.titles = [set((title or "").lower().split()) for title in titles]
        clicks = inputs.priors.clicks
        self.clicked = clicks / max(clicks.max(), 1)
        self.alive = inputs.catalogue.alive
        return self

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        scores = np.array([self._scores(prompt.query) for prompt in prompts])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(scores, best, axis=1).astype(np.float32)
        found = values > 0
        return Hits(np.where(found, best, -1).astype(np.int32), np.where(found, values, 0))

    def _scores(self, query: str) -> np.ndarray:
        """(N,) score of every item; 0 for those that share no word or have gone."""
        words = set(query.lower().split())
        shared = np.array([len(words & title) for title in self.titles]) / max(len(words), 1)
        scores = shared + self.options.clicks * self.clicked
        return np.where((shared > 0) & self.alive, scores, 0.0)
