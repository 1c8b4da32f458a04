"""Rewards by name: what ``align.reward`` in ``sidar.yaml`` means, and how a user adds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from sidar.config import AlignConfig
from sidar.extensions import REWARDS, check_class, check_function, check_name
from sidar.rewards.interface import CountError, ItemReward, LoggedRequest, Reward, RewardInputs
from sidar.types import Rollouts

#: A function of a request, rows and options: (n,) rewards of the rows (n,).
Scores = Callable[[LoggedRequest, np.ndarray, Any], np.ndarray]
T = TypeVar("T", bound="type[Reward] | Scores")


def register_reward(name: str, options: type[BaseModel] | None = None) -> Callable[[T], T]:
    """Return a decorator: ``align.reward: <name>`` trains with the class or function under it.

    A class is a :class:`~sidar.rewards.Reward`, mostly an :class:`~sidar.rewards.ItemReward`. A
    function ``(request, rows, options) -> (n,)`` scores the catalogue rows (n,) of one request; the
    reward of an SID is then the maximum over its available items. ``options``: the model of
    ``align.rewards.<name>``.
    """

    check_name(name, "register_reward")

    def add(part: T) -> T:
        reward: type[Reward] = part if isinstance(part, type) else _of_function(part)
        check_class(reward, Reward, "register_reward")
        if options is not None:
            reward.options_class = options
        REWARDS.add(name, reward, part.__module__, reward.options_class)
        return part

    return add


def _of_function(function: Any) -> type[Reward]:
    """Return a reward of items that calls ``function``."""
    check_function(function, "request", "rows", "options")

    class FunctionReward(ItemReward):
        def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
            return function(request, rows, self.options)

    return FunctionReward


def fitted_reward(align: AlignConfig, inputs: RewardInputs) -> Reward:
    """Return the reward that ``align.reward`` names, fitted; what a plug-in's returns is checked.

    Raises ``ValueError`` where ``fit`` of a plug-in does not return the reward.
    """
    name = align.reward
    fitted = REWARDS[name](align.rewards.section(name)).fit(inputs)
    if not REWARDS.is_external(name):
        return fitted
    if not isinstance(fitted, Reward):
        raise _fault(name, f"fit must return self, got {type(fitted).__name__}")
    return CheckedReward(name, fitted)


class CheckedReward(Reward):
    """A plug-in's reward; ``ValueError`` names its file where what it returns is no reward."""

    def __init__(self, name: str, reward: Reward) -> None:
        super().__init__()
        self._name, self._reward = name, reward

    @property
    def relative(self) -> bool:  # type: ignore[override]  # that of the plug-in's class
        return self._reward.relative

    def score(self, requests: Sequence[LoggedRequest], rollouts: Rollouts) -> np.ndarray:
        try:
            scores = np.asarray(self._reward.score(requests, rollouts))
        except CountError as error:
            raise _fault(self._name, str(error)) from None
        want = rollouts.sids.shape
        if scores.shape != want or scores.dtype.kind not in "biuf":
            raise _fault(
                self._name,
                f"must return a number per SID, {want}, got {scores.dtype} {scores.shape}",
            )
        if not np.isfinite(scores).all():
            b, g = np.argwhere(~np.isfinite(scores))[0]
            request = requests[b].request_id or requests[b].prompt.query
            raise _fault(
                self._name,
                f"returned {scores[b, g]} for SID {rollouts.sids[b, g]} of request {request!r}; "
                "want finite numbers",
            )
        return scores.astype(np.float64)


def _fault(name: str, says: str) -> ValueError:
    """Return an error that names the reward and the file of the plug-in."""
    return ValueError(f"align.reward {name!r} ({REWARDS.file(name)}): {says}")
