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


class CountError(ValueError):
    """A reward of items gave another number of values than it was given items."""


class Reward(ABC):
    """A reward of SIDs. ``options_class`` holds what a user sets, as a pydantic model.

    ``relative``: the reward of an SID depends on the others of its group, so that a group must not
    be scored together with other SIDs.
    """

    options_class: ClassVar[type[BaseModel] | None] = None
    relative: ClassVar[bool] = False

    def __init__(self, options: BaseModel | Mapping[str, Any] | None = None) -> None:
        self.options: Any = checked_options(self.options_class, options)

    def fit(self, inputs: RewardInputs) -> Self:
        """Read what the reward is made of; the default keeps the index."""
        self.index = inputs.index
        self.alive = inputs.dataset.catalogue.alive
        return self

    @abstractmethod
    def score(self, requests: Sequence[LoggedRequest], rollouts: Rollouts) -> np.ndarray:
        """Return (B, G) float64 rewards; finite for every SID, invalid ones included.

        ``rollouts.sids`` says what is scored. Log-probs are NaN for SIDs that the model has not
        written for this request: choices of the log, and SIDs of other requests.
        """


class ItemReward(Reward):
    """A reward of items. R(SID) is the maximum over the SID's available items.

    ``pool = "mean"`` is the switch; ``invalid`` is the reward of what is no SID of the index.
    """

    pool: Literal["max", "mean"] = "max"
    invalid: float = 0.0

    @abstractmethod
    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        """Return (n,) float64 rewards of catalogue rows (n,) int64 for one request."""

    def batch_scores(
        self, requests: Sequence[LoggedRequest], rows: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the rewards of each request's rows; override it to ask for all of them at once."""
        return [
            self.item_scores(request, some) if len(some) else np.zeros(0)
            for request, some in zip(requests, rows, strict=True)
        ]

    def score(self, requests: Sequence[LoggedRequest], rollouts: Rollouts) -> np.ndarray:
        members = [[self._available(int(sid)) for sid in sids] for sids in rollouts.sids]
        rows = [np.concatenate([*parts, np.zeros(0, np.int64)]) for parts in members]
        scores = self.batch_scores(requests, [some.astype(np.int64) for some in rows])
        rewards = np.full(rollouts.sids.shape, self.invalid, np.float64)
        for b, (parts, values) in enumerate(zip(members, scores, strict=True)):
            counts = np.array([len(part) for part in parts])
            if np.shape(values) != (counts.sum(),):
                raise CountError(
                    f"must return a number per item, ({counts.sum()},), got {np.shape(values)}"
                )
            some = np.flatnonzero(counts)
            if len(some):
                starts = np.cumsum(counts[some]) - counts[some]
                pooled = np.maximum if self.pool == "max" else np.add
                pieces = pooled.reduceat(np.asarray(values, np.float64), starts)
                rewards[b, some] = pieces if self.pool == "max" else pieces / counts[some]
        return rewards

    def _available(self, sid: int) -> np.ndarray:
        """Return the rows of an SID's items that are still sold; none for SID −1."""
        if sid < 0:
            return np.zeros(0, np.int64)
        start, stop = self.index.rows_start[sid : sid + 2]
        rows = self.index.rows[start:stop]
        return rows[self.alive[rows]]
