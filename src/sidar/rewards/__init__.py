"""Rewards of SIDs that a policy wrote: what reinforcement learns from."""

from sidar.rewards.interface import ItemReward, LoggedRequest, Reward, RewardInputs

__all__ = ["ItemReward", "LoggedRequest", "Reward", "RewardInputs"]
