"""Rewards of SIDs that a policy wrote: what reinforcement learns from."""

from sidar.rewards.interface import ItemReward, LoggedRequest, Reward, RewardInputs
from sidar.rewards.registry import fitted_reward, register_reward

__all__ = [
    "ItemReward",
    "LoggedRequest",
    "Reward",
    "RewardInputs",
    "fitted_reward",
    "register_reward",
]
