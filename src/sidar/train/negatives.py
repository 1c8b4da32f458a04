"""Hard negatives from the model itself: what the SFT model would have answered and nobody clicked.

For logs without impressions (``preference.negatives: beam``).  The answers come from a frozen copy of the SFT model,
so a list's negatives are a function of the list: nothing to store, nothing that a resume could change.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidar.decode import beam_search
from sidar.decode.trie import Trie
from sidar.index import PrefixIndex
from sidar.lm.model import SidLM
from sidar.lm.scorer import LmScorer
from sidar.train.examples import LogStream


class BeamNegatives:
    """The best ``width`` SIDs of a constrained beam for each list, as one catalogue row each, best first.

    Those that are positives of the list are dropped where lists become candidates (and counted there).
    """

    def __init__(self, model: SidLM, index: PrefixIndex, width: int) -> None:
        self._scorer, self._index, self._width = LmScorer(model), index, width
        self._trie = Trie(index, model.device)
        self._builder = model.prompts

    def __call__(self, lists: LogStream, indices: Sequence[int]) -> list[list[int]]:
        """Rows for each of ``indices`` of ``lists``."""
        prompts = self._builder.encode_batch(lists.prompts(indices), lists.sids)
        beams = beam_search(self._scorer, prompts, self._trie, self._width)
        first = self._index.rows[self._index.rows_start[:-1]]  # one row per SID; rows become SIDs again at packing
        return [[int(first[s]) for s in found if s >= 0] for found in beams.sids]
