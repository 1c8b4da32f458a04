"""A trained SidLM as a row of the result table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sidar.config import DecodeConfig
from sidar.index import PrefixIndex
from sidar.types import Catalogue, Hits, Prompt, SemanticIds

if TYPE_CHECKING:
    from sidar.decode import Beams
    from sidar.retriever import Retriever


#: Width of the free beam whose invalid share is reported: the width of the SID columns.
FREE_BEAM = 128


class GenerativeSystem:
    """Constrained beam search with one model: ``decode.item_beam`` for items, the caller's beam for SIDs.

    The model is loaded when it is first asked. ``reader``: query texts → (n, D), for a model that reads sentence
    vectors (``lm.geometry``).
    """

    def __init__(
        self,
        name: str,
        model: Path,
        index: PrefixIndex,
        sids: SemanticIds,
        catalogue: Catalogue,
        decode: DecodeConfig,
        device: str,
        reader: Callable[[Sequence[str]], np.ndarray] | None = None,
    ) -> None:
        self.name, self.catalogue = name, catalogue
        self._model, self._index, self._sids = model, index, sids
        self._decode, self._device, self._reader = decode, device, reader
        self._last: tuple[tuple[Prompt, ...], int, Beams] | None = None

    @cached_property
    def retriever(self) -> Retriever:
        """The model behind the façade, so that tables and service answer through the same code."""
        from sidar.lm import SidLM
        from sidar.retriever import Retriever

        model = SidLM.from_pretrained(self._model, device=self._device)
        model.prompts.reader = self._reader
        precision = self._decode.precision
        return Retriever(model, self._index, self._sids, self.catalogue, precision=precision, label=self.name)

    def beams(self, prompts: Sequence[Prompt], k: int = 1) -> Beams:
        """The item beam, ``decode.item_beam`` or ``k`` wide; the last one is kept, for the row that reranks it."""
        key, width = tuple(prompts), min(max(self._decode.item_beam, k), len(self._index))
        if self._last is None or self._last[:2] != (key, width):
            found = self.retriever.beams(prompts, max(width, 1), exact=self._decode.exact)
            self._last = key, width, found
        return self._last[2]

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        """Items of a beam of ``decode.item_beam``, in beam order, inside an SID by the prior."""
        from sidar.decode import to_hits

        return to_hits(self.beams(prompts, k), self._index, k, allowed=self.retriever.allowed)

    def sid_ranking(self, prompts: Sequence[Prompt], beam: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, beam) SID numbers and log-probs of a beam of exactly ``beam``."""
        found = self.retriever.beams(prompts, beam, exact=self._decode.exact)
        return found.sids, found.scores

    def invalid(self, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
        """Per query: exact invalid mass, and invalid shares of a free beam of 128 at 10 and 128 (protocol.md §5).

        In fp32 whatever the tables decode in: a mass of thousands of terms should not carry bf16's rounding.
        """
        from sidar.decode import Trie, free_beam_search, invalid_mass
        from sidar.decode.free import NOT_A_CODE
        from sidar.lm.scorer import LmScorer

        model = self.retriever.model
        scorer = LmScorer(model, precision="fp32")
        trie = Trie(self._index, scorer.device)
        tokens = model.prompts.encode_batch(prompts, self._sids)
        free = free_beam_search(scorer, tokens, trie, FREE_BEAM)
        return {
            "invalid_mass": invalid_mass(scorer, tokens, trie),
            "free_invalid@10": free.invalid_rate(10),
            f"free_invalid@{FREE_BEAM}": free.invalid_rate(FREE_BEAM),
            "free_not_code@10": (free.kind[:, :10] == NOT_A_CODE).sum(1) / (free.kind[:, :10] >= 0).sum(1),
        }
