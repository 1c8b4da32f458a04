"""Hard negatives from the model itself: what the model would have answered and nobody clicked.

For logs without impressions, and for iterative preference alignment (``preference.negatives:
beam``).  The answers come from a frozen copy of the model: of the SFT model for the whole run, or
with ``preference.refresh_every: n`` of the model as it was after the last multiple of n steps.
With ``preference.judge`` a reward says which of them are negatives, and which is even better than
what was chosen (:mod:`sidar.train.rl.judge`).
Between two refreshes a list's negatives are a function of the list, whatever batch it is in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sidar.decode import beam_search
from sidar.decode.trie import Trie
from sidar.fitting.checkpoint import trainable
from sidar.index import PrefixIndex
from sidar.lm.model import SidLM
from sidar.lm.scorer import LmScorer
from sidar.train.examples import LogStream
from sidar.train.rl.judge import Judge

#: Widest beam for one list; a request with more positives may end up without negatives and then
#: trains SFT only.
WIDEST = 512


class BeamNegatives:
    """The best ``width`` SIDs of a constrained beam for each list, as one catalogue row each, best
    first.  ``model``, which answers, is a frozen copy; :meth:`refresh` moves it.

    Those that are positives of the list are dropped where lists become candidates (and counted
    there).  A list with more positives than ``max_positives`` gets a beam that is wider by a power
    of two, because the best answers may all be among its positives.
    """

    def __init__(
        self,
        model: SidLM,
        index: PrefixIndex,
        width: int,
        max_positives: int,
        judge: Judge | None = None,
    ) -> None:
        self.model, self._index, self._width = model, index, width
        self._max_positives, self._judge = max_positives, judge
        self._scorer = LmScorer(model)
        self._trie = Trie(index, model.device)
        self._builder = model.prompts

    def __call__(self, lists: LogStream, indices: Sequence[int]) -> list[list[int]]:
        """Rows for each of ``indices`` of ``lists``: its negatives."""
        return self.mined(lists, indices)[0]

    def mined(
        self, lists: LogStream, indices: Sequence[int]
    ) -> tuple[list[list[int]], list[int | None]]:
        """Rows for each of ``indices`` of ``lists``: its negatives, and a y_w* that is better than
        what was chosen, or None.
        """
        prompts = self._builder.encode_batch(lists.prompts(indices), lists.sids)
        # one row per SID; rows become SIDs again at packing
        first = self._index.rows[self._index.rows_start[:-1]]
        widths = [self._width_for(count) for count in lists.positive_counts(indices)]
        negatives: list[list[int]] = [[] for _ in indices]
        stars: list[int | None] = [None for _ in indices]
        for width in sorted(set(widths)):
            places = [place for place, wanted in enumerate(widths) if wanted == width]
            beams = beam_search(
                self._scorer, [prompts[place] for place in places], self._trie, width
            )
            answers = [[sid for sid in sids if sid >= 0] for sids in beams.sids.tolist()]
            if self._judge is not None:
                requests = lists.requests([indices[place] for place in places])
                verdicts = self._judge(requests, beams)
                answers = [verdict.worst for verdict in verdicts]
                for place, verdict in zip(places, verdicts, strict=True):
                    if verdict.star is not None:
                        stars[place] = int(first[verdict.star])
            for place, sids in zip(places, answers, strict=True):
                negatives[place] = [int(first[sid]) for sid in sids]
        return negatives, stars

    def refresh(self, now: SidLM) -> None:
        """Answer with the weights that ``now`` has at this moment."""
        with torch.no_grad():
            for name, weight in trainable(now).items():
                self.model.get_parameter(name).copy_(weight)
        self.reread()

    def reread(self) -> None:
        """Search with the weights of :attr:`model`, which somebody has just filled."""
        self._scorer = LmScorer(self.model)  # its engine holds copies

    def _width_for(self, positives: int) -> int:
        """Beam of a list with that many positives: a function of the list alone, with few different
        values.
        """
        width = self._width
        while width < min(self._width - self._max_positives + positives, WIDEST):
            width *= 2
        return width
