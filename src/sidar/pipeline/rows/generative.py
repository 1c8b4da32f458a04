"""A trained SidLM as a row of the result table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sidar.baselines import SidSystem
from sidar.config import DecodeConfig
from sidar.index import PrefixIndex
from sidar.types import Catalogue, Hits, Prompt, SemanticIds

if TYPE_CHECKING:
    from sidar.decode import Beams, Trie
    from sidar.lm.scorer import LmScorer
    from sidar.serve.retriever import Retriever


#: Width of the free beam whose invalid share is reported: the width of the SID columns.
FREE_BEAM = 128
#: Prompts whose invalid mass is computed between two looks at the clock.
MASS_BLOCK = 8


class GenerativeSystem(SidSystem):
    """Constrained beam search with one model, ``decode.beam`` wide, for SIDs and items alike.

    Each distinct prompt is decoded once, whatever rows, sets and fusions ask for it.  The model is
    loaded when it is first asked. ``reader``: query texts → (n, D), for a model that reads sentence
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
        self._decoded: dict[Prompt, Beams] = {}

    @cached_property
    def retriever(self) -> Retriever:
        """The model behind the façade, so that tables and service answer through the same code."""
        from sidar.lm import SidLM
        from sidar.serve.retriever import Retriever

        model = SidLM.from_pretrained(self._model, device=self._device)
        model.prompts.reader = self._reader
        return Retriever(
            model,
            self._index,
            self._sids,
            self.catalogue,
            beam=self._decode.beam,
            precision=self._decode.precision,
            label=self.name,
            decode=self._decode,
        )

    def beams(self, prompts: Sequence[Prompt]) -> Beams:
        """The beams of ``prompts``, ``decode.beam`` wide; only prompts that were not asked before
        are decoded.
        """
        from sidar.decode.beam import joined, row_of

        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._decoded]
        searcher = self.retriever
        width = max(1, min(self._decode.beam, len(self._index)))
        found = searcher.beams(missing, width)
        self._decoded |= {prompt: row_of(found, place) for place, prompt in enumerate(missing)}
        kept = [self._decoded[prompt] for prompt in prompts]
        return joined(kept, np.arange(len(kept)), searcher.trie)

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        """The k best items that the beams reach, as the bundle would score them."""
        from sidar.decode import to_hits

        searcher = self.retriever
        beams = self.beams(prompts)
        return to_hits(beams, self._index, k, shares=searcher.shares, allowed=searcher.allowed)

    def sid_ranking(self, prompts: Sequence[Prompt], beam: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, beam) SID numbers and log-probs: the same beams, cut at ``beam``."""
        found = self.beams(prompts)
        return found.sids[:, :beam], found.scores[:, :beam]

    @cached_property
    def _free(self) -> tuple[LmScorer, Trie]:
        """Scorer and trie of invalid mass: fp32, as a mass of thousands of terms should not carry
        bf16's rounding.
        """
        from sidar.decode import Trie
        from sidar.lm.scorer import LmScorer

        scorer = LmScorer(self.retriever.model, precision="fp32")
        return scorer, Trie(self._index, scorer.device)

    def invalid(
        self, prompts: Sequence[Prompt], seconds: float = math.inf
    ) -> dict[str, np.ndarray]:
        """Per query: exact invalid mass, and invalid shares of a free beam of 128 at 10 and 128
        (docs/evaluation.md).

        Stops after ``seconds`` at the end of a block of prompts: the values are then of the first
        of ``prompts`` alone, at least of one block.
        """
        import time

        deadline = time.monotonic() + seconds
        parts: list[dict[str, np.ndarray]] = []
        for at in range(0, len(prompts), MASS_BLOCK):
            parts.append(self._invalid(prompts[at : at + MASS_BLOCK]))
            if time.monotonic() > deadline:
                break
        return {
            name: np.concatenate([part[name] for part in parts])
            for name in (parts[0] if parts else ())
        }

    def _invalid(self, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
        from sidar.decode import free_beam_search, invalid_mass
        from sidar.decode.free import NOT_A_CODE

        scorer, trie = self._free
        tokens = self.retriever.model.prompts.encode_batch(prompts, self._sids)
        free = free_beam_search(scorer, tokens, trie, FREE_BEAM)
        return {
            "invalid_mass": invalid_mass(scorer, tokens, trie),
            "free_invalid@10": free.invalid_rate(10),
            f"free_invalid@{FREE_BEAM}": free.invalid_rate(FREE_BEAM),
            "free_not_code@10": (free.kind[:, :10] == NOT_A_CODE).sum(1)
            / (free.kind[:, :10] >= 0).sum(1),
        }
