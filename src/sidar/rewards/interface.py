"""What a reward is: a score for every SID of a group that was written for a logged request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel

from sidar.data.dataset import Dataset
from sidar.extensions import checked_options
from sidar.index import PrefixIndex
from sidar.types import Prompt, Rollouts


@dataclass(frozen=True)
class LoggedRequest:
    """One request of the training days with what was shown and chosen.

    ``tiers`` maps the catalogue row of every chosen item to its action (3 order, 2 cart, 1 click);
    ``exposed`` are the rows that were shown and not chosen.
    """

    prompt: Prompt
    tiers: Mapping[int, int] = field(default_factory=dict)
    exposed: tuple[int, ...] = ()
    request_id: str = ""
    ts: int = 0  # µs UTC


@dataclass(frozen=True)
class RewardInputs:
    """What a reward may look at; it is fitted on training days only.

    ``run`` is the folder of the run, where a reward such as the ranker finds its stage's files.
    """

    dataset: Dataset
    index: PrefixIndex
    run: Path
    seed: int = 0
    device: str = "cpu"


class Reward(ABC):
    """A reward of SIDs. ``options_class`` holds what a user sets, as a pydantic model."""

    options_class: ClassVar[type[BaseModel] | None] = None

    def __init__(self, options: BaseModel | Mapping[str, Any] | None = None) -> None:
        self.options: Any = checked_options(self.options_class, options)

    def fit(self, inputs: RewardInputs) -> Self:
        """Read what the reward is made of; the default keeps the index."""
        self.index = inputs.index
        self.alive = inputs.dataset.catalogue.alive
        return self

    @abstractmethod
    def score(self, requests: Sequence[LoggedRequest], rollouts: Rollouts) -> np.ndarray:
        """Return (B, G) float64 rewards; finite for every SID, invalid ones included."""


class ItemReward(Reward):
    """A reward of items. R(SID) is the maximum over the SID's available items.

    ``pool = "mean"`` is the switch; ``invalid`` is the reward of what is no SID of the index.
    """

    pool: Literal["max", "mean"] = "max"
    invalid: float = 0.0

    @abstractmethod
    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        """Return (n,) float64 rewards of catalogue rows (n,) int64 for one request."""

    def score(self, requests: Sequence[LoggedRequest], rollouts: Rollouts) -> np.ndarray:
        rewards = np.full(rollouts.sids.shape, self.invalid, np.float64)
        for b, request in enumerate(requests):
            known = np.flatnonzero(rollouts.sids[b] >= 0)
            members = [self._available(int(sid)) for sid in rollouts.sids[b, known]]
            counts = np.array([len(rows) for rows in members])
            if not counts.sum():
                continue
            scores = self.item_scores(request, np.concatenate(members))
            some = np.flatnonzero(counts)
            starts = np.concatenate([[0], np.cumsum(counts[some])[:-1]])
            if self.pool == "max":
                pooled = np.maximum.reduceat(scores, starts)
            else:
                pooled = np.add.reduceat(scores, starts) / counts[some]
            rewards[b, known[some]] = pooled
        return rewards

    def _available(self, sid: int) -> np.ndarray:
        """Return the rows of an SID's items that are still sold."""
        start, stop = self.index.rows_start[sid : sid + 2]
        rows = self.index.rows[start:stop]
        return rows[self.alive[rows]]
