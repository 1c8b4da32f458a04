"""The channels of every table that need nothing but the data: BM25 and popularity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from sidar.baselines.bm25 import Bm25
from sidar.baselines.channel import Channel, ChannelInputs, TextChannel, register_channel
from sidar.baselines.simple import Popularity
from sidar.types import Hits, Prompt


class _ByText(Channel):
    """A channel that reads the query's text and nothing of the user; ``fit`` sets ``channel``."""

    channel: TextChannel

    @property
    def about(self) -> str:
        return self.channel.about

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        return self.channel.search([prompt.query for prompt in prompts], k)


@register_channel("bm25")
class Bm25Channel(_ByText):
    """BM25, with fields, weights and constants chosen on the validation queries."""

    def fit(self, inputs: ChannelInputs) -> Self:
        lexical = Bm25(inputs.catalogue)
        if inputs.validation is not None:
            queries = [prompt.query for prompt in inputs.validation.prompts]
            lexical = lexical.tune(queries, inputs.validation.value)
        self.channel = lexical
        return self


@register_channel("popularity")
class PopularityChannel(_ByText):
    """The same list for every query, by the prior of the training days."""

    def fit(self, inputs: ChannelInputs) -> Self:
        self.channel = Popularity(inputs.priors.prior, alive=inputs.catalogue.alive)
        return self
