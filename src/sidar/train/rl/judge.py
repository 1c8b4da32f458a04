"""Lists judged by a reward: which of a model's own answers it learns from, and which it leaves.

Iterative preference alignment as in OneRec [known]: the model answers with a beam, a reward scores
the answers, the best one against the worst ones is a preference. What the log says stays in the
list: its positives are positives whatever their reward, and the best answer takes the place of y_w*
only where it beats them all [reconstruction].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidar.decode import Beams
from sidar.index import PrefixIndex
from sidar.rewards import LoggedRequest, Reward
from sidar.types import Rollouts, SemanticIds


@dataclass(frozen=True)
class Verdict:
    """SID numbers of one list: ``star`` takes the place of y_w* (None = the log's stays), and
    ``worst`` are negatives, worst first; among equal rewards the model's best answer is first.
    """

    star: int | None
    worst: list[int]


class Judge:
    """Scores the answers of a beam and what was chosen by ``reward``."""

    def __init__(self, reward: Reward, index: PrefixIndex, sids: SemanticIds) -> None:
        self._reward, self._index = reward, index
        self._sid_of = index.lookup(sids.codes)  # (N,) by catalogue row, −1 = none

    def __call__(self, requests: Sequence[LoggedRequest], beams: Beams) -> list[Verdict]:
        """Return a verdict per request; ``beams`` are its answers, best first."""
        answers = Rollouts(beams.sids, beams.codes, beams.lengths, beams.scores, beams.level_logp)
        chosen = [self._chosen(request) for request in requests]
        of_answers = self._reward.score(requests, answers)
        of_chosen = self._reward.score(requests, self._as_rollouts(chosen))
        return [
            _verdict(sids, reward, right, worth[: len(right)])
            for sids, reward, right, worth in zip(
                beams.sids.tolist(), of_answers, chosen, of_chosen, strict=True
            )
        ]

    def _chosen(self, request: LoggedRequest) -> list[int]:
        """Return the SIDs of what a request chose, y_w* first."""
        numbers = (int(self._sid_of[row]) for row in request.tiers)
        return list(dict.fromkeys(number for number in numbers if number >= 0))

    def _as_rollouts(self, listed: Sequence[Sequence[int]]) -> Rollouts:
        """Return SIDs that the model has not written: their log-probs are not known."""
        width, levels = max(map(len, listed), default=0), self._index.n_levels
        sids = np.full((len(listed), width), -1, np.int64)
        for row, some in zip(sids, listed, strict=True):
            row[: len(some)] = some
        codes = np.where((sids >= 0)[..., None], self._index.table[sids], -1).astype(np.int32)
        logp = np.where(sids >= 0, np.nan, -np.inf)
        steps = np.full((*sids.shape, levels + 1), np.nan, np.float32)
        return Rollouts(sids, codes, (codes >= 0).sum(-1).astype(np.int32), logp, steps)


def _verdict(
    sids: Sequence[int], reward: np.ndarray, chosen: Sequence[int], worth: np.ndarray
) -> Verdict:
    """Judge one list: ``sids`` with ``reward`` (W,) against ``chosen`` with ``worth`` (n,)."""
    places = [place for place, sid in enumerate(sids) if sid >= 0 and sid not in chosen]
    best = max(places, key=lambda place: reward[place], default=None)
    star, bar = None, float(worth[0])
    if best is not None and reward[best] > worth.max():
        star, bar = sids[best], float(reward[best])
    below = [place for place in places if reward[place] < bar]
    below.sort(key=lambda place: reward[place])  # stable: equal ones keep the beam's order
    return Verdict(star, [sids[place] for place in below])
