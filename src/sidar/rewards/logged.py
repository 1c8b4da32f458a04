"""Rewards that the log gives by itself: what was chosen, what was shown, and the rule of a rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from sidar.config import GradedConfig
from sidar.rewards.interface import ItemReward, LoggedRequest, Reward, RewardInputs
from sidar.rewards.registry import register_reward
from sidar.types import Rollouts


@register_reward("graded")
class Graded(ItemReward):
    """The graded reward of EG-GRPO: the first that an item matches.

    Ordered 1, clicked 1, shown and not chosen .5, any other product .1, no product 0 [source: N1,
    N2]; carted counts as clicked [reconstruction: the paper knows no carts].
    """

    options_class = GradedConfig

    def fit(self, inputs: RewardInputs) -> Self:
        self.pool, self.invalid = self.options.pool, self.options.invalid
        return super().fit(inputs)

    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        options = self.options
        by_tier = {3: options.order, 2: options.cart, 1: options.click}
        matched = dict.fromkeys(request.exposed, options.exposed)
        matched |= {row: by_tier[tier] for row, tier in request.tiers.items()}
        return np.array([matched.get(int(row), options.valid) for row in rows], np.float64)


@register_reward("rule")
class Rule(ItemReward):
    """1 for an SID that holds a chosen item, else 0."""

    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        return np.isin(rows, list(request.tiers)).astype(np.float64)


@register_reward("ranking")
class Ranking(Reward):
    """The rule, and a penalty of wrong SIDs by their rank in the group (MiniOneRec).

        R(o_i) = 1 where o_i is right; else −(1 / log2(i + 2)) / Σ_k 1 / log2(k + 2), if some SID of
        the group is right, and 0 if none is                        [source: MiniOneRec code]

    Rank i counts from 0 in falling log-probability; SIDs that the model has not written come last,
    and equal ones keep the order in which they are listed. Padding has no rank.
    """

    relative = True

    def fit(self, inputs: RewardInputs) -> Self:
        self._rule = Rule().fit(inputs)
        return super().fit(inputs)

    def score(self, requests: Sequence[LoggedRequest], rollouts: Rollouts) -> np.ndarray:
        right = self._rule.score(requests, rollouts) > 0  # (B, G)
        there = rollouts.logp != -np.inf
        known = np.nan_to_num(rollouts.logp, nan=np.finfo(np.float64).min, neginf=-np.inf)
        rank = np.argsort(np.argsort(-known, axis=1, kind="stable"), axis=1)
        discount = np.where(there, 1 / np.log2(rank + 2), 0.0)
        total = discount.sum(1, keepdims=True)
        penalty = np.where(right.any(1, keepdims=True), discount / np.where(total, total, 1.0), 0.0)
        return np.where(right, 1.0, -penalty)
